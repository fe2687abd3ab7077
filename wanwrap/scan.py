"""A folder of pictures and clips with captions -> a data set, in a preset's own choices.

Everything that upstream would drop, mistake or fail on is refused here, or said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wanwrap import buckets
from wanwrap.data import absolute
from wanwrap.dataset import Dataset, Entry, check_buckets
from wanwrap.errors import DatasetError, closest, listing
from wanwrap.media import (
    CAPTION,
    IMAGES,
    SAME_FPS,
    VIDEOS,
    Item,
    Kind,
    check_captions,
    check_names,
    kind_of,
    probe,
    warnings,
)
from wanwrap.preset import Clips, Preset


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
        raise DatasetError(f"{datasets} holds several data sets ({names}); say which one: --dataset NAME.")
    raise DatasetError(
        f"there is no data set in {datasets}; put pictures and clips with captions there, in a folder, or give --dataset FOLDER."
    )


def scan(folder: Path, preset: Preset, *, whole: bool = False, done: Callable[[], object] = bool) -> Dataset:
    """The folder's media, arranged as the preset trains them.

    Raises:
        DatasetError: something that upstream would drop, mix up or fail on.
    """
    media = media_in(folder)
    for paths in media.values():
        check_captions(paths)
    items = {where: probe(paths, where[1], whole=whole, done=done) for where, paths in media.items()}
    return arrange(folder, items, preset)


def media_in(folder: Path) -> dict[tuple[Path, Kind], list[Path]]:
    """A folder's pictures and clips, and those in its `images` and `videos`, by folder and kind; none is empty.

    Raises:
        DatasetError: there are none, or some that upstream would mix up or pass over.
    """
    kinds: tuple[Kind, ...] = ("image", "video")
    found = {
        (directory, kind): sorted(path for path in directory.iterdir() if kind_of(path) == kind)
        for directory in (folder, folder / "images", folder / "videos")
        if directory.is_dir()
        for kind in kinds
    }
    media = {where: paths for where, paths in found.items() if paths}
    if not media:
        inside = [path.name for path in _folders(folder) if any(map(kind_of, path.iterdir()))]
        hint = f" Its folders hold some: {listing(inside)}; give one of them." if inside else ""
        raise DatasetError(f"{folder} holds no pictures or clips that upstream reads ({_readable()}).{hint}")
    for (directory, _), paths in media.items():
        check_names(directory, paths)
    return media


def _readable() -> str:
    return ", ".join(sorted(suffix[1:] for suffix in IMAGES | VIDEOS))


def arrange(folder: Path, items: Mapping[tuple[Path, Kind], tuple[Item, ...]], preset: Preset) -> Dataset:
    """Entries for what is there, in the preset's own choices."""
    general = {"enable_bucket": True, "bucket_no_upscale": preset.bucket_no_upscale}
    entries: list[Entry] = []
    notes = _unused(folder)
    for (directory, kind), found in items.items():
        if kind == "image" and preset.pictures:
            options = {**general, **_options(preset.pictures)}
            entries.append(Entry(kind=kind, directory=directory, items=found, options=options))
        elif kind == "video" and preset.clips:
            clips, said = _clips(directory, found, preset.clips, general)
            entries += clips
            notes += said
        else:
            what = "pictures" if kind == "image" else "clips"
            notes.append(f"{preset.name} trains no {what}: {len(found)} in {directory} are not used.")
    if not entries:
        raise DatasetError(f"{folder} holds nothing that {preset.name} trains: {' '.join(notes)}")
    for entry in entries:
        check_buckets(entry)
    notes += warnings(item for found in items.values() for item in found)
    return Dataset(name=folder.name, entries=tuple(entries), notes=tuple(notes))


def _options(declared: object) -> dict[str, Any]:
    """A preset's Pictures or Clips by upstream's names."""
    return {name: value for name, value in vars(declared).items() if value is not None}


def _clips(
    directory: Path, found: tuple[Item, ...], choices: Sequence[Clips], general: Mapping[str, Any]
) -> tuple[list[Entry], list[str]]:
    """One entry for each of the preset's choices that clips are long enough for."""
    fps = source_fps(directory, found)
    entries, notes, useful = [], list[str](), set[Item]()
    for choice in choices:
        options = {**general, **_options(choice), "source_fps": fps}
        longest = max(choice.target_frames)
        fitting = {
            item for item in found if longest in {count for _, count in buckets.windows(item.frames or 0, options)}
        }
        useful |= fitting
        if fitting:
            entries.append(Entry(kind="video", directory=directory, items=found, options=options))
        if short := [item.path.name for item in found if item not in fitting]:
            notes.append(f"too short for {longest} frames, not trained at that length: {listing(short)}.")
    if useful != set(found):
        short = [
            f"{item.path.name} ({item.frames} frames at {item.fps:.4g} fps)" for item in found if item not in useful
        ]
        shortest = min(max(choice.target_frames) for choice in choices)
        raise DatasetError(
            f"clips in {directory} are shorter than {shortest} frames at 16 fps ({shortest / buckets.FPS:.1f} s): "
            f"{listing(short)}; replace or remove them."
        )
    return entries, notes


def source_fps(directory: Path, clips: Sequence[Item]) -> float:
    """The frame rate of a folder's clips, which upstream takes for all of them and never reads itself.

    Raises:
        DatasetError: several, or one below the 16 fps that upstream can't slow down from.
    """
    rates = Counter(clip.fps or 0.0 for clip in clips)
    rate = rates.most_common(1)[0][0]
    way_out = "convert them: ffmpeg -i IN.mp4 -r 16 -c:v libx264 -crf 18 OUT.mp4"
    if any(abs(other - rate) > SAME_FPS * rate for other in rates):
        rounded = ", ".join(f"{fps:.4g}" for fps in sorted(rates))
        raise DatasetError(
            f"the clips in {directory} run at {rounded} fps; upstream takes one rate for a folder. Put them in data sets of their own, or {way_out}."
        )
    if rate < buckets.FPS * (1 - SAME_FPS):
        raise DatasetError(
            f"the clips in {directory} run at {rate:.4g} fps; below 16, motion would be trained too fast. {way_out[0].upper()}{way_out[1:]}."
        )
    return max(rate, buckets.FPS)


def _unused(folder: Path) -> list[str]:
    """Files and folders that look as if they were meant to be trained and are not."""
    ours = {folder, folder / "images", folder / "videos"}
    notes = []
    for directory in sorted(path for path in ours if path.is_dir()):
        visible = [path for path in directory.iterdir() if not path.name.startswith(".")]
        stems = {path.stem for path in visible if kind_of(path)}
        other = [
            p.name for p in visible if p.is_file() and not kind_of(p) and (p.suffix != CAPTION or p.stem not in stems)
        ]
        folders = [p.name for p in visible if p.is_dir() and p not in ours and any(map(kind_of, p.iterdir()))]
        if other:
            notes.append(f"not used in {directory}: {listing(sorted(other))}.")
        if folders:
            notes.append(f"folders in {directory} are not searched: {listing(sorted(folders))}.")
    return notes
