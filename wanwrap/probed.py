"""Media looked at in parallel, each file once: what was found is kept in the user's cache, a file for each folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wanwrap.errors import OutputError
from wanwrap.media import Item, Kind, Unfit, read, why

VERSION = 3  # of what `media.read` finds
FRESH = 2.0  # seconds: a file written this lately may be written again without another time
FEW = 8  # files that a thread takes at once: handing each over would take longer than a look into the cache
Bar = Callable[[int], Callable[[], object]]  # how many files there are -> what is called after each
NOT_KEPT = {"path", "caption"}


def no_bar(_: int) -> Callable[[], object]:
    """Where nobody watches."""
    return bool


def probe(paths: Iterable[Path], kind: Kind, *, whole: bool = False, bar: Bar = no_bar) -> dict[Path, Item | str]:
    """Each file's Item, or why it can't be trained; with `whole` every file is decoded to its end.

    Upstream decodes each file while caching, and ends the run at the first damaged one.
    """
    found = dict[Path, Item | str]()
    folders = dict[Path, list[Path]]()
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    for folder, inside in folders.items():
        with _kept(folder) as rows:
            found |= _folder(inside, kind, whole, rows, bar(len(inside)))
    return {path: found[path] for inside in folders.values() for path in inside}


def _folder(
    paths: list[Path], kind: Kind, whole: bool, rows: dict[str, Any], done: Callable[[], object]
) -> Iterator[tuple[Path, Item | str]]:
    def some(few: list[Path]) -> list[tuple[Path, Item | str]]:
        found = list[tuple[Path, Item | str]]()
        for path in few:
            found.append((path, _one(path, kind, whole, rows)))
            done()
        return found

    pool = ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2))  # more would hold too many frames
    try:
        for found in pool.map(some, (paths[at : at + FEW] for at in range(0, len(paths), FEW))):
            yield from found
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the files that are being read alone


def _one(path: Path, kind: Kind, whole: bool, rows: dict[str, Any]) -> Item | str:
    try:
        stamp = _stamp(path)
        with suppress(KeyError, TypeError, ValueError):  # a row of somebody else's making
            row = rows[path.name]
            if row["stamp"] == stamp and row["whole"] >= whole:
                return Item(path=path, **{**row["item"], "size": tuple(row["item"]["size"])})
        item = read(path, kind, whole)
    except Unfit as error:
        return str(error)
    except Exception as error:  # whatever a decoder raises, the file is what is wrong
        return f"it can't be read: {why(path, error)}; replace or remove it"
    if time.time() - stamp[1] / 1e9 > FRESH:
        kept = {name: value for name, value in vars(item).items() if name not in NOT_KEPT}
        rows[path.name] = {"stamp": stamp, "whole": whole, "item": kept}
    return item


def _stamp(path: Path) -> list[int]:
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
    from wanwrap.whole import write_whole

    with suppress(OSError, OutputError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps({"files": rows}))
