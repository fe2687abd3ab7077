"""A folder of pictures and clips with captions -> a data set, in a preset's own choices.

Everything that upstream would drop, mistake or fail on is found here, file by file.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wanwrap.data.dataset import Dataset, Entry, notes_on, too_short
from wanwrap.data.media import CAPTION, JUNK, READ, Item, Kind, meant
from wanwrap.data.read import read_files
from wanwrap.errors import DatasetError, closest, listing
from wanwrap.paths import QUOTED, absolute
from wanwrap.preset import Preset
from wanwrap.upstream import buckets


def find(name: str | None, datasets: Path) -> Path:
    """The folder meant by `--dataset`: a path, a name in the workspace's `datasets`, or the only one there.

    Raises:
        DatasetError: none, or several where none was named.
    """
    there = {folder.name: folder for folder in sorted(datasets.glob("[!.]*")) if folder.is_dir()}
    if name is None:
        if len(there) == 1:
            return there.popitem()[1]
        if there:
            raise DatasetError(f"{datasets} holds several data sets ({listing(there)}); say which one.")
        raise DatasetError(
            f"there is no data set in {datasets}; put pictures and clips with captions there, in a folder, or name "
            "another folder."
        )
    path = there.get(name.rstrip(f"/{os.sep}")) or absolute(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise DatasetError(f"{path} is a file; give the folder that it lies in.")
    if name.endswith('"'):
        raise DatasetError(f"there is no folder {path}. {QUOTED}")
    have = f"there are {listing(there)}" if there else "`wanwrap prepare` makes one of pictures and clips"
    raise DatasetError(
        f"there is no folder {path}, and no data set of that name in {datasets}: {have}.{closest(name, there)}"
    )


def scan(folder: Path, preset: Preset, *, whole: bool = False) -> Dataset:
    """The folder's media, arranged as the preset trains them; what can't be trained is in its `left`.

    Raises:
        DatasetError: there is nothing to look at.
    """
    found, notes = media_in(folder)
    items, files = list[Item](), dict[Path, Kind]()
    for (directory, kind), paths in found.items():
        if preset.pictures if kind == "image" else preset.clips:
            files |= dict.fromkeys(paths, kind)
        else:
            why = f"{preset.name} trains no {'pictures' if kind == 'image' else 'clips'}"
            notes.append(f"{why}: {len(paths)} in {directory} are not used.")
            items += [Item(path=path, kind=kind, problem=why, stops=False) for path in paths]
    return arrange(folder, [*read_files(files, whole=whole), *items], preset, notes)


def media_in(folder: Path) -> tuple[dict[tuple[Path, Kind], list[Path]], list[str]]:
    """What looks like pictures and clips in a folder, its `images` and its `videos`, by folder and kind; and notes on
    what else lies there.

    Raises:
        DatasetError: there are none, or a folder can't be read.
    """
    found, notes = defaultdict[tuple[Path, Kind], list[Path]](list), list[str]()
    places = (folder / "videos", folder / "images", folder)
    one_each = {os.path.realpath(place): place for place in places if place.is_dir()}  # a link may make two of them one
    try:
        for directory in reversed(one_each.values()):
            names = sorted(os.listdir(directory))  # noqa: PTH208  10,000 at once
            there = [directory / name for name in names if name[0] != "." and name.lower() not in JUNK]
            used = set[str]()
            for path in there:
                if kind := meant(path):
                    found[directory, kind].append(path)
                    used |= {path.stem + CAPTION} | ({path.name} if path.suffix.lower() in READ else set())
            if unused := [path.name for path in there if path.name not in used and path not in places]:
                notes.append(f"not used in {directory}: {listing(unused)}.")
    except OSError as error:
        raise DatasetError(f"{error.filename or folder} can't be read: {error.strerror}.") from error
    if not found:
        readable = ", ".join(sorted(suffix[1:] for suffix in READ))
        raise DatasetError(" ".join([f"{folder} holds no pictures or clips ({readable}).", *notes]))
    return found, notes


def arrange(folder: Path, items: Iterable[Item], preset: Preset, notes: Sequence[str] = ()) -> Dataset:
    """Entries for what is there, in the preset's own choices; upstream takes one frame rate for a whole entry."""
    groups, files = defaultdict[tuple[Path, Kind, float], list[Item]](list), Counter[tuple[Path, Kind]]()
    left = list[Item]()
    for item in items:
        directory, problem = item.path.parent, item.problem or _too_little(item, preset)
        files[directory, item.kind] += item.stops  # what upstream reads, by its ending
        if problem:
            left.append(replace(item, problem=problem))
        else:
            groups[directory, item.kind, item.fps].append(item)

    entries = list[Entry]()
    for (directory, kind, fps), group in sorted(groups.items()):
        listed = len(group) < files[directory, kind]  # upstream would find others in the folder
        for how in preset.clips if kind == "video" else [preset.pictures]:
            options: dict[str, Any] = {"enable_bucket": True, "bucket_no_upscale": preset.bucket_no_upscale}
            options |= {name: value for name, value in vars(how).items() if value is not None}
            options |= {"source_fps": fps} if kind == "video" else {}
            entries.append(Entry(kind=kind, directory=directory, items=tuple(group), options=options, listed=listed))
    return Dataset(
        name=folder.name,
        entries=tuple(entry for entry in entries if len(entry.short) < len(entry.items)),
        notes=(*notes, *notes_on(entries)),
        left=tuple(left),
        root=folder,
    )


def _too_little(item: Item, preset: Preset) -> str | None:
    """Why the preset can take nothing of a clip."""
    if item.kind == "image":
        return None
    if item.fps < buckets.FPS:
        return f"it runs at {item.fps:.4g} fps; below 16, motion would be trained too fast: `wanwrap prepare` mends it"
    needed = min(max(clips.target_frames) for clips in preset.clips)
    return too_short(item, needed) if buckets.frames_at_16(item.frames, item.fps) < needed else None
