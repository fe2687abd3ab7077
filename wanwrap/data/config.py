"""The user's own data set TOML (`--dataset_config`): checked as upstream reads it, used as it is."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wanwrap.data.dataset import Dataset, Entry, length_notes, odd_notes, too_short
from wanwrap.data.media import SAME_FPS, Item, Kind, meant
from wanwrap.data.read import read_files
from wanwrap.errors import DatasetError, PresetError, closest, listing
from wanwrap.preset import check_frames, check_size
from wanwrap.system import console
from wanwrap.upstream import buckets

# Upstream's schema (dataset/config_utils.py); any other key makes it fail.
_COMMON = {
    "resolution": list,
    "caption_extension": str,
    "batch_size": int,
    "num_repeats": int,
    "enable_bucket": bool,
    "bucket_no_upscale": bool,
}
_EITHER = {"cache_directory": str, "control_directory": str, "fp_latent_window_size": int}
_IMAGE = {
    "image_directory": str,
    "image_jsonl_file": str,
    "multiple_target": bool,
    "fp_1f_clean_indices": list,
    "fp_1f_target_index": int,
    "fp_1f_no_post": bool,
    "no_resize_control": bool,
    "control_resolution": list,
}
_VIDEO = {
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


def load(path: Path, *, whole: bool = False) -> Dataset:
    """The data set that a TOML describes; files that upstream would end on or drop are in its `left`.

    Raises:
        DatasetError: upstream would refuse it, or train something else.
    """
    config = _read(path)
    general, tables = config.get("general", {}), config.get("datasets")
    shaped = isinstance(general, dict) and isinstance(tables, list) and all(isinstance(each, dict) for each in tables)
    if set(config) - {"general", "datasets"} or not tables or not shaped:
        raise DatasetError(f"{path} must hold [general] and at least one [[datasets]], and nothing else.")
    _check_keys("[general]", general, _COMMON)
    pairs = [_entry(f"[[datasets]] number {i}", general, t, whole) for i, t in enumerate(tables, 1)]
    entries = tuple(entry for entry, _ in pairs)
    notes = [note for i, entry in enumerate(entries, 1) for note in _notes(f"[[datasets]] number {i}", entry)]
    left = {item.path: item for _, bad in pairs for item in bad}
    left |= {item.path: item for item in _without_window(entries)}
    data = Dataset(name=path.stem, entries=entries, config=path, notes=tuple(notes), left=tuple(left.values()))
    if len({os.path.realpath(cache) for _, cache in caches(data)}) < len(entries):
        raise DatasetError(f"entries of {path} share a cache_directory; they would delete each other's files.")
    return data


def caches(data: Dataset) -> Iterator[tuple[Entry, Path]]:
    """Each entry with its cache folder."""
    return ((entry, Path(entry.options.get("cache_directory") or entry.directory)) for entry in data.entries)


def _read(path: Path) -> dict[str, Any]:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    if path.suffix.lower() != ".toml":
        raise DatasetError(f"{path} must end in .toml, by which upstream knows how to read it.")
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8")).unwrap()
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}.") from error
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not valid TOML: {error}.") from error


def _check_keys(where: str, table: Table, schema: Mapping[str, type]) -> None:
    for name, value in table.items():
        if name not in schema:
            raise DatasetError(f"{where}: upstream knows no key {name!r} there.{closest(name, schema)}")
        wanted = schema[name]
        alone = name.endswith("resolution") and type(value) is int
        if wanted is list and not alone and isinstance(value, list) and {type(each) for each in value} != {int}:
            raise DatasetError(f"{where}: {name} must hold whole numbers, not {value!r}.")
        if type(value) is not wanted and not alone:
            hint = f" Write {float(value)}." if wanted is float and type(value) is int else ""
            raise DatasetError(f"{where}: {name} must be {wanted.__name__}, not {value!r}.{hint}")


def _entry(where: str, general: Table, table: Table, whole: bool) -> tuple[Entry, list[Item]]:
    kind: Kind = "video" if {"video_directory", "video_jsonl_file"} & set(table) else "image"
    _check_keys(where, table, {**_COMMON, **_EITHER, **(_VIDEO if kind == "video" else _IMAGE)})
    for name, value in table.items():
        if name.endswith(("_directory", "_jsonl_file")) and not Path(value).is_absolute():
            raise DatasetError(
                f"{where}: {name} = {value!r} is relative to a folder that upstream does not run in; write the whole path."
            )
    options = {"resolution": [960, 544], **general, **table}
    if type(options["resolution"]) is int:
        options["resolution"] = [options["resolution"]] * 2
    _check_sizes(where, kind, options)
    directory, paths, captions = _files(where, kind, options)
    suffix = options.get("caption_extension", "")
    with console.bar("reading files", len(paths)) as done:
        items = read_files(paths, kind, suffix=suffix, captions=captions, whole=whole, done=done)
    sound = tuple(item for item in items if not item.problem)
    entry = Entry(kind=kind, directory=directory, items=sound, options=options)
    _check_entry(where, entry)
    return entry, [item for item in items if item.problem]


def _without_window(entries: Sequence[Entry]) -> Iterator[Item]:
    """Clips of which no entry takes anything: upstream passes them over without a word."""
    clips = [entry for entry in entries if entry.kind == "video"]
    taken = {item.path for entry in clips for item in entry.items if entry.windows(item)}
    for entry in clips:
        for item in entry.items:
            if item.path not in taken:
                yield replace(item, problem=too_short(item, min(entry.options.get("target_frames") or [1])))


def _check_sizes(where: str, kind: Kind, options: Table) -> None:
    how = options.get("frame_extraction", "head")
    if how not in EXTRACTIONS:
        raise DatasetError(
            f"{where}: frame_extraction {how!r} is none of {', '.join(EXTRACTIONS)}.{closest(how, EXTRACTIONS)}"
        )
    if kind == "video" and how != "full" and "target_frames" not in options:
        raise DatasetError(
            f"{where}: without target_frames upstream trains only the first frame of each clip; add target_frames = [21]."
        )
    if not re.fullmatch(r"\.[^.*?\[\]/\\]+", str(options.get("caption_extension", ".txt"))):
        raise DatasetError(f'{where}: caption_extension must be a dot and an ending, as in ".txt".')
    if {f"{kind}_directory", f"{kind}_jsonl_file"} <= options.keys():
        raise DatasetError(
            f"{where}: give {kind}_directory or {kind}_jsonl_file; upstream would take the folder alone."
        )
    for name in ("batch_size", "num_repeats", "frame_stride", "frame_sample", "max_frames"):
        if options.get(name, 1) < 1:
            raise DatasetError(f"{where}: {name} must be 1 at least.")
    try:
        check_size(tuple(options["resolution"]))
        check_frames(tuple(options.get("target_frames", (1,))))
    except PresetError as error:
        raise DatasetError(f"{where}: {error}") from error


def _files(where: str, kind: Kind, options: Table) -> tuple[Path, list[Path], dict[Path, str] | None]:
    """The folder (of the media, or of their list), the files that upstream is to find, and the list's captions."""
    if f"{kind}_jsonl_file" in options:
        if "cache_directory" not in options:
            raise DatasetError(f"{where}: a {kind}_jsonl_file needs a cache_directory.")
        file = Path(options[f"{kind}_jsonl_file"])
        captions = read_list(kind, file)
        return file.parent, list(captions), captions
    if f"{kind}_directory" not in options:
        raise DatasetError(f"{where} names neither image_directory nor video_directory.")
    directory = Path(options[f"{kind}_directory"])
    if not directory.is_dir():
        raise DatasetError(f"{where}: there is no folder {directory}.")
    paths = sorted(p for p in directory.iterdir() if p.name[0] != "." and meant(p, read=True) == kind)
    if not paths:
        raise DatasetError(f"{where}: {kind}_directory {directory} holds no {kind}s that upstream reads.")
    if "caption_extension" not in options:
        raise DatasetError(f'{where}: caption_extension is missing; add caption_extension = ".txt" to [general].')
    return directory, paths, None


def read_list(kind: Kind, file: Path) -> dict[Path, str]:
    """What a list of files says: each file's caption. Raises DatasetError."""
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
        pairs = [(Path(row[f"{kind}_path"]), row["caption"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{file} must hold a JSON object a line with {kind}_path and caption ({error!r})."
        ) from error
    wrong = [path for path, caption in pairs if not path.is_absolute() or not caption.strip()]
    if wrong:
        raise DatasetError(f"{file} has relative paths or empty captions: {listing(wrong)}.")
    if len({path.stem for path, _ in pairs}) < len(pairs):
        raise DatasetError(f"{file} lists files that share a name; they would share a cache file.")
    return dict(pairs)


def _check_entry(where: str, entry: Entry) -> None:
    """Raises DatasetError: upstream would train clips too fast, lose its caches, or stack several shapes in one batch."""
    options, kind = entry.options, entry.kind
    if options.get("source_fps", buckets.FPS) < buckets.FPS:
        raise DatasetError(f"{where}: source_fps below 16 trains motion too fast; convert the clips to 16 fps.")
    if glob.has_magic(str(options.get("cache_directory") or entry.directory)):
        raise DatasetError(f"{where}: upstream can't find its caches in a folder with *, ? or [ in its name.")
    stacked = kind == "video" and not options.get("enable_bucket") and options.get("batch_size", 1) > 1
    if stacked and len({entry.cached_size(item) for item in entry.items}) > 1:
        raise DatasetError(f"{where}: clips of several shapes can't share a batch; add enable_bucket = true.")


def _notes(where: str, entry: Entry) -> Iterator[str]:
    """What is allowed and may not be meant."""
    yield from odd_notes(entry.items)
    if entry.kind == "image":
        return
    taken = entry.options.get("source_fps", buckets.FPS)
    off = [item for item in entry.items if abs(item.fps - taken) > SAME_FPS * taken]
    if off:
        speed = f"{off[0].fps / taken:.2f} times"
        yield f"{where}: {off[0].path.name} runs at {off[0].fps:.4g} fps and is taken for {taken:.4g}: motion at 1/{speed}."
    if entry.options.get("frame_extraction") != "full":
        yield from (f"{where}: {note}" for note in length_notes(entry.items, entry.options))
