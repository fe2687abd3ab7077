"""The user's own data set TOML (`--dataset_config`): checked as upstream reads it, used as it is."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wanwrap import buckets
from wanwrap.dataset import Dataset, Entry, check_buckets
from wanwrap.errors import DatasetError, PresetError, closest, listing
from wanwrap.media import SAME_FPS, Kind, check_captions, check_names, kind_of, probe, warnings
from wanwrap.preset import check_frames, check_size

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
FOLDERS = (
    "image_directory",
    "video_directory",
    "image_jsonl_file",
    "video_jsonl_file",
    "cache_directory",
    "control_directory",
)

Table = Mapping[str, Any]


def load(path: Path, *, whole: bool = False, done: Callable[[], object] = bool) -> Dataset:
    """The data set that a TOML describes.

    Raises:
        DatasetError: upstream would refuse it, drop files, or train something else.
    """
    config = _read(path)
    general, tables = config.get("general", {}), config.get("datasets")
    shaped = isinstance(general, dict) and isinstance(tables, list) and all(isinstance(each, dict) for each in tables)
    if set(config) - {"general", "datasets"} or not tables or not shaped:
        raise DatasetError(f"{path} must hold [general] and at least one [[datasets]], and nothing else.")
    _check_keys("[general]", general, _COMMON)
    entries = tuple(_entry(f"[[datasets]] number {i}", general, t, whole, done) for i, t in enumerate(tables, 1))
    caches = {os.path.realpath(entry.options.get("cache_directory") or entry.directory) for entry in entries}
    if len(caches) < len(entries):
        raise DatasetError(f"entries of {path} share a cache_directory; they would delete each other's files.")
    notes = [note for i, entry in enumerate(entries, 1) for note in _notes(f"[[datasets]] number {i}", entry)]
    return Dataset(name=path.stem, entries=entries, config=path, notes=tuple(notes))


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


def _entry(where: str, general: Table, table: Table, whole: bool, done: Callable[[], object]) -> Entry:
    kind: Kind = "video" if {"video_directory", "video_jsonl_file"} & set(table) else "image"
    _check_keys(where, table, {**_COMMON, **_EITHER, **(_VIDEO if kind == "video" else _IMAGE)})
    for name in FOLDERS:
        if name in table and not Path(table[name]).is_absolute():
            raise DatasetError(
                f"{where}: {name} = {table[name]!r} is relative to a folder that upstream does not run in; write the whole path."
            )
    options = {"resolution": [960, 544], **general, **table}
    if type(options["resolution"]) is int:
        options["resolution"] = [options["resolution"]] * 2
    _check_sizes(where, kind, options)
    directory, paths = _files(where, kind, options)
    entry = Entry(kind=kind, directory=directory, items=probe(paths, kind, whole=whole, done=done), options=options)
    _check_items(where, entry)
    return entry


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
    if not str(options.get("caption_extension", ".txt")).startswith(".") or options.get("caption_extension") == ".":
        raise DatasetError(f'{where}: caption_extension must begin with a dot, as in ".txt".')
    low = [
        name
        for name in ("batch_size", "num_repeats", "frame_stride", "frame_sample", "max_frames")
        if options.get(name, 1) < 1
    ]
    if low:
        raise DatasetError(f"{where}: {listing(low)} must be 1 at least.")
    try:
        check_size(tuple(options["resolution"]))
        check_frames(tuple(options.get("target_frames", (1,))))
    except PresetError as error:
        raise DatasetError(f"{where}: {error}") from error


def _files(where: str, kind: Kind, options: Table) -> tuple[Path, list[Path]]:
    """The folder (of the media, or of their list) and the files that upstream will find."""
    if f"{kind}_jsonl_file" in options:
        return _listed(where, kind, Path(options[f"{kind}_jsonl_file"]), options)
    if f"{kind}_directory" not in options:
        raise DatasetError(f"{where} names neither image_directory nor video_directory.")
    directory = Path(options[f"{kind}_directory"])
    paths = sorted(path for path in directory.glob("*") if kind_of(path) == kind)
    if not directory.is_dir():
        raise DatasetError(f"{where}: there is no folder {directory}.")
    if not paths:
        raise DatasetError(f"{where}: {kind}_directory {directory} holds no {kind}s that upstream reads.")
    if "caption_extension" not in options:
        raise DatasetError(f'{where}: caption_extension is missing; add caption_extension = ".txt" to [general].')
    check_names(directory, paths)
    check_captions(paths, options["caption_extension"])
    return directory, paths


def _listed(where: str, kind: Kind, file: Path, options: Table) -> tuple[Path, list[Path]]:
    if "cache_directory" not in options:
        raise DatasetError(f"{where}: a {kind}_jsonl_file needs a cache_directory.")
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        paths = [Path(row[f"{kind}_path"]) for row in rows]
        empty = [path.name for path, row in zip(paths, rows, strict=True) if not row["caption"].strip()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{where}: {file} must hold a JSON object a line with {kind}_path and caption ({error!r})."
        ) from error
    relative = [path for path in paths if not path.is_absolute()]
    if relative or empty:
        raise DatasetError(f"{where}: {file} has relative paths or empty captions: {listing([*relative, *empty])}.")
    if len({path.stem for path in paths}) < len(paths):
        raise DatasetError(f"{where}: {file} lists files that share a name; they would share a cache file.")
    return file.parent, paths


def _check_items(where: str, entry: Entry) -> None:
    check_buckets(entry)
    if entry.kind == "video":
        none = [item.path.name for item in entry.items if not replace(entry, items=(item,)).keys]
        if none:
            raise DatasetError(
                f"{where}: clips shorter than the frames asked for: {listing(none)}; replace them or lower target_frames."
            )
        if not entry.options.get("source_fps", buckets.FPS) >= buckets.FPS:
            raise DatasetError(f"{where}: source_fps below 16 trains motion too fast; convert the clips to 16 fps.")
    if glob.has_magic(str(entry.options.get("cache_directory") or entry.directory)):
        raise DatasetError(f"{where}: upstream can't find its caches in a folder with *, ? or [ in its name.")
    _check_batches(where, entry)


def _check_batches(where: str, entry: Entry) -> None:
    """Raises DatasetError: without buckets, upstream would stack clips of several shapes in one batch."""
    if entry.kind == "image" or entry.options.get("enable_bucket") or entry.options.get("batch_size", 1) == 1:
        return
    if len({buckets.bucket(item.size, tuple(entry.options["resolution"])) for item in entry.items}) > 1:
        raise DatasetError(f"{where}: clips of several shapes can't share a batch; add enable_bucket = true.")


def _notes(where: str, entry: Entry) -> Iterator[str]:
    """What is allowed and may not be meant."""
    yield from warnings(entry.items)
    if entry.kind == "image":
        return
    taken = entry.options.get("source_fps", buckets.FPS)
    off = [item for item in entry.items if abs((item.fps or 0) - taken) > SAME_FPS * taken]
    if off:
        speed = f"{(off[0].fps or 0) / taken:.2f} times"
        yield f"{where}: {off[0].path.name} runs at {off[0].fps:.4g} fps and is taken for {taken:.4g}: motion at 1/{speed}."
    longest = max(entry.options.get("target_frames") or [1])
    short = [
        i.path.name for i in entry.items if longest not in {n for _, n in buckets.windows(i.frames or 0, entry.options)}
    ]
    if short and entry.options.get("frame_extraction") != "full":
        yield f"{where}: too short for {longest} frames, not trained at that length: {listing(short)}."
