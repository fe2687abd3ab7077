"""The user's own data set TOML (`--dataset_config`): checked as upstream reads it, used as it is."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from wanwrap.data.clips import SAME_FPS
from wanwrap.data.dataset import TEMPLATE, Dataset, Entry, notes_on, too_short
from wanwrap.data.media import READ, Item, Kind, why
from wanwrap.data.read import read_files
from wanwrap.errors import BACKSLASHES, DatasetError, PresetError, closest, listing, of_toml
from wanwrap.preset import check_frames, check_size
from wanwrap.upstream import buckets

# What training Wan reads of upstream's schema (dataset/config_utils.py); the rest is for other models and tasks.
COMMON = {
    "resolution": list,
    "caption_extension": str,
    "batch_size": int,
    "num_repeats": int,
    "enable_bucket": bool,
    "bucket_no_upscale": bool,
}
IMAGE = {**COMMON, "cache_directory": str, "image_directory": str, "image_jsonl_file": str}
VIDEO = {
    **COMMON,
    "cache_directory": str,
    "video_directory": str,
    "video_jsonl_file": str,
    "target_frames": list,
    "frame_extraction": str,
    "frame_stride": int,
    "frame_sample": int,
    "max_frames": int,
    "source_fps": float,
}
EXTRACTIONS = ("head", "chunk", "slide", "uniform", "full")

Table = Mapping[str, Any]


def load(path: Path, *, whole: bool = False, current: bool = False) -> Dataset:
    """The data set that a TOML describes; files that upstream would end on or drop are in its `left`.

    With `current` so are those whose captions have changed since wanwrap wrote them into a list.

    Raises:
        DatasetError: upstream would refuse it, or train something else.
    """
    general, tables, rendered = _read(path)
    _check_keys(general, COMMON, f"[general] of {path}")
    entries, left = list[Entry](), dict[Path, Item]()
    for number, table in enumerate(tables, 1):
        try:
            entry = _entry({**general, **table}, path.parent if rendered and current else None, whole)
        except (DatasetError, PresetError) as error:
            raise DatasetError(f"[[datasets]] number {number} of {path}: {error}") from error
        left |= {item.path: item for item in entry.items if item.problem}
        entries.append(replace(entry, items=tuple(item for item in entry.items if not item.problem)))
    if len({os.path.realpath(entry.cache) for entry in entries}) < len(entries):
        raise DatasetError(f"entries of {path} share a cache_directory; they would delete each other's files.")
    left |= {item.path: item for item in _without_window(entries)}
    notes = (*chain.from_iterable(map(_speed, entries)), *notes_on(entries))
    return Dataset(name=path.stem, entries=tuple(entries), config=path, notes=notes, left=tuple(left.values()))


def _read(path: Path) -> tuple[Table, Sequence[Table], bool]:
    """[general], each of [[datasets]], and whether wanwrap has rendered it."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    if path.suffix.lower() != ".toml":
        raise DatasetError(f"{path} must end in .toml, by which upstream knows how to read it.")
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith("\ufeff"):
            raise DatasetError(f"{path} begins with a byte order mark, which upstream can't read; save it without one.")
        config = tomlkit.parse(text).unwrap()
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise DatasetError(f"{path} can't be read as TOML: {why(path, error)}.{of_toml(error)}") from error
    general, tables = config.get("general", {}), config.get("datasets")
    shaped = isinstance(general, dict) and isinstance(tables, list) and all(isinstance(each, dict) for each in tables)
    if config.keys() - {"general", "datasets"} or not tables or not shaped:
        raise DatasetError(f"{path} must hold [general] and at least one [[datasets]], and nothing else.")
    return general, tables, text.startswith(TEMPLATE.read_text(encoding="utf-8").partition("\n")[0])


def _check_keys(table: Table, schema: Mapping[str, type], where: str) -> None:
    for name, value in table.items():
        if name not in schema:
            raise DatasetError(f"training Wan knows no key {name!r} in {where}.{closest(name, schema)}")
        wanted, parts = schema[name], value if isinstance(value, list) else [0]
        fits = type(value) is wanted and {type(part) for part in parts} == {int} and "\0" not in str(value)
        if not fits and (name, type(value)) != ("resolution", int):
            words = "a list of whole numbers" if wanted is list else wanted.__name__
            hint = f" Write {float(value)}." if wanted is float and type(value) is int else ""
            raise DatasetError(f"{name} must be {words}, not {value!r}.{hint}")


def _entry(table: Table, written: Path | None, whole: bool) -> Entry:
    """An entry, with all of its files; `written` is the folder of lists that wanwrap wrote.

    Raises:
        DatasetError, PresetError: upstream would refuse it, or train something else.
    """
    kind: Kind = "video" if {"video_directory", "video_jsonl_file"} & set(table) else "image"
    _check_keys(table, VIDEO if kind == "video" else IMAGE, "[[datasets]]")
    options = {"resolution": [960, 544], **table}
    if type(options["resolution"]) is int:
        options["resolution"] = [options["resolution"]] * 2
    if fault := next(_faults(kind, options), None):
        raise DatasetError(fault)
    check_size(tuple(options["resolution"]))
    check_frames(tuple(options.get("target_frames", (1,))))
    items = _items(kind, options, written, whole)
    directory = Path(options.get(f"{kind}_directory") or Path(options[f"{kind}_jsonl_file"]).parent)
    cache = Path(options.get("cache_directory", directory))
    entry = Entry(kind=kind, directory=directory, items=tuple(items), options=options, cache=cache)
    stacked = kind == "video" and not options.get("enable_bucket") and options.get("batch_size", 1) > 1
    if stacked and len({entry.cached_size(item) for item in items if not item.problem}) > 1:
        raise DatasetError("clips of several shapes can't share a batch; add enable_bucket = true.")
    return entry


def _faults(kind: Kind, options: Table) -> Iterator[str]:
    """What upstream takes without a word, and would fail on late or train otherwise than it says."""
    for name, value in options.items():
        if not name.endswith(("_directory", "_jsonl_file")):
            continue
        if re.search(r"[\x00-\x1f]", value):  # "C:\new" holds a new line
            yield f"{name} = {value!r} is no path.{BACKSLASHES}"
        if not Path(value).is_absolute():
            yield f"{name} = {value!r} is relative to a folder that upstream does not run in; write the whole path."
    folder, file = f"{kind}_directory" in options, f"{kind}_jsonl_file" in options
    if folder == file:
        yield f"give {kind}_directory or {kind}_jsonl_file; of both upstream would take the folder alone."
    if file and "cache_directory" not in options:
        yield f"a {kind}_jsonl_file needs a cache_directory."
    suffix = options.get("caption_extension", "")
    if folder and not suffix:
        yield 'caption_extension is missing; add caption_extension = ".txt" to [general].'
    if suffix and not re.fullmatch(r"\.[^.*?\[\]/\\]+", suffix):
        yield 'caption_extension must be a dot and an ending, as in ".txt".'
    how = options.get("frame_extraction", "head")
    if how not in EXTRACTIONS:
        yield f"frame_extraction {how!r} is none of {', '.join(EXTRACTIONS)}.{closest(how, EXTRACTIONS)}"
    if kind == "video" and how != "full" and "target_frames" not in options:
        yield "without target_frames upstream trains only the first frame of each clip; add target_frames = [21]."
    for name in ("batch_size", "num_repeats", "frame_stride", "frame_sample", "max_frames"):
        if options.get(name, 1) < 1:
            yield f"{name} must be 1 at least."
    if options.get("source_fps", buckets.FPS) < buckets.FPS:
        yield "source_fps below 16 trains motion too fast; convert the clips to 16 fps."
    if glob.has_magic(options.get("cache_directory") or options[f"{kind}_directory"]):
        yield "upstream can't find its caches in a folder with *, ? or [ in its name."


def _items(kind: Kind, options: Table, written: Path | None, whole: bool) -> list[Item]:
    """The files that upstream will find. Raises DatasetError: there are none, or a list is none."""
    suffix = options.get("caption_extension", "")
    if not (file := options.get(f"{kind}_jsonl_file")):
        directory = Path(options[f"{kind}_directory"])
        paths = sorted(path for path in directory.glob("[!.]*") if READ.get(path.suffix.lower()) == kind)
        if not paths:
            raise DatasetError(f"there is no folder {directory}, or it holds no {kind}s that upstream reads.")
        return read_files(dict.fromkeys(paths, kind), suffix=suffix, whole=whole)
    path, captions = Path(file), read_list(kind, Path(file))
    if not (suffix and path.parent == written and re.fullmatch(rf"{kind}s-\d+\.jsonl", path.name)):
        return read_files(dict.fromkeys(captions, kind), captions=captions, whole=whole)
    items = read_files(dict.fromkeys(captions, kind), suffix=suffix, whole=whole)
    changed = f"its caption has changed since it was written to {path}; `wanwrap run` writes it anew"
    same = (item.problem or item.caption == captions[item.path] for item in items)
    return [item if so else replace(item, problem=changed) for item, so in zip(items, same, strict=True)]


def read_list(kind: Kind, file: Path) -> dict[Path, str]:
    """What a list of files says: each file's caption. Raises DatasetError."""
    if not file.is_file():
        raise DatasetError(f"there is no file {file}.")
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
        captions = {Path(row[f"{kind}_path"]): row["caption"] for row in rows}
        wrong = [path for path, caption in captions.items() if not (path.is_absolute() and caption.strip())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f"{file} must hold a JSON object a line with {kind}_path and caption, both texts ({error!r})."
        ) from error
    if wrong:
        raise DatasetError(f"{file} has relative paths or empty captions: {listing(wrong)}.")
    if len({path.stem for path in captions}) < len(rows):
        raise DatasetError(f"{file} lists files that share a name; they would share a cache file.")
    return captions


def _without_window(entries: Sequence[Entry]) -> Iterator[Item]:
    """Clips of which no entry takes anything: upstream passes them over without a word."""
    taken = {item.path for entry in entries for item in entry.items if entry.shapes(item)}
    for entry in entries:
        needed = min(entry.options.get("target_frames") or [1])
        yield from (replace(i, problem=too_short(i, needed)) for i in entry.items if i.path not in taken)


def _speed(entry: Entry) -> Iterator[str]:
    """That clips would be trained faster or slower than they are."""
    taken = entry.options.get("source_fps", buckets.FPS)
    off = [item for item in entry.items if entry.kind == "video" and abs(item.fps - taken) > SAME_FPS * taken]
    for item in off[:1]:
        speed = f"motion at {taken / item.fps:.2f} times its speed"
        yield f"{item.path.name} runs at {item.fps:.4g} fps and is taken for {taken:.4g}: {speed}."
