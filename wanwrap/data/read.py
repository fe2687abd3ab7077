"""Pictures and clips read as upstream will read them, in parallel and each once.

What is found is kept in the user's cache, a file for each folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from wanwrap.data.media import CAPTION, MARKED, READ, Item, Kind, Unfit, caption_of, kind_of, why
from wanwrap.errors import OutputError, StepError
from wanwrap.system import console
from wanwrap.upstream import buckets

VERSION = 8  # of what `pictures.read` and `clips.read` find
LONGEST = 255 - len("_00000-129_1280x0720_wan.safetensors")  # bytes of a name that a cache's fits on
THREADS = 8  # more would hold too many frames
# with the package in place of the current folder, whose files are no modules of ours
CHILD = "import sys; sys.path[0] = sys.argv[1]; from wanwrap.data.read import child; child()"
KEPT = ("size", "frames", "fps", "odd", "mark", "look")
# of a file: an Item's fields as `found`; and where they are to be kept, its `stamp`, and whether it was read `whole`
Row = dict[str, Any]


def read_files(
    files: Mapping[Path, Kind],
    *,
    suffix: str = CAPTION,
    captions: Mapping[Path, str] | None = None,
    whole: bool = False,
) -> list[Item]:
    """Each file with its caption (from a file of that `suffix`, else of those given), or with its problem.

    With `whole` every file is decoded to its end: upstream does so while caching, and ends the run at the first damaged
    one.
    """
    items, names = dict[Path, Item](), dict[tuple[Path, Kind, str], Path]()
    for path, kind in files.items():
        if problem := _name_problem(path):
            items[path] = Item(path=path, kind=kind, problem=problem, stops=path.suffix.lower() in READ)
    sound = {path: kind for path, kind in files.items() if path not in items}
    for item in _contents(sound, whole):
        items[item.path] = item if item.problem else _captioned(item, suffix, captions)
    for path, kind in sound.items():
        name = path.parent, kind, os.path.normcase(path.stem)  # by what the system takes for one
        if not items[path].problem and (twin := names.setdefault(name, path)) is not path:
            problem = f"it shares its name with {twin.name}, so one would overwrite the other's cache; rename one"
            items[path] = replace(items[path], problem=problem)
    return [items[path] for path in files]


def _name_problem(path: Path) -> str | None:
    """Why upstream would pass a file over, or end on it, for its name alone."""
    if kind_of(path) is None:
        if path.suffix.lower() not in READ:
            return f"upstream reads no {path.suffix}; `wanwrap prepare` converts it"
        return "upstream passes over an ending in mixed case; write it in small letters"
    if str(path) != str(path).encode(errors="ignore").decode():
        return "its name, or its folder's, is not UTF-8, in which lists and data sets are written; rename it"
    if not path.is_file():
        return "it can't be read as a file, on which upstream ends; remove it"
    if len(os.fsencode(path.stem)) > LONGEST:
        return f"its name is too long for the cache, which adds {255 - LONGEST} letters; shorten it"
    return None


def _captioned(item: Item, suffix: str, captions: Mapping[Path, str] | None) -> Item:
    if min(item.size) < buckets.STEP:
        return replace(item, problem="it is smaller than 16 pixels; remove it")
    try:
        caption = caption_of(item.path, suffix) if captions is None else captions[item.path]
    except Unfit as error:
        return replace(item, problem=str(error))
    return replace(item, caption=caption, odd=(*item.odd, MARKED) if caption[:1] == "\ufeff" else item.odd)


def _contents(files: Mapping[Path, Kind], whole: bool) -> Iterator[Item]:
    """What each file is or what is wrong with it: of what has changed, or was not read so far, by reading it."""
    folders = {os.path.dirname(path) for path in files}  # noqa: PTH120  10,000 at once
    rows = {folder: _load(_place(folder)) for folder in folders}
    known = {path: row for each in rows.values() for path, row in each.items()}
    unknown = {str(path): kind for path, kind in files.items() if not _is_current(known.get(str(path)), path, whole)}
    if unknown:
        read = _in_child(unknown, whole) if whole else (read_file(path, kind, whole) for path, kind in unknown.items())
        try:
            with console.bar("reading files", len(unknown)) as done:
                for path, row in zip(unknown, read, strict=True):
                    known[path] = rows[os.path.dirname(path)][path] = row  # noqa: PTH120
                    done()
        finally:
            for folder in {os.path.dirname(path) for path in unknown}:  # noqa: PTH120
                _save(_place(folder), {path: row for path, row in rows[folder].items() if "stamp" in row})
    for file, kind in files.items():
        found: Row = {k: tuple(v) if isinstance(v, list) else v for k, v in known[str(file)]["found"].items()}
        yield Item(path=file, kind=kind, **found)


def _is_current(row: Any, path: Path, whole: bool) -> bool:
    with suppress(KeyError, TypeError, AttributeError):  # there is none, or somebody else has written it
        fields = row["found"].keys() == {*KEPT}
        return bool(fields and row["whole"] >= whole and row["stamp"] == stamp_of(path))
    return False


def _in_child(files: Mapping[str, Kind], whole: bool) -> Iterator[Row]:
    """By a child, with which goes what decoders take.

    Where it crashes, another reads the rest one after the other, which tells at which it was.
    """
    from wanwrap.system.process import cores, lines

    argv = [sys.executable, "-c", CHILD, str(Path(__file__).parents[2])]
    left, threads = [*files.items()][::-1], min(THREADS, cores() + 2)
    while left:
        rows = lines(argv, json.dumps({"files": left[::-1], "whole": whole, "threads": threads}))
        if next(rows, None) is None:
            raise StepError(f"{sys.executable} can't be started to read files; what it said stands above.")
        for row in rows:
            left.pop()
            yield json.loads(row)
        if left and threads == 1:
            left.pop()
            yield {"found": {"problem": "the program that reads it crashed on it; replace or remove it"}}
        threads = 1


def child() -> None:
    """Read what standard input asks for: {"files": [[path, kind], ...], "whole": ..., "threads": ...}.

    Prints a line when it has started, and then what was found, a JSON line a file, in order.
    """
    from concurrent.futures import ThreadPoolExecutor

    request = json.load(sys.stdin)
    print("started", flush=True)
    with ThreadPoolExecutor(request["threads"]) as pool:
        each = pool.map if request["threads"] > 1 else map  # which begins with no file before the last one is told
        for row in each(lambda file: read_file(file[0], file[1], request["whole"]), request["files"]):
            print(json.dumps(row), flush=True)


def read_file(name: str, kind: Kind, whole: bool) -> Row:
    """What a file is, as a row to be kept; or its problem, which may have gone the next time."""
    from wanwrap.data import clips, pictures

    path = Path(name)
    try:
        stamp = stamp_of(path)
        item = (pictures if kind == "image" else clips).read(path, whole)
    except Unfit as error:
        return {"found": {"problem": str(error)}}
    except Exception as error:  # whatever a decoder raises, the file is what is wrong
        return {"found": {"problem": f"it can't be read: {why(path, error)}; replace or remove it"}}
    return {"stamp": stamp, "whole": whole, "found": {name: getattr(item, name) for name in KEPT}}


def stamp_of(path: Path) -> list[int]:
    """By what a file is known to be as it was: bytes, mtime, ctime, inode; nothing of what is gone."""
    with suppress(OSError):
        info = path.stat()
        return [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]  # times can be set, but for ctime
    return []


def _load(place: Path) -> dict[str, Row]:
    """What is known of a folder's files. A cache that fails costs time alone."""
    with suppress(OSError, ValueError, TypeError):
        return dict(json.loads(place.read_text(encoding="utf-8")))
    return {}


def _save(place: Path, rows: dict[str, Row]) -> None:
    from wanwrap.system.files import write_atomic

    with suppress(OSError, OutputError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, json.dumps(rows))


def _place(folder: str) -> Path:
    import hashlib

    from platformdirs import user_cache_path

    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()
    return user_cache_path("wanwrap") / "media" / f"{name}-{VERSION}.json"
