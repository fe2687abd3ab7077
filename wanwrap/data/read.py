"""Files of one kind read as upstream will read them, in parallel and each once.

What is found is kept in the user's cache, a file for each folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from wanwrap.data.media import CAPTION, MARKED, Item, Kind, Unfit, caption_of, is_text, kind_of, meant, why
from wanwrap.errors import OutputError, StepError
from wanwrap.upstream import buckets

VERSION = 5  # of what `pictures.read` and `clips.read` find
FRESH = 2.0  # seconds: a file written this lately may be written again without another time
LONGEST = 255 - len("_00000-129_1280x0720_wan.safetensors")  # bytes of a name that a cache's fits on
KEPT = ("size", "frames", "fps", "odd", "mark", "look")
Row = dict[str, Any]  # of a file: its stamp, whether all of it was read, and what was found


def read_files(
    paths: Sequence[Path],
    kind: Kind,
    *,
    suffix: str = CAPTION,
    captions: Mapping[Path, str] | None = None,
    whole: bool = False,
    done: Callable[[], object] = bool,
) -> list[Item]:
    """Each file with its caption (from a file of that `suffix`, else of those given), or with its problem.

    With `whole` every file is decoded to its end: upstream does so while caching, and ends the run at the first damaged
    one. `done` hears of each.
    """
    items, names, sound = dict[Path, Item](), dict[str, Path](), list[Path]()
    for path in paths:
        items[path] = item = _by_name(path, kind, names)
        if item.problem:
            done()
        else:
            sound.append(path)
    for item in _look_at(sound, kind, whole, done):
        items[item.path] = item if item.problem else _captioned(item, suffix, captions)
    return list(items.values())


def _by_name(path: Path, kind: Kind, names: dict[str, Path]) -> Item:
    """The file, with why upstream would pass it over, end on it or take it for another, for its name alone.

    `names` are those of the files before it.
    """
    problem = None
    if kind_of(path) is None:
        if not meant(path, read=True):
            other = f"upstream reads no {path.suffix}; `wanwrap prepare` converts it"
            return Item(path=path, kind=kind, problem=other, stops=False)
        problem = "upstream passes over an ending in mixed case; write it in small letters"
    elif not is_text(path.name):
        problem = "its name is not UTF-8, in which lists and data sets are written; rename it"
    elif not path.is_file():
        problem = "it can't be read as a file, on which upstream ends; remove it"
    elif len(os.fsencode(path.stem)) > LONGEST:
        problem = f"its name is too long for the cache, which adds {255 - LONGEST} letters; shorten it"
    elif (twin := names.setdefault(path.stem.casefold(), path)) is not path:  # on many a disk case tells nothing
        problem = f"it shares its name with {twin.name}, so one would overwrite the other's cache; rename one"
    return Item(path=path, kind=kind, problem=problem)


def _captioned(item: Item, suffix: str, captions: Mapping[Path, str] | None) -> Item:
    if min(item.size) < buckets.STEP:
        return replace(item, problem="it is smaller than 16 pixels; remove it")
    try:
        caption = caption_of(item.path, suffix) if captions is None else captions[item.path]
    except Unfit as error:
        return replace(item, problem=str(error))
    return replace(item, caption=caption, odd=(*item.odd, MARKED) if caption[:1] == "\ufeff" else item.odd)


def _look_at(paths: Sequence[Path], kind: Kind, whole: bool, done: Callable[[], object]) -> Iterator[Item]:
    """What is known at once, the rest in parallel."""
    tables, unknown = dict[Path, dict[str, Row]](), list[Path]()
    for path in paths:
        folder = path.parent
        if folder not in tables:
            tables[folder] = _load(folder)
        if item := _known(path, kind, whole, tables[folder]):
            done()
            yield item
        else:
            unknown.append(path)
    changed = set[Path]()
    try:
        for path, row in (_in_child if whole else _in_threads)(unknown, kind, whole) if unknown else ():
            if row.get("stamp"):
                tables[path.parent][path.name] = row
                changed.add(path.parent)
            done()
            yield _item(path, kind, row)
    finally:
        for folder in changed:
            _save(folder, tables[folder])


def _known(path: Path, kind: Kind, whole: bool, rows: dict[str, Row]) -> Item | None:
    with suppress(OSError, KeyError, TypeError, ValueError):  # gone, unknown, or a row of somebody else's making
        row = rows[path.name]
        if row["whole"] >= whole and row["stamp"] == stamp_of(path):
            return _item(path, kind, row)
    return None


def _item(path: Path, kind: Kind, row: Row) -> Item:
    if "problem" in row:
        return Item(path=path, kind=kind, problem=row["problem"])
    found = row["item"]
    return Item(path=path, kind=kind, **{**found, "size": tuple(found["size"]), "odd": tuple(found["odd"])})


def _in_threads(paths: Sequence[Path], kind: Kind, whole: bool) -> Iterator[tuple[Path, Row]]:
    """Headers alone, each as soon as it is read."""
    from concurrent.futures import ThreadPoolExecutor, as_completed  # a dry run whose files are all known needs none

    with ThreadPoolExecutor(_threads()) as pool:
        futures = {pool.submit(look, path, kind, whole): path for path in paths}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _in_child(paths: Sequence[Path], kind: Kind, whole: bool) -> Iterator[tuple[Path, Row]]:
    """The same by a child; where it crashes, another reads one file after the other, which tells at which it was."""
    from wanwrap.system.process import lines

    left, threads = dict.fromkeys(map(str, paths)), _threads()
    while left:
        asked = json.dumps({"kind": kind, "whole": whole, "threads": threads, "paths": [*left]})
        begun = None
        for line in lines([sys.executable, str(Path(__file__).with_name("child.py"))], asked):
            path, row = json.loads(line)
            if row is None:
                begun = path
            else:
                del left[path]
                yield Path(path), row
        if begun is None:
            raise StepError(f"{sys.executable} can't be started to read files; what it said stands above.")
        if begun in left and threads == 1:
            del left[begun]
            yield Path(begun), {"problem": "the program that reads it crashed on it; replace or remove it"}
        threads = 1


def _threads() -> int:
    return min(8, (os.cpu_count() or 1) + 2)  # more would hold too many frames


def look(path: Path, kind: Kind, whole: bool) -> Row:
    """What a file is, as a row to be kept (without a stamp not to be kept); or its `problem`."""
    from wanwrap.data import clips, pictures

    now = time.time()
    try:
        stamp = stamp_of(path)
        item = (pictures if kind == "image" else clips).read(path, whole)
    except Exception as error:  # whatever a decoder raises, the file is what is wrong
        unread = f"it can't be read: {why(path, error)}; replace or remove it"
        return {"problem": str(error) if isinstance(error, Unfit) else unread}
    kept = stamp if now - stamp[1] / 1e9 > FRESH else None
    return {"stamp": kept, "whole": whole, "item": {name: getattr(item, name) for name in KEPT}}


def stamp_of(path: Path) -> list[int]:
    """By what a file is known to be as it was: bytes, mtime, ctime, inode. Raises OSError: it is gone."""
    info = path.stat()
    return [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]  # times can be set, but for ctime


def _load(folder: Path) -> dict[str, Row]:
    """What is known of a folder's files. A cache that fails costs time alone."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return dict(json.loads(_place(folder).read_text(encoding="utf-8"))["files"])
    return {}


def _save(folder: Path, rows: dict[str, Row]) -> None:
    from wanwrap.system.files import write_atomic

    place = _place(folder)
    with suppress(OSError, OutputError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, json.dumps({"files": rows}))


def _place(folder: Path) -> Path:
    import hashlib

    from platformdirs import user_cache_path

    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()
    return user_cache_path("wanwrap") / "media" / f"{name}-{VERSION}.json"
