"""Files that are there whole or not at all, and locks that end with their process. Standard library only."""

from __future__ import annotations

import codecs
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from wanwrap.errors import OutputError
from wanwrap.system import console

PART = ".wanwrap-part"  # no other program's ending
LOCK = ".lock"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
T = TypeVar("T")
# Seconds between tries. Windows lets nobody rename, remove or write what another program has open, and some let nobody
# read it: a scanner, the indexer, OneDrive, `wanwrap status`.
PATIENCE = (0.1, 0.4, 1.5, 4, 10, 20)
HELD = PATIENCE if sys.platform == "win32" else ()
TRIES = 10  # in half a second: `is_locked` holds a lock for a moment, which must not make a start fail


@contextmanager
def atomic_file(out: Path) -> Iterator[IO[bytes]]:
    """A file beside `out` that takes its place when whole, and goes when it does not get so far.

    Its name is always the same: what a power cut leaves is written over by the next attempt.

    Raises:
        OutputError: another process is writing it.
    """
    part = out.with_name(out.name + PART)
    try:
        with _held(part, f"another process is writing {part}; wait until it has ended.") as (file, _):
            try:
                file.truncate(0)
                yield file
                sync(file)
                put(file, part, out)
            except BaseException:  # Ctrl-C too
                if file.closed or _own(file, part):  # closed on Windows, and so nobody's any more
                    _let_go(file)
                    with suppress(OSError):
                        remove(part)
                raise
    except OSError as error:
        if error.filename in (None, str(part)):  # a full disk names none
            error.filename = str(out)
        raise


def decode(data: bytes) -> str:
    """A text in UTF-8, or by its mark in UTF-16, as PowerShell 5 and Windows' Editor write it. Raises UnicodeError."""
    return data.decode("utf-16" if data[:2] in UTF_16 else "utf-8-sig")


def write_atomic(path: Path, text: str | bytes) -> None:
    """Put a text there, with `\\n` alone between its lines."""
    with atomic_file(path) as file:  # a file's name may be no text
        file.write(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))


@contextmanager
def lock(place: Path, busy: str) -> Iterator[bool]:
    """One process alone, by an empty file beside `place` that goes with the block. False where the drive has no locks.

    Raises:
        OutputError: `busy`, as another process holds it.
    """
    with _held(_lock_file(place), busy) as (_, held):
        yield held


@contextmanager
def _held(path: Path, busy: str) -> Iterator[tuple[IO[bytes], bool]]:
    """A file that this process alone has, and whether the drive could lock it; it goes, unless it gets another name."""
    with patiently(lambda: open(path, "r+b", opener=_create)) as file:
        if (held := _lock(file)) is False or not _own(file, path):  # or it has just got its name
            raise OutputError(busy)
        try:
            yield file, bool(held)
        finally:
            if _own(file, path):
                _let_go(file)
                with suppress(OSError):  # on Windows the next one may have it already: no wait for that
                    path.unlink()


def is_locked(place: Path) -> bool | None:
    """Whether a process holds the lock of `place`; None where the drive has no locks, and nobody knows."""
    try:
        with opened(_lock_file(place)) as file:
            free = _try(file, shared=True)
            if free and sys.platform == "win32":  # elsewhere closing lets go at once
                import msvcrt

                with suppress(OSError):
                    msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
            return None if free is None else not free
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # another user's, or just going (Windows): starting would be worse


def sync(file: IO[bytes]) -> None:
    """Wait until all that was written is on the disk."""
    file.flush()
    getattr(os, "fdatasync", os.fsync)(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if sys.platform != "win32":
        place = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # not every network drive can
            os.fsync(place)
        os.close(place)


def patiently(act: Callable[[], T]) -> T:
    """What `act` gives, which may be refused for a while."""
    for wait in HELD:
        try:
            return act()
        except PermissionError as error:
            if wait > 1:
                console.say(
                    f"{error.filename} is in use by another program, or may not be read or written: trying again"
                )
        time.sleep(wait)
    return act()


def move(path: Path, out: Path) -> None:
    """Give a file or a folder another name, over a file of that name."""
    patiently(lambda: path.replace(out))


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    patiently(lambda: path.unlink(missing_ok=True))


def remove_tree(folder: Path) -> None:
    """Remove a folder, if it is there, with as much of what is in it as can be removed."""
    with suppress(OSError):
        for path in folder.rglob("*"):
            if not path.is_dir():
                remove(path)
    shutil.rmtree(folder, ignore_errors=True)


def opened(path: Path, mode: str = "rb", buffering: int = -1) -> IO[bytes]:
    """A file to be read, or written as `mode` says, as `Path.open` does it."""
    return patiently(lambda: path.open(mode, buffering))


def put(file: IO[bytes], part: Path, out: Path) -> None:
    """Give the whole file its name, and see to it that the name is on the disk too."""
    if not _own(file, part):
        raise OutputError(f"{part} has been removed while it was written; try again.")
    _let_go(file)
    move(part, out)
    sync_folder(out.parent)


def _lock_file(place: Path) -> Path:
    return place.with_name(place.name + LOCK)


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _own(file: IO[bytes], part: Path) -> bool:
    """Whether the name is still this file's: somebody may have removed it, and another process begun anew."""
    with suppress(FileNotFoundError):
        return not file.closed and part.stat().st_ino == os.fstat(file.fileno()).st_ino
    return False


def _let_go(file: IO[bytes]) -> None:
    """Windows renames and removes no open file; elsewhere the lock is held until all is done."""
    if sys.platform == "win32":
        file.close()


def _lock(file: IO[bytes]) -> bool | None:
    for _ in range(TRIES):
        if (held := _try(file)) is not False:
            return held
        time.sleep(0.05)
    return False


def _try(file: IO[bytes], *, shared: bool = False) -> bool | None:
    """Lock without waiting: False where another process has it, None where the drive has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True
