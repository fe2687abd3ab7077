"""Media looked at in parallel, each file once: what was found is kept in the user's cache, a file for each folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanwrap.data.media import Item, Kind, Unfit, content_mark, why
from wanwrap.errors import OutputError

if TYPE_CHECKING:
    from concurrent.futures import Executor

VERSION = 4  # of what `pictures.read` and `clips.read` find
FRESH = 2.0  # seconds: a file written this lately may be written again without another time
NOT_KEPT = {"path", "caption"}
Read = tuple[Path, "Item | str", "dict[str, Any] | None"]


def probe(
    paths: Iterable[Path], kind: Kind, *, whole: bool = False, done: Callable[[], object] = bool
) -> dict[Path, Item | str]:
    """Each file's Item, or why it can't be trained; with `whole` every file is decoded to its end. `done` hears of each.

    Upstream decodes each file while caching, and ends the run at the first damaged one.
    """
    found = dict[Path, Item | str]()
    folders = dict[Path, list[Path]]()
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    for folder, inside in folders.items():
        with _kept(folder) as rows:
            found |= _folder(inside, kind, whole, rows, done)
    return {path: found[path] for inside in folders.values() for path in inside}


def _folder(
    paths: list[Path], kind: Kind, whole: bool, rows: dict[str, Any], done: Callable[[], object]
) -> dict[Path, Item | str]:
    """What is known at once, the rest in parallel."""
    found = dict[Path, Item | str]()
    for path in paths:
        if item := _known(path, whole, rows):
            found[path] = item
            done()

    rest = [path for path in paths if path not in found]
    for path, read_as, row in _in_parallel(partial(_read, kind=kind, whole=whole), rest) if rest else ():
        found[path] = read_as
        if row:
            rows[path.name] = row
        done()
    return found


def _in_parallel(one: Callable[[Path], Read], paths: list[Path]) -> Iterator[Read]:
    pool = _processes() if _apart else _threads()
    try:
        yield from _as_read(pool, one, paths)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the files that are being read alone


def _as_read(pool: Executor, one: Callable[[Path], Read], paths: list[Path]) -> Iterator[Read]:
    """Each as soon as it is read."""
    from concurrent.futures import as_completed

    return (future.result() for future in as_completed([pool.submit(one, path) for path in paths]))


def _threads() -> Executor:
    from concurrent.futures import ThreadPoolExecutor  # a dry run whose files are all known waits for nothing

    return ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2))  # more would hold too many frames


def _processes() -> Executor:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(min(4, os.cpu_count() or 1), context, initializer=_deaf)


def _deaf() -> None:
    """Ctrl-C is the business of the process that waits."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def read_apart() -> None:
    """From now on files are read in processes of their own: decoders take 30 MB, which would be held all night."""
    global _apart
    _apart = True


_apart = False


def _known(path: Path, whole: bool, rows: dict[str, Any]) -> Item | None:
    with suppress(OSError, KeyError, TypeError, ValueError):  # gone, unknown, or a row of somebody else's making
        row, stamp = rows[path.name], stamp_of(path)
        if row["whole"] < whole or (row["stamp"] != stamp and not _touched(path, row, stamp)):
            return None
        if row["stamp"] != stamp:
            rows[path.name] = {**row, "stamp": stamp}
        return _item(path, row["item"])
    return None


def _touched(path: Path, row: dict[str, Any], stamp: list[int]) -> bool:
    """Whether only what is beside the content has changed: rights, or another link to the file."""
    size, mtime, _, inode = row["stamp"]
    same = [size, mtime, inode] == [stamp[0], stamp[1], stamp[3]]
    return same and bool(row["item"]["mark"]) and content_mark(path) == row["item"]["mark"]


def _read(path: Path, kind: Kind, whole: bool) -> Read:
    """The file, what it is or why it can't be trained, and what is kept of it."""
    from wanwrap.data import clips, pictures  # a dry run whose files are all known waits for nothing

    now = time.time()
    try:
        stamp = stamp_of(path)
        item = (pictures if kind == "image" else clips).read(path, whole)
    except Unfit as error:
        return path, str(error), None
    except Exception as error:  # whatever a decoder raises, the file is what is wrong
        return path, f"it can't be read: {why(path, error)}; replace or remove it", None
    row = None
    if now - stamp[1] / 1e9 > FRESH:
        kept = {name: value for name, value in vars(item).items() if name not in NOT_KEPT}
        look = None if item.look is None else f"{item.look:x}"  # ten times as fast to read as a number
        row = {"stamp": stamp, "whole": whole, "item": {**kept, "look": look}}
    return path, item, row


def _item(path: Path, kept: dict[str, Any]) -> Item:
    look = None if kept["look"] is None else int(kept["look"], 16)
    return Item(path=path, **{**kept, "size": tuple(kept["size"]), "look": look})


def stamp_of(path: Path) -> list[int]:
    """By what a file is known to be as it was: bytes, mtime, ctime, inode. Raises OSError: it is gone."""
    info = path.stat()
    return [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]  # times can be set, but for ctime


@contextmanager
def _kept(folder: Path) -> Iterator[dict[str, Any]]:
    """What is known of a folder's files, written back if more is known then. A cache that fails costs time alone."""
    place, rows = _place(folder), dict[str, Any]()
    with suppress(OSError, ValueError, TypeError, KeyError):
        rows |= json.loads(place.read_text(encoding="utf-8"))["files"]
    before = dict(rows)
    try:
        yield rows
    finally:
        if rows != before:
            _write(place, rows)


def _place(folder: Path) -> Path:
    import hashlib

    from platformdirs import user_cache_path

    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()
    return user_cache_path("wanwrap") / "media" / f"{name}-{VERSION}.json"


def _write(place: Path, rows: dict[str, Any]) -> None:
    from wanwrap.system.files import write_atomic

    with suppress(OSError, OutputError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, json.dumps({"files": rows}))
