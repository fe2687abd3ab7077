"""Files that are there whole or not at all, whatever happens while they are written. Standard library only."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from wanwrap.errors import OutputError

PART = ".wanwrap-part"  # no other program's ending


@contextmanager
def whole(out: Path) -> Iterator[IO[bytes]]:
    """A file beside `out` that takes its place when whole, and goes when it does not get so far.

    Its name is always the same: what a power cut leaves is written over by the next attempt.

    Raises:
        OutputError: another process is writing it.
    """
    part = out.with_name(out.name + PART)
    with open(part, "r+b", opener=_create) as file:
        _lock(file, part)
        try:
            file.truncate(0)
            yield file
            sync(file)
            put(file, part, out)
        except BaseException:
            if _own(file, part):
                _let_go(file)
                with suppress(OSError):
                    part.unlink()
            raise


@contextmanager
def held(place: Path, why: str) -> Iterator[None]:
    """One process alone; the lock ends with the process, and its file with the block. Raises OutputError: `why`."""
    part = place.with_name(place.name + PART)
    with open(part, "r+b", opener=_create) as file:
        _lock(file, part, why)
        try:
            yield
        finally:
            if _own(file, part):
                _let_go(file)
                with suppress(OSError):
                    part.unlink()


def running(folder: Path) -> bool:
    """Whether a wanwrap is at work on the run in this folder: it holds `run` there as long as it lives.

    After a power cut the file may be there still, and nobody holds it.
    """
    try:
        with (folder / f"run{PART}").open("rb") as file:
            free = _locked(file, "LOCK_SH")
            if free and sys.platform == "win32":  # elsewhere closing lets go at once
                import msvcrt

                with suppress(OSError):
                    msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
            return not free
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # another user's, or just going (Windows): there is no telling, and starting would be worse


def write_whole(path: Path, text: str) -> None:
    """Put a text there, with `\\n` alone between its lines."""
    with whole(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))  # a file's name may be no text


def _let_go(file: IO[bytes]) -> None:
    """Windows renames and removes no open file; elsewhere the lock is held until all is done."""
    if sys.platform == "win32":
        file.close()


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def sync(file: IO[bytes]) -> None:
    """Wait until all that was written is on the disk."""
    file.flush()
    getattr(os, "fdatasync", os.fsync)(file.fileno())


def _own(file: IO[bytes], part: Path) -> bool:
    """Whether the name is still this file's: somebody may have removed it, and another process begun anew."""
    return not file.closed and part.exists() and part.stat().st_ino == os.fstat(file.fileno()).st_ino


def _replace(part: Path, out: Path) -> None:
    """Windows refuses that as long as somebody reads the old file: `wanwrap status`, a scanner."""
    for wait in (0.1, 0.4, 1.5) if sys.platform == "win32" else ():
        with suppress(PermissionError):
            part.replace(out)
            return
        time.sleep(wait)
    part.replace(out)


def put(file: IO[bytes], part: Path, out: Path) -> None:
    """Give the whole file its name, and see to it that the name is on the disk too."""
    if not _own(file, part):
        raise OutputError(f"{part} has been removed while it was written; try again.")
    _let_go(file)
    _replace(part, out)
    if sys.platform != "win32":
        folder = os.open(out.parent, os.O_RDONLY)
        with suppress(OSError):  # not every network drive can
            os.fsync(folder)
        os.close(folder)


def _lock(file: IO[bytes], part: Path, why: str = "") -> None:
    """Hold the file as long as this process lives. Raises OutputError: another one does.

    It tries for half a second: `running` holds a lock for a moment, and must not make a start fail.
    """
    tries = 10
    while not (got := _locked(file, "LOCK_EX")) and (tries := tries - 1):
        time.sleep(0.05)
    if not got or not _own(file, part):  # or it has just got its name
        raise OutputError(f"{why or f'another process is writing {part}'}; wait until it has ended.")


def _locked(file: IO[bytes], how: str) -> bool:
    """Lock without waiting: False where another process has it. On a drive that knows no locks always True."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, getattr(fcntl, how) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True
