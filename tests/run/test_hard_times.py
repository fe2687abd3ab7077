"""What comes over a run from outside: disks that fill or may not be written, terminals that close."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest
from helpers import Wanwrap
from platforms import linux, posix
from runs import NAME, WHOLE, alive, begin, ended, loras, saved, told, until
from trouble import closed, leave, read_only, small_drive

from wanwrap.system import disk

pytestmark = linux
Words = tuple[object, ...]
SLOW = "0.1"  # seconds a step


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Path]:
    """A small one, for the workspace; to be there before anything lies in that."""
    with small_drive(tmp_path / "home" / "local_training"):
        yield tmp_path / "home" / "local_training"


@contextmanager
def leaving(drive: Path, free: int) -> Iterator[None]:
    """Have so many bytes free meanwhile."""
    leave(drive, free)
    yield
    leave(drive, 10**10)


@pytest.mark.parametrize(
    ("trouble", "code", "noun", "again"),
    [
        (lambda home: leaving(home, disk.SPARE // 2), 13, "next state", "LoRAs and states"),
        (lambda home: leaving(home, 0), 13, "", ""),  # log, curves, record and LoRA: nothing can be written any more
        (lambda home: read_only(home / "outputs" / NAME), 11, "Read-only", "can't be written"),
    ],
)
def test_a_place_that_may_not_be_written_any_more(
    trouble: Callable[[Path], AbstractContextManager[None]],
    code: int,
    noun: str,
    again: str,
    drive: Path,
    tmp_path: Path,
    cli: Wanwrap,
    low: Words,
) -> None:
    """It ends in good order, refuses to go on, and goes on when that is mended."""
    with begin(tmp_path, *low, STANDIN_PACE=SLOW) as process:
        until(lambda: saved(tmp_path))
        with trouble(drive):
            text = ended(process, code)
            assert "Traceback" not in text.partition("Error: ")[0] and noun in text and "is kept" in text
            assert not alive(tmp_path)
            if again:
                refused = cli(*low)
                assert refused.returncode == code and again in refused.stderr, refused.stderr
    done = cli(*low)
    assert done.returncode == 0 and "going on from" in done.stderr, done.stderr
    assert loras(tmp_path) == WHOLE and told(tmp_path)["steps_done"] == 60


def test_a_terminal_that_is_closed(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    master, slave = posix.openpty()
    process = begin(tmp_path, *low, tty=slave, STANDIN_PACE=SLOW)
    os.close(slave)
    seen = closed(master, process, lambda: saved(tmp_path) > 0)
    assert process.wait(40) == 130
    until(lambda: not alive(tmp_path), 5)
    assert b"step " in seen and b" left" in seen and b"s/step" in seen
    assert told(tmp_path)["state"] == "interrupted"
    assert cli(*low).returncode == 0
    assert loras(tmp_path) == WHOLE


def test_the_watchdog_is_killed(tmp_path: Path, low: Words) -> None:
    """The training goes on, and another one watches it."""

    def watchdogs() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children()  # one that is dead has no command line any more
        return [each for each in children if "watchdog.py" in " ".join(each.as_dict(["cmdline"])["cmdline"] or ())]

    with begin(tmp_path, *low, STANDIN_PACE="0.3") as process:
        until(lambda: told(tmp_path).get("attempts") and watchdogs())
        (first,) = watchdogs()
        first.kill()
        until(lambda: any(each != first for each in watchdogs()), 5)
        process.kill()
    until(lambda: not alive(tmp_path), 5)
