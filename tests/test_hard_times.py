"""What comes over a run from outside: disks that fill or may not be written, terminals that close, clocks that jump."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import Wanwrap
from runs import NAME, WHOLE, alive, begin, ended, folder, loras, saved, told, until

from wanwrap.system import disk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts, terminals and limits as Linux has them")
Words = tuple[object, ...]
SLOW = "0.1"  # seconds a step


@contextmanager
def small_drive(place: Path) -> Iterator[None]:
    """A drive of its own at that place, with as much room as `leave` leaves; making one takes root."""
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20g", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no drive can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def leave(drive: Path, free: int) -> None:
    """Have so many bytes free; 0: not one."""
    while True:  # files grow and go
        size = shutil.disk_usage(drive).used + free
        done = subprocess.run(["mount", "-o", f"remount,size={size}", str(drive)], capture_output=True)
        if done.returncode == 0 and (free or not shutil.disk_usage(drive).free):
            return


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """As a drive is that the system has found errors on. What is open for writing stays so."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def closed(terminal: int, process: subprocess.Popen[Any], due: Callable[[], bool]) -> bytes:
    """What was on a terminal until it was closed, as soon as that is due."""
    seen = b""
    os.set_blocking(terminal, False)
    try:
        while not due():
            assert process.poll() is None, seen.decode()
            with suppress(BlockingIOError):
                seen += os.read(terminal, 65536)
            time.sleep(0.05)
    finally:
        os.close(terminal)
    return seen


def from_the_future(folder: Path) -> None:
    """As what a run has written is when the clock has been set back."""
    for path in folder.rglob("record.json"):
        path.write_text(re.sub(r'"20(\d\d-\d\d-)', r'"21\1', path.read_text()))
    for path in folder.rglob("*"):
        os.utime(path, (3_000_000_000, 3_000_000_000))


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
