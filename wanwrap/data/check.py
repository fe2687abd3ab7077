"""A data set looked at as it would be trained: file by file and in sum. Writes nothing, starts nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from wanwrap.data import alike
from wanwrap.data.dataset import Dataset, Entry
from wanwrap.data.media import Item, holds
from wanwrap.errors import DatasetError, listing

MOST_ALIKE = 3  # others that a file's remark names, and groups of them that are told
BLOWN_UP = 2.0  # times the side: what is added is blur, which is learned
MANY, LONG = 4, 81  # items that a clip gives, and frames of an item: more take time and memory, and may not be meant
ENLARGED = "enlarged to twice its size or more, so that blur is learned"
SMALL = "so small that it is trained with less than a quarter of the preset's pixels"
SHARED = "another file has the same caption"
Key = tuple[int, ...]  # a bucket: (width, height), for clips with frames


@dataclass(frozen=True)
class Row:
    """One file, with the buckets of what it gives: none where it is not trained.

    `scale` is by how much its sides are enlarged at most, `trigger` whether its caption has the trigger word (None where
    none was asked for); `remarks` are all that is to be said of a file that is trained, alone and among the others.
    """

    item: Item
    keys: Sequence[Key] = ()
    scale: float = 0.0
    trigger: bool | None = None
    remarks: Sequence[str] = ()

    @property
    def facts(self) -> str:
        """Size, and of a clip frames, rate and length; a dash for what was not read."""
        item, size = self.item, "{}x{}".format(*self.item.size)
        if item.frames:
            size += f", {item.frames} frames at {item.fps:.4g} fps, {item.frames / item.fps:.1f} s"
        return f"{size}, enlarged {self.scale:.1f} times" if self.scale > 1 else size if any(item.size) else "-"


@dataclass(frozen=True)
class Checked:
    """A data set as it would be trained; `trigger` is a word that every caption should hold.

    `alike` are the files that look the same, `same_captions` those that share their words.
    """

    dataset: Dataset
    trigger: str | None
    rows: Sequence[Row]
    alike: Sequence[Sequence[Path]]
    same_captions: Sequence[Sequence[Path]]

    @property
    def kept(self) -> list[Row]:
        """What is trained."""
        return [row for row in self.rows if not row.item.problem]

    @property
    def stopping(self) -> list[Row]:
        """What stops a run."""
        return [row for row in self.rows if row.item.problem and row.item.stops]

    @property
    def exit_code(self) -> int:
        """A run's, if it would be stopped; else 0."""
        return DatasetError.exit_code if self.stopping or not self.dataset.train_items else 0

    @property
    def buckets(self) -> Counter[Key]:
        """How many things of an epoch lie in each bucket, repeats counted."""
        count = Counter[Key]()
        for entry in self.dataset.entries:
            for key in entry.keys:
                count[key] += entry.options.get("num_repeats", 1)
        return count

    def warnings(self) -> Iterator[str]:
        """What does not stop a run, and may not be meant."""
        yield from self.dataset.notes
        kept, short = self.kept, self.dataset.short
        for remark in (ENLARGED, SMALL, _lacking(self.trigger), SHARED):
            if names := [short(row.item.path) for row in kept if remark in row.remarks]:
                yield f"{remark}: {listing(names)}."
        for group in self.alike[:MOST_ALIKE]:
            yield f"look the same: {listing(map(short, group))}."
        if len(self.alike) > MOST_ALIKE:
            yield f"{len(self.alike) - MOST_ALIKE} more groups of files look the same."
        clips = [row.keys for row in kept if row.item.kind == "video"]
        longest = max((key[2] for keys in clips for key in keys), default=0)
        if (items := sum(map(len, clips))) > MANY * len(clips) or longest > LONG:
            what = f"{len(clips)} clip(s) give {items} item(s), up to {longest} frames long"
            yield f"{what}, which takes time and memory (frame_extraction, target_frames)."


def check(dataset: Dataset, trigger: str | None = None) -> Checked:
    """A data set whose files have been read whole, file by file."""
    items, entries = dict[Path, Item](), defaultdict[Path, list[Entry]](list)
    for entry in dataset.entries:
        for item in entry.items:
            items[item.path] = item
            entries[item.path].append(entry)
    items |= {item.path: item for item in dataset.left}
    kept, captions = [item for item in items.values() if not item.problem], defaultdict[str, list[Path]](list)
    for item in kept:
        captions[item.caption].append(item.path)
    same_captions = [paths for paths in captions.values() if len(paths) > 1]
    groups = alike.groups({item.path: item.look for item in kept if item.look is not None})

    others = defaultdict[Path, list[str]](list)
    for group in groups:
        for path in group:
            near = [dataset.short(other) for other in group[: MOST_ALIKE + 1] if other != path]
            others[path].append(f"looks like {listing(near, MOST_ALIKE)}")
    for path in chain.from_iterable(same_captions):
        others[path].append(SHARED)
    rows = [_row(items[path], entries[path], trigger, others[path]) for path in sorted(items, key=str)]
    return Checked(dataset, trigger or None, rows, groups, same_captions)


def _row(item: Item, entries: Sequence[Entry], trigger: str | None, others: Sequence[str]) -> Row:
    """A file in all the entries that take it, and what the `others` make of it."""
    having = holds(item.caption, trigger) if trigger and any(item.size) else None
    if item.problem:
        return Row(item, trigger=having)
    scale, small = 0.0, True
    for entry in entries:
        width, height = entry.cached_size(item)
        most = entry.options["resolution"]
        scale = max(scale, width / item.size[0], height / item.size[1])
        small = small and 4 * width * height < most[0] * most[1]
    own = {ENLARGED: scale >= BLOWN_UP, SMALL: small and scale <= 1, _lacking(trigger): having is False}
    remarks = [*item.odd, *(remark for remark, true in own.items() if true), *others]
    return Row(item, [key for entry in entries for key in entry.shapes(item)], scale, having, remarks)


def _lacking(trigger: str | None) -> str:
    return f"{trigger!r} is not in its caption"


def bucket_name(key: Key) -> str:
    """`1280x720, picture`, or `1280x720, 21 frames`."""
    frames = "picture" if len(key) == 2 else "1 frame" if key[2] == 1 else f"{key[2]} frames"
    return f"{key[0]}x{key[1]}, {frames}"
