"""Free disk and memory, asked for before anything large is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from wanwrap.errors import OutputError, RoomError
from wanwrap.system.files import PART

MEMORY = 1_000_000_000  # bytes that a rewrite takes at most, whatever the file's size (scripts/bench.py)
SPARE = 100_000_000  # headers, logs, records


def writable(folder: Path) -> Path:
    """The folder, or the nearest one above that is there. Raises OutputError: nothing can be written to it."""
    place = nearest(folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"{place} can't be written to; give another place.")
    return place


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above that is there; the folder itself on a drive that is not there."""
    return next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)


def check(folder: Path, needed: int, within: Iterable[Path] = ()) -> None:
    """Whether `needed` bytes can be written below `folder`; what attempts at `within` have left counts as free.

    Raises:
        OutputError: it can't be written to.
        RoomError: too little disk, or too little memory for the rewrite itself.
    """
    import psutil

    if why := lacking(folder, needed, within, option="--out"):
        raise RoomError(why)
    if (available := psutil.virtual_memory().available) < MEMORY:
        raise RoomError(f"{available / 1e9:.1f} GB of memory are free and 1 GB is needed; close other programs.")


def lacking(
    folder: Path, needed: int, within: Iterable[Path] = (), what: str = "to be written", option: str = "--base_dir"
) -> str | None:
    """Why the disk is too small, and a way out: an `option` that names another place; None where it is not.

    Raises:
        OutputError: it can't be written to.
    """
    place = writable(folder)
    left = sum(part.stat().st_size for out in within if (part := out.with_name(out.name + PART)).is_file())
    disk = shutil.disk_usage(place)
    if not disk.total:
        raise OutputError(f"{place} is no place for files; give another place.")
    free = disk.free + left
    if free >= needed + SPARE:
        return None
    return (
        f"{place} has {large(free)} free, and {large(needed + SPARE)} are {what}; make room, or give a place on "
        f"another disk ({option})."
    )


def large(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
