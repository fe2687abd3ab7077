"""A data set looked at as it would be trained: file by file and in sum. Writes nothing, starts nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wanwrap.data import alike
from wanwrap.data.dataset import Dataset, Entry
from wanwrap.data.media import Item, Kind
from wanwrap.errors import DatasetError, listing
from wanwrap.upstream import buckets

MOST_ALIKE = 3  # others that a file's remark names
BLOWN_UP = 2.0  # times the side: what is added is blur, which is learned


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file. `keys` are the buckets of what it gives, (width, height) and for clips frames; `scale` is by how
    much its sides are enlarged at most, `small` whether it is trained far smaller than it could be; `reason` says why
    it is not trained, and `stops` whether a run stops at it.
    """

    path: Path
    kind: Kind
    item: Item | None
    keys: tuple[tuple[int, ...], ...] = ()
    scale: float = 0.0
    small: bool = False
    reason: str | None = None
    stops: bool = False

    @property
    def kept(self) -> bool:
        """Whether it is trained."""
        return self.reason is None

    @property
    def odd(self) -> list[str]:
        """What of it is trained otherwise than a viewer shows it."""
        size = [f"enlarged {self.scale:.1f} times"] if self.scale > 1 else ["small"] if self.small else []
        return [*(self.item.odd if self.item else ()), *size]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A data set as it would be trained; `trigger` is a word that every caption should hold."""

    dataset: Dataset
    rows: tuple[Row, ...]
    trigger: str | None

    @property
    def exit_code(self) -> int:
        """A run's, if it would be stopped; else 0."""
        return DatasetError.exit_code if self.stopping or not self.dataset.train_items else 0

    @cached_property
    def kept(self) -> list[Row]:
        """What is trained."""
        return [row for row in self.rows if row.kept]

    @cached_property
    def enlarged(self) -> list[Row]:
        """What is trained larger than it is."""
        return [row for row in self.kept if row.scale > 1]

    @property
    def stopping(self) -> list[Row]:
        """What stops a run."""
        return [row for row in self.rows if row.stops]

    @cached_property
    def buckets(self) -> Counter[tuple[int, ...]]:
        """How many things of an epoch lie in each bucket, repeats counted."""
        count = Counter[tuple[int, ...]]()
        for entry in self.dataset.entries:
            for item in entry.items:
                for key in entry.shapes(item):
                    count[key] += entry.options.get("num_repeats", 1)
        return count

    @property
    def largest(self) -> tuple[int, ...] | None:
        """The bucket of most tokens, which decides on the memory."""
        return max(self.buckets, key=buckets.tokens, default=None)

    @cached_property
    def alike(self) -> list[list[Path]]:
        """Pictures and clips that look the same."""
        looks = {row.path: row.item.look for row in self.kept if row.item and row.item.look is not None}
        return alike.groups(looks)

    @cached_property
    def same_captions(self) -> list[list[Path]]:
        """Files that share their words."""
        found = dict[str, list[Path]]()
        for row in self.kept:
            found.setdefault(row.item.caption if row.item else "", []).append(row.path)
        return [paths for paths in found.values() if len(paths) > 1]

    def remarks(self, row: Row) -> list[str]:
        """All that is to be said of a file that is trained, alone and among the others."""
        if not row.kept:
            return []
        told = row.odd
        if like := self._likes.get(row.path):
            told.append(f"looks like {self._names(like)}")
        if row.path in self._shared:
            told.append("its caption is another's, too")
        if self.holds_trigger(row) is False:
            told.append(f"{self.trigger!r} is not in its caption")
        return told

    @cached_property
    def _likes(self) -> dict[Path, list[Path]]:
        groups = [group[: MOST_ALIKE + 1] for group in self.alike]
        firsts = {path: some for group, some in zip(self.alike, groups, strict=True) for path in group}
        return {path: [each for each in some if each != path][:MOST_ALIKE] for path, some in firsts.items()}

    @cached_property
    def _shared(self) -> set[Path]:
        return {path for group in self.same_captions for path in group}

    def holds_trigger(self, row: Row) -> bool | None:
        """Whether a caption has the trigger word; None where none was asked for."""
        if self.trigger is None or row.item is None:
            return None
        from wanwrap.data.trigger import holds

        return holds(row.item.caption, self.trigger)

    def short(self, path: Path) -> str:
        """A path as the data set's owner knows it."""
        name = str(path).removeprefix(f"{self.dataset.root}{os.sep}")
        return name if name.isprintable() else repr(name)[1:-1]

    def warnings(self) -> Iterator[str]:
        """What does not stop a run, and may not be meant."""
        yield from self.dataset.notes
        large = [row for row in self.kept if row.scale >= BLOWN_UP]
        if large:
            yield f"enlarged to twice their size and more, so that blur is learned: {self._names(r.path for r in large)}."
        if small := [row.path for row in self.kept if row.small]:
            yield f"less than a quarter of the pixels that they could be trained with: {self._names(small)}."
        for group in self.alike[:3]:
            yield f"look the same: {self._names(group)}."
        if len(self.alike) > 3:
            yield f"{len(self.alike) - 3} more groups of files look the same."
        yield from self._about_captions()

    def _about_captions(self) -> Iterator[str]:
        without = [row.path for row in self.kept if self.holds_trigger(row) is False]
        if without:
            yield f"{self.trigger!r} is not in the captions of {self._names(without)}."
        if len(self.kept) > 1 and [len(group) for group in self.same_captions] == [len(self.kept)]:
            yield "all captions are the same: nothing tells what is to be learned from what is beside it."
        elif same := sum(map(len, self.same_captions)):
            yield f"{same} of {len(self.kept)} files share a caption with another, as {self._names(self.same_captions[0])}."

    def _names(self, paths: Iterable[Path]) -> str:
        return listing(map(self.short, paths))


def check(dataset: Dataset, trigger: str | None = None) -> Checked:
    """A data set whose files have been read whole, file by file."""
    return Checked(dataset=dataset, rows=tuple(_rows(dataset)), trigger=trigger or None)


def _rows(data: Dataset) -> list[Row]:
    left = {each.path: each for each in data.left}
    rows = [
        Row(path=each.path, kind=each.kind, item=each.item, reason=each.reason, stops=each.stops) for each in data.left
    ]
    by_path = dict[Path, list[tuple[Entry, Item]]]()
    for entry in data.entries:
        for item in entry.items:
            if item.path not in left:
                by_path.setdefault(item.path, []).append((entry, item))
    rows += [_kept(path, pairs) for path, pairs in by_path.items()]
    return sorted(rows, key=lambda row: str(row.path))


def _kept(path: Path, pairs: list[tuple[Entry, Item]]) -> Row:
    """One file in all the entries that take it."""
    entry, item = pairs[0]
    keys = tuple(key for each, _ in pairs for key in each.shapes(item))
    sizes = [each.cached_size(item) for each, _ in pairs]
    scale = max(max(width / item.size[0], height / item.size[1]) for width, height in sizes)
    small = all(4 * size[0] * size[1] < _area(each) for (each, _), size in zip(pairs, sizes, strict=True))
    return Row(path=path, kind=entry.kind, item=item, keys=keys, scale=scale, small=small)


def _area(entry: Entry) -> int:
    width, height = entry.options["resolution"]
    return int(width * height)
