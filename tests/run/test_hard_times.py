"""What comes over a run from outside: disks that fill or may not be written, terminals that close, clocks that jump."""

from __future__ import annotations

import os
import pty
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from helpers import Wanwrap
from runs import NAME, WHOLE, alive, begin, ended, folder, loras, saved, told, until
from trouble import closed, from_the_future, leave, read_only, small_drive

from wanwrap.system import disk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, terminals and limits as Linux has them")
Words = tuple[object, ...]
SLOW = "0.1"  # seconds a step


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Path]:
    """A small one, for the workspace."""
    with small_drive(tmp_path / "home" / "local_training"):
        yield tmp_path / "home" / "local_training"


def test_a_disk_that_fills_ends_it_before_the_next_save(
    tmp_path: Path, wanwrap: Wanwrap, low: Words, drive: Path
) -> None:
    with begin(tmp_path, *low, STANDIN_PACE=SLOW) as process:
        until(lambda: saved(tmp_path))
        leave(drive, disk.SPARE // 2)
        text = ended(process, 13)
    assert "needed for the next state and LoRA" in text and "is kept" in text
    assert not alive(tmp_path)
    full = wanwrap(*low)
    assert full.returncode == 13 and "LoRAs and states" in full.stderr
    leave(drive, 10**10)
    assert wanwrap(*low).returncode == 0
    assert loras(tmp_path) == WHOLE and told(tmp_path)["steps_done"] == 60


def test_a_disk_that_is_full_to_the_last_byte(tmp_path: Path, wanwrap: Wanwrap, low: Words, drive: Path) -> None:
    """Log, curves, record and LoRA: nothing can be written any more."""
    with begin(tmp_path, *low, STANDIN_PACE=SLOW) as process:
        until(lambda: saved(tmp_path))
        leave(drive, 0)
        text = ended(process, 13)
    assert "Traceback" not in text.partition("Error: ")[0] and "is kept" in text and not alive(tmp_path)
    leave(drive, 10**10)
    done = wanwrap(*low)
    assert done.returncode == 0 and re.search("going on from [2468]", done.stderr), done.stderr
    assert loras(tmp_path) == WHOLE


@pytest.mark.usefixtures("drive")  # root can do that
def test_a_folder_that_may_not_be_written_any_more(tmp_path: Path, wanwrap: Wanwrap, low: Words) -> None:
    with begin(tmp_path, *low, STANDIN_PACE=SLOW) as process:
        until(lambda: saved(tmp_path))
        with read_only(folder(tmp_path)):
            text = ended(process, 11)
            assert "Read-only file system" in text and "is kept" in text
            assert "Traceback" not in text.partition("Error: ")[0] and not alive(tmp_path)
            refused = wanwrap(*low)
            assert refused.returncode == 11 and "can't be written" in refused.stderr, refused.stderr
    assert wanwrap(*low).returncode == 0
    assert loras(tmp_path) == WHOLE


def test_a_terminal_that_is_closed(tmp_path: Path, wanwrap: Wanwrap, low: Words) -> None:
    master, slave = pty.openpty()
    process = begin(tmp_path, *low, tty=slave, STANDIN_PACE=SLOW)
    os.close(slave)
    seen = closed(master, process, lambda: saved(tmp_path) > 0)
    assert process.wait(40) == 130
    until(lambda: not alive(tmp_path), 5)
    assert b"step " in seen and b" left" in seen and b"s/step" in seen
    assert told(tmp_path)["state"] == "interrupted"
    assert wanwrap(*low).returncode == 0
    assert loras(tmp_path) == WHOLE


def test_a_clock_that_is_set_back(tmp_path: Path, wanwrap: Wanwrap, low: Words) -> None:
    """What was written seems to come from the future: nothing is decided by times."""
    with begin(tmp_path, *low, STANDIN_PACE=SLOW) as process:
        until(lambda: saved(tmp_path) >= 4)
        process.kill()
    until(lambda: not alive(tmp_path), 5)
    from_the_future(folder(tmp_path))
    assert "killed" in wanwrap("status", NAME).stdout
    done = wanwrap(*low)
    assert done.returncode == 0 and re.search("going on from [468]", done.stderr), done.stderr
    assert loras(tmp_path) == WHOLE


def chain(pid: int) -> list[psutil.Process]:
    """A process and those below it, each of which has one beside the watchdog and multiprocessing's own."""
    found = [psutil.Process(pid)]
    beside = ("watchdog.py", "resource_tracker")
    with suppress(psutil.Error):  # one that has just ended
        while below := [
            each for each in found[-1].children() if not any(n in " ".join(each.cmdline()) for n in beside)
        ]:
            found.append(below[0])
    return found


def test_the_watchdog_is_killed(tmp_path: Path, low: Words) -> None:
    """The training goes on, and another one watches it."""

    def watchdogs() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children()  # one that is dead has no command line any more
        return [each for each in children if "watchdog.py" in " ".join(each.as_dict(["cmdline"])["cmdline"] or ())]

    with begin(tmp_path, *low, STANDIN_PACE=SLOW) as process:
        until(lambda: told(tmp_path).get("steps_done"))
        (first,) = watchdogs()
        first.kill()
        until(lambda: any(each != first for each in watchdogs()), 5)
        process.kill()
    until(lambda: not alive(tmp_path), 5)


@pytest.mark.parametrize("depth", [1, 2])
def test_each_of_its_processes_is_killed(depth: int, tmp_path: Path, wanwrap: Wanwrap, low: Words) -> None:
    """Accelerate's launcher, the trainer: whichever dies, all of it ends, and goes on the next time."""
    with begin(tmp_path, *low, STANDIN_PACE="0.3") as process:
        until(lambda: len(chain(process.pid)) > 2 and told(tmp_path).get("steps_done"))
        chain(process.pid)[depth].kill()
        assert "was ended by SIGKILL" in ended(process, 10)
    until(lambda: not alive(tmp_path), 5)
    assert wanwrap(*low).returncode == 0
    assert loras(tmp_path) == WHOLE
