"""Files that are there whole or not at all, whatever happens while they are written. Standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from wanwrap.errors import OutputError

PART = ".part"


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
            if sys.platform != "win32":
                _put(part, out)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
    if sys.platform == "win32":  # renames no open file
        _put(part, out)


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def sync(file: IO[bytes]) -> None:
    """Wait until all that was written is on the disk."""
    file.flush()
    getattr(os, "fdatasync", os.fsync)(file.fileno())


def _put(part: Path, out: Path) -> None:
    """Give the whole file its name, and see to it that the name is on the disk too."""
    part.replace(out)
    if sys.platform != "win32":
        folder = os.open(out.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _lock(file: IO[bytes], part: Path) -> None:
    """Hold the file as long as this process lives. Raises OutputError: another one does."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if part.stat().st_ino != os.fstat(file.fileno()).st_ino:
            raise OSError("it has just been given its name")
    except OSError as error:
        raise OutputError(f"another process is writing {part}; wait until it has ended.") from error
