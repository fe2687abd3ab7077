"""A folder of pictures and clips with captions -> a data set, in a preset's own choices.

Everything that upstream would drop, mistake or fail on is found here, file by file.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wanwrap.data.dataset import Dataset, Entry, Left, too_short, too_short_for_longest
from wanwrap.data.gather import gather
from wanwrap.data.media import CAPTION, IMAGES, JUNK, SAME_FPS, VIDEOS, Item, Kind, kind_of, meant, warnings
from wanwrap.errors import DatasetError, closest, listing
from wanwrap.paths import absolute
from wanwrap.preset import Clips, Preset
from wanwrap.system import console
from wanwrap.upstream import buckets

USUAL = (16.0, 24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 48.0, 50.0, 60000 / 1001, 60.0, 120.0)  # frames a second


def find(name: str | None, datasets: Path) -> Path:
    """The folder meant by `--dataset`: a path, a name in the workspace's `datasets`, or the only one there.

    Raises:
        DatasetError: none, or several where none was named.
    """
    if name is None:
        return _only(datasets)
    path = absolute(name)
    if not Path(name).is_absolute() and len(Path(name).parts) == 1 and (datasets / name).is_dir():
        return datasets / name
    if path.is_dir():
        return path
    if path.is_file():
        raise DatasetError(f"{path} is a file; give the folder that it lies in.")
    there = [folder.name for folder in _folders(datasets)]
    raise DatasetError(f"there is no folder {path} and no data set {name!r} in {datasets}.{closest(name, there)}")


def _folders(datasets: Path) -> list[Path]:
    return sorted(folder for folder in datasets.glob("[!.]*") if folder.is_dir())


def _only(datasets: Path) -> Path:
    folders = _folders(datasets)
    if len(folders) == 1:
        return folders[0]
    if folders:
        names = listing(folder.name for folder in folders)
        raise DatasetError(f"{datasets} holds several data sets ({names}); say which one.")
    raise DatasetError(
        f"there is no data set in {datasets}; put pictures and clips with captions there, in a folder, or name another folder."
    )


def scan(folder: Path, preset: Preset, *, whole: bool = False) -> Dataset:
    """The folder's media, arranged as the preset trains them; what can't be trained is in its `left`.

    Raises:
        DatasetError: there is nothing to look at, or the folder's name can't be written into a TOML.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in str(folder)):
        raise DatasetError(f"the name of {folder} is not UTF-8, in which data sets are written; rename it.")
    visible = {directory: _visible(directory) for directory in _directories(folder)}
    notes = [note for directory, paths in visible.items() for note in _unused(directory, paths, visible)]
    items, left = dict[tuple[Path, Kind], tuple[Item, ...]](), list[Left]()
    found = media_in(folder, visible)
    trained = {kind for kind, choice in {"image": preset.pictures, "video": preset.clips}.items() if choice}
    total = sum(len(paths) for (_, kind), paths in found.items() if kind in trained)
    with console.bar("reading files", total) as done:
        for (directory, kind), paths in found.items():
            if kind not in trained:
                why = f"{preset.name} trains no {'pictures' if kind == 'image' else 'clips'}"
                notes.append(f"{why}: {len(paths)} in {directory} are not used.")
                left += (Left(path=path, kind=kind, reason=why, stops=False) for path in paths)
            else:
                items[directory, kind], bad = gather(paths, kind, whole=whole, done=done)
                left += bad
    return arrange(folder, items, preset, left, notes)


def media_in(folder: Path, visible: Mapping[Path, list[Path]] | None = None) -> dict[tuple[Path, Kind], list[Path]]:
    """What looks like pictures and clips in a folder, its `images` and its `videos`, by folder and kind; none is empty.

    `visible` are the files of each, where they have been listed already.

    Raises:
        DatasetError: there are none.
    """
    kinds: tuple[Kind, ...] = ("image", "video")
    listed = visible or {directory: _visible(directory) for directory in _directories(folder)}
    found = {(directory, kind): list[Path]() for directory in listed for kind in kinds}
    for directory, paths in listed.items():
        for path in paths:
            kind = meant(path)
            if kind and (kind_of(path) or path.is_file()):
                found[directory, kind].append(path)
    if not any(found.values()):
        inside = [path.name for path in _folders(folder) if _holds_media(path)]
        hint = f" Its folders hold some: {listing(inside)}; give one of them." if inside else ""
        raise DatasetError(f"{folder} holds no pictures or clips that upstream reads ({_readable()}).{hint}")
    return {where: paths for where, paths in found.items() if paths}


def _directories(folder: Path) -> list[Path]:
    """The folder, its images and its videos; one that a link makes another of them only once."""
    try:
        there = [each for each in (folder, folder / "images", folder / "videos") if each.is_dir()]
    except OSError as error:
        raise DatasetError(f"{folder} can't be read: {error.strerror}.") from error
    return list({os.path.realpath(each): each for each in reversed(there)}.values())[::-1]


def _visible(directory: Path) -> list[Path]:
    """Raises DatasetError: the folder can't be read."""
    try:
        names = sorted(name for name in os.listdir(directory) if name[0] != "." and name.lower() not in JUNK)  # noqa: PTH208  10,000 at once
        return [directory / name for name in names]
    except OSError as error:
        raise DatasetError(f"{directory} can't be read: {error.strerror}.") from error


def _readable() -> str:
    return ", ".join(sorted(suffix[1:] for suffix in IMAGES | VIDEOS))


def arrange(
    folder: Path,
    items: Mapping[tuple[Path, Kind], tuple[Item, ...]],
    preset: Preset,
    left: Sequence[Left] = (),
    notes: Sequence[str] = (),
) -> Dataset:
    """Entries for what is there, in the preset's own choices."""
    general = {"enable_bucket": True, "bucket_no_upscale": preset.bucket_no_upscale}
    entries, left, notes = list[Entry](), [*left], [*notes]
    for (directory, kind), found in items.items():
        more: Iterable[Entry | Left | str] = ()
        if kind == "image" and preset.pictures:
            options = {**general, **_options(preset.pictures)}
            more = [Entry(kind=kind, directory=directory, items=found, options=options)] if found else []
        elif kind == "video" and preset.clips:
            more = _clips(directory, found, preset.clips, general)
        for each in more:
            if isinstance(each, Entry):
                entries.append(each)
            else:
                notes.append(each) if isinstance(each, str) else left.append(each)
    notes += (note for entry in entries if (note := too_short_for_longest(entry)))
    notes += warnings([item for found in items.values() for item in found])
    chosen = tuple(_listed(entry, entries, left) for entry in entries)
    return Dataset(name=folder.name, entries=chosen, notes=tuple(notes), left=tuple(left), root=folder)


def _options(declared: object) -> dict[str, Any]:
    """A preset's Pictures or Clips by upstream's names."""
    return {name: value for name, value in vars(declared).items() if value is not None}


def _listed(entry: Entry, entries: Iterable[Entry], left: Iterable[Left]) -> Entry:
    """The entry as a list of files, where upstream would find others in the folder."""
    others = {each.path for each in left if meant(each.path, IMAGES, VIDEOS) == entry.kind}
    others |= {item.path for each in entries if each.kind == entry.kind for item in each.items}
    others -= {item.path for item in entry.items}
    return replace(entry, listed=any(path.parent == entry.directory for path in others))


def _clips(
    directory: Path, found: Sequence[Item], choices: Sequence[Clips], general: Mapping[str, Any]
) -> Iterator[Entry | Left | str]:
    """Entries for each frame rate: upstream takes one for a whole entry, and never reads it itself."""
    for fps, group in by_fps(found):
        if fps < buckets.FPS:
            why = f"it runs at {fps:.4g} fps; below 16, motion would be trained too fast: `wanwrap prepare` mends it"
            yield from (Left(path=item.path, kind="video", reason=why, item=item) for item in group)
        else:
            options = [{**general, **_options(choice), "source_fps": fps} for choice in choices]
            yield from _lengths([Entry(kind="video", directory=directory, items=group, options=o) for o in options])


def _lengths(entries: Sequence[Entry]) -> Iterator[Entry | Left | str]:
    """Of a preset's choices those that clips are long enough for, with the clips that reach one of them in full."""
    used = [entry for entry in entries if any(map(entry.in_full, entry.items))]
    useful = tuple(item for item in entries[0].items if any(entry.in_full(item) for entry in used))
    kept = {item.path for item in useful}
    yield from (replace(entry, items=useful) for entry in used)
    yield from (too_short_for_longest(replace(e, items=useful)) or "" for e in entries if useful and e not in used)
    shortest = min(entry.longest for entry in entries)
    for item in entries[0].items:
        if item.path not in kept:
            yield Left(path=item.path, kind="video", reason=too_short(item, shortest), item=item)


def by_fps(clips: Iterable[Item]) -> list[tuple[float, tuple[Item, ...]]]:
    """Clips by the frame rate that is meant: each clip's own, so that one more in the folder moves no other."""
    groups = dict[float, list[Item]]()
    for item in clips:
        groups.setdefault(usual(item.fps or 0.0), []).append(item)
    return [(fps, tuple(groups[fps])) for fps in sorted(groups)]


def usual(fps: float) -> float:
    """The usual rate that is nearest, within 1 %, since phones keep one only nearly; else the rate to 2 digits."""
    near = min(USUAL, key=lambda rate: abs(rate - fps))
    return near if abs(near - fps) <= SAME_FPS * near else round(fps, 2)


def _unused(directory: Path, paths: Sequence[Path], ours: Collection[Path]) -> Iterator[str]:
    """Files and folders that look as if they were meant to be trained and are not."""
    stems = {path.stem for path in paths if meant(path)}
    rest = [p for p in paths if not meant(p, IMAGES, VIDEOS) and (p.suffix != CAPTION or p.stem not in stems)]
    other = [path.name for path in rest if path.is_file()]
    real = {*map(os.path.realpath, ours)}
    folders = [
        path.name for path in rest if os.path.realpath(path) not in real and path.is_dir() and _holds_media(path)
    ]
    if other:
        yield f"not used in {directory}: {listing(other)}."
    if folders:
        yield f"folders in {directory} are not searched: {listing(folders)}."


def _holds_media(folder: Path) -> bool:
    try:
        return any(map(kind_of, folder.iterdir()))
    except OSError:
        return False
