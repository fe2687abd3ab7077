"""What is trained: entries of pictures or clips, counted as upstream counts them; and what is left out, and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wanwrap.data.media import Item, Kind
from wanwrap.errors import DatasetError, listing
from wanwrap.upstream import buckets

MOST = 5  # files that an error names; `check` names all


@dataclass(frozen=True, kw_only=True)
class Left:
    """A file that is not trained; `stops` where a run would be another one than its owner means."""

    path: Path
    kind: Kind
    reason: str
    stops: bool = True
    item: Item | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One `[[datasets]]` of the TOML: files of one kind in one folder, `options` by upstream's names.

    With `listed` upstream is given a list of the files; without, it takes all of their kind in the folder.
    """

    kind: Kind
    directory: Path
    items: tuple[Item, ...]
    options: Mapping[str, Any]
    listed: bool = False

    @cached_property
    def keys(self) -> tuple[tuple[int, ...], ...]:
        """The bucket by which upstream groups each thing that is trained: its shape, without buckets the resolution."""
        shapes = (shape for item in self.items for shape in self.shapes_of(item))
        if self.kind == "image":
            return tuple(shapes)
        return tuple((*self._bucket((width, height)), count) for width, height, count in shapes)

    def shapes_of(self, item: Item) -> Iterator[tuple[int, ...]]:
        """What one file gives, as the model sees it: (width, height), with frames for a window of a clip."""
        frames = ((),) if self.kind == "image" else ((count,) for _, count in self.windows(item))
        return ((*self.cached_size(item), *count) for count in frames)

    @property
    def tokens(self) -> int:
        """What attention sees of its largest batch."""
        largest = max((buckets.tokens(shape) for item in self.items for shape in self.shapes_of(item)), default=0)
        return int(largest * self.options.get("batch_size", 1))

    def windows(self, item: Item) -> list[tuple[int, int]]:
        """The (first frame, number of frames) that are taken of a clip; empty where it is too short for all."""
        return sorted(buckets.windows(item.frames or 0, self.options))

    @property
    def longest(self) -> int:
        """The frames of its longest window."""
        return int(max(self.options.get("target_frames") or [1]))

    def in_full(self, item: Item) -> bool:
        """Whether a clip is long enough for it."""
        return self.longest in {count for _, count in self.windows(item)}

    def cached_size(self, item: Item) -> buckets.Size:
        """(width, height) in pixels at which the VAE sees a file: clips always in buckets."""
        if self.kind == "image":
            return self._bucket(item.size)
        return buckets.bucket(item.size, tuple(self.options["resolution"]))

    def _bucket(self, size: buckets.Size) -> buckets.Size:
        options = self.options
        return buckets.bucket(
            size,
            tuple(options["resolution"]),
            enabled=options.get("enable_bucket", False),
            no_upscale=options.get("bucket_no_upscale", False),
        )


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is trained. `config` is the user's own TOML, used as it is; None where wanwrap renders one."""

    name: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    config: Path | None = None
    left: tuple[Left, ...] = ()
    root: Path | None = None  # the folder that all of it lies in; None where a TOML names several

    @property
    def train_items(self) -> int:
        """What upstream prints as `num train items`."""
        return sum(len(entry.keys) * entry.options.get("num_repeats", 1) for entry in self.entries)

    @property
    def batches(self) -> int:
        """What upstream prints as `num batches per epoch` on one GPU."""
        return sum(buckets.batches(entry.keys, entry.options) for entry in self.entries)

    @property
    def tokens(self) -> int:
        """What attention sees of the largest batch, which decides on the memory."""
        return max((entry.tokens for entry in self.entries), default=0)

    def steps(self, epochs: int, accumulation: int, gpus: int = 1) -> int:
        """What upstream prints as `total optimization steps`."""
        return epochs * buckets.steps_per_epoch(self.batches, accumulation, gpus)

    @property
    def bad(self) -> tuple[Left, ...]:
        """The files that stop a run."""
        return tuple(left for left in self.left if left.stops)

    def sound(self, *, skip_bad: bool = False) -> Dataset:
        """The data set, if a run may start on it; with `skip_bad` without the files that would stop it.

        Raises:
            DatasetError: files that would not be trained, or nothing that would.
        """
        if self.bad and self.config and skip_bad:
            raise DatasetError(f"{self.config} is used as it is, bad files and all: --skip_bad can't leave them out.")
        if self.bad and not skip_bad:
            raise DatasetError(self._complaint())
        if not self.train_items:
            reasons = dict.fromkeys(f"{left.path.name}: {left.reason}" for left in self.left)
            raise DatasetError(f"nothing in {self.name} would be trained: {listing(reasons)}.")
        out = f"left out, as you said: {listing(left.path.name for left in self.bad)}."
        return replace(self, notes=(*self.notes, out)) if self.bad else self

    def _complaint(self) -> str:
        bad = self.bad
        files = len({item.path for entry in self.entries for item in entry.items} | {left.path for left in bad})
        lines = "".join(f"\n  {left.path}: {left.reason}" for left in bad[:MOST])
        place = shlex.quote(str(self.root or self.config))
        more = f"\n  and {len(bad) - MOST} more; `wanwrap check {place}` lists all" if len(bad) > MOST else ""
        way_out = "" if self.config else "\nMend or remove them, or train without them: --skip_bad"
        return f"{len(bad)} of {files} file(s) would not be trained:{lines}{more}{way_out}"


def too_short(item: Item, frames: int) -> str:
    """Why a clip is not trained at all."""
    needed = f"{frames} at 16 fps ({frames / buckets.FPS:.1f} s)"
    there = "its 1 frame is" if item.frames == 1 else f"its {item.frames} frames at {item.fps:.4g} fps are"
    return f"{there} less than {needed}; replace or remove it"


def too_short_for_longest(entry: Entry) -> str | None:
    """What is to be said of clips that an entry takes shorter than its longest window."""
    if entry.kind == "image" or entry.options.get("frame_extraction") == "full":
        return None
    short = [item.path.name for item in entry.items if not entry.in_full(item)]
    return f"too short for {entry.longest} frames, not trained at that length: {listing(short)}." if short else None
