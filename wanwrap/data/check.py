"""A data set looked at as it would be trained: file by file and in sum. Writes nothing, starts nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from wanwrap.data import alike
from wanwrap.data.dataset import Dataset, Entry
from wanwrap.data.media import Item, holds
from wanwrap.errors import DatasetError, listing
from wanwrap.upstream import buckets

MOST_ALIKE = 3  # others that a file's remark names
SMALL = "small"  # a remark: trained far smaller than it could be
BLOWN_UP = 2.0  # times the side: what is added is blur, which is learned
Key = tuple[int, ...]  # a bucket: (width, height), for clips with frames


@dataclass(frozen=True, kw_only=True)
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
        if not item.frames:
            return size if any(item.size) else "-"
        return f"{size}, {item.frames} frames at {item.fps:.4g} fps, {item.frames / item.fps:.1f} s"


@dataclass(frozen=True, kw_only=True)
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
    def exit_code(self) -> int:
        """A run's, if it would be stopped; else 0."""
        return DatasetError.exit_code if self.stopping or not self.dataset.train_items else 0

    @cached_property
    def kept(self) -> list[Row]:
        """What is trained."""
        return [row for row in self.rows if not row.item.problem]

    @cached_property
    def enlarged(self) -> list[Row]:
        """What is trained larger than it is."""
        return [row for row in self.kept if row.scale > 1]

    @cached_property
    def stopping(self) -> list[Row]:
        """What stops a run."""
        return [row for row in self.rows if row.item.problem and row.item.stops]

    @cached_property
    def buckets(self) -> Counter[Key]:
        """How many things of an epoch lie in each bucket, repeats counted."""
        count = Counter[Key]()
        for entry in self.dataset.entries:
            for key in entry.keys:
                count[key] += entry.options.get("num_repeats", 1)
        return count

    @property
    def largest(self) -> Key | None:
        """The bucket of most tokens, which decides on the memory."""
        return max(self.buckets, key=buckets.tokens, default=None)

    def warnings(self) -> Iterator[str]:
        """What does not stop a run, and may not be meant."""
        yield from self.dataset.notes
        if large := [row.item.path for row in self.kept if row.scale >= BLOWN_UP]:
            yield f"enlarged to twice their size and more, so that blur is learned: {self._names(large)}."
        if small := [row.item.path for row in self.kept if SMALL in row.remarks]:
            yield f"less than a quarter of the pixels that they could be trained with: {self._names(small)}."
        for group in self.alike[:3]:
            yield f"look the same: {self._names(group)}."
        if len(self.alike) > 3:
            yield f"{len(self.alike) - 3} more groups of files look the same."
        if without := [row.item.path for row in self.kept if row.trigger is False]:
            yield f"{self.trigger!r} is not in the captions of {self._names(without)}."
        if same := sum(map(len, self.same_captions)):
            yield f"{same} of {len(self.kept)} files share a caption with another, as {self._names(self.same_captions[0])}."

    def _names(self, paths: Iterable[Path]) -> str:
        return listing(map(self.dataset.short, paths))


def check(dataset: Dataset, trigger: str | None = None) -> Checked:
    """A data set whose files have been read whole, file by file."""
    left, entries = {item.path for item in dataset.left}, defaultdict[Path, list[Entry]](list)
    kept, captions = dict[Path, Item](), defaultdict[str, list[Path]](list)
    for entry in dataset.entries:
        for item in entry.items:
            if item.path not in left:
                entries[item.path].append(entry)
                kept[item.path] = item
    for path, item in kept.items():
        captions[item.caption].append(path)
    groups = alike.groups({path: item.look for path, item in kept.items() if item.look is not None})
    like = {path: group[: MOST_ALIKE + 1] for group in groups for path in group}

    rows = [Row(item=item, trigger=_holds(item, trigger)) for item in dataset.left]
    for path, item in kept.items():
        row = _row(item, entries[path], trigger)
        others = [dataset.short(other) for other in like.get(path, ()) if other != path][:MOST_ALIKE]
        remarks = [*row.remarks, f"looks like {listing(others)}"] if others else row.remarks
        if len(captions[item.caption]) > 1:
            remarks = [*remarks, "its caption is another's, too"]
        rows.append(replace(row, remarks=remarks))
    return Checked(
        dataset=dataset,
        trigger=trigger or None,
        rows=sorted(rows, key=lambda row: str(row.item.path)),
        alike=groups,
        same_captions=[paths for paths in captions.values() if len(paths) > 1],
    )


def _holds(item: Item, trigger: str | None) -> bool | None:
    return holds(item.caption, trigger) if trigger and any(item.size) else None


def _row(item: Item, entries: Sequence[Entry], trigger: str | None) -> Row:
    """What is to be said of a file alone, in all the entries that take it."""
    scale, small = 0.0, True
    for entry in entries:
        width, height = entry.cached_size(item)
        most = entry.options["resolution"]
        scale = max(scale, width / item.size[0], height / item.size[1])
        small = small and 4 * width * height < most[0] * most[1]
    having = _holds(item, trigger)
    remarks = {
        f"enlarged {scale:.1f} times": scale > 1,
        SMALL: small and scale <= 1,
        f"{trigger!r} is not in its caption": having is False,
    }
    return Row(
        item=item,
        keys=[key for entry in entries for key in entry.shapes(item)],
        scale=scale,
        trigger=having,
        remarks=[*item.odd, *(what for what, so in remarks.items() if so)],
    )


def bucket_name(key: Key) -> str:
    """`1280x720, picture`, or `1280x720, 21 frames`."""
    frames = "picture" if len(key) == 2 else "1 frame" if key[2] == 1 else f"{key[2]} frames"
    return f"{key[0]}x{key[1]}, {frames}"
