"""What is trained: entries of pictures or clips, counted as upstream counts them, and as the TOML that it reads."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from wanwrap.data.media import Item, Kind
from wanwrap.errors import DatasetError, listing
from wanwrap.paths import folder
from wanwrap.system.shell import quote
from wanwrap.upstream import buckets

MOST = 5  # files that an error names; `check` names all
TEMPLATE = folder("templates") / "dataset.toml"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One `[[datasets]]` of the TOML: files of one kind in one folder, `options` by upstream's names.

    With `listed` upstream is given a list of the files; without, it takes all of their kind in the folder. What it caches
    lies in `cache`, which a plan chooses where the user's TOML doesn't.
    """

    kind: Kind
    directory: Path
    items: tuple[Item, ...]
    options: Mapping[str, Any]
    listed: bool = False
    cache: Path = Path()

    @cached_property
    def keys(self) -> tuple[tuple[int, ...], ...]:
        """The bucket of each thing that is trained, by which upstream groups them: its shape as the model sees it."""
        return tuple(shape for item in self.items for shape in self.shapes(item))

    def shapes(self, item: Item) -> list[tuple[int, ...]]:
        """What one file gives: (width, height), with frames for a window of a clip."""
        size = self.cached_size(item)
        return [size] if self.kind == "image" else [(*size, count) for _, count in self.windows(item)]

    def windows(self, item: Item) -> list[tuple[int, int]]:
        """The (first frame, number of frames) that are taken of a clip; empty where it is too short for all."""
        return sorted(buckets.windows(item.frames, self.options))

    def cached_size(self, item: Item) -> buckets.Size:
        """(width, height) in pixels at which the VAE sees a file: clips in buckets, whatever the options are."""
        options, clip = self.options, self.kind == "video"
        enabled = clip or options.get("enable_bucket", False)
        no_upscale = not clip and options.get("bucket_no_upscale", False)
        return buckets.bucket(item.size, tuple(options["resolution"]), enabled=enabled, no_upscale=no_upscale)

    @property
    def longest(self) -> int:
        """The frames of the longest window."""
        return int(max(self.options.get("target_frames") or [1]))

    @property
    def short(self) -> list[Item]:
        """Clips of which the longest window takes nothing."""
        if self.kind == "image" or self.options.get("frame_extraction") == "full":
            return []
        rate = self.options.get("source_fps")
        return [item for item in self.items if buckets.frames_at_16(item.frames, rate) < self.longest]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is trained, and what is `left` out, with its problems.

    `config` is the user's own TOML, used as it is; None where wanwrap renders one.
    """

    name: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    config: Path | None = None
    left: tuple[Item, ...] = ()
    root: Path | None = None  # the folder that all of it lies in; None where a TOML names several

    @property
    def train_items(self) -> int:
        """What upstream prints as `num train items`."""
        return sum(len(entry.keys) * entry.options.get("num_repeats", 1) for entry in self.entries)

    @property
    def batches(self) -> int:
        """What upstream prints as `num batches per epoch` on one GPU."""
        return sum(buckets.batches(entry.keys, entry.options) for entry in self.entries)

    @cached_property
    def largest(self) -> tuple[int, tuple[int, ...]] | None:
        """Tokens of the largest batch, which decides on the memory, and its bucket."""
        return max(((buckets.tokens(key) * most, key) for key, _, most in self.batch_shapes), default=None)

    @cached_property
    def batch_shapes(self) -> tuple[tuple[tuple[int, ...], int, int], ...]:
        """Each bucket of each entry: its shape, its batches in an epoch, and the things in the largest of these."""
        return tuple(
            (key, buckets.batches([key] * count, entry.options), buckets.most_in_batch(count, entry.options))
            for entry in self.entries
            for key, count in Counter(entry.keys).items()
        )

    def steps(self, epochs: int, accumulation: int, gpus: int = 1) -> int:
        """What upstream prints as `total optimization steps`."""
        return epochs * buckets.steps_per_epoch(self.batches, accumulation, gpus)

    def short(self, path: Path) -> str:
        """A path as the data set's owner knows it."""
        name = str(path).removeprefix(f"{self.root}{os.sep}")
        return name if name.isprintable() else repr(name)[1:-1]

    def sound(self, *, skip_bad: bool = False) -> Dataset:
        """The data set, if a run may start on it; with `skip_bad` without the files that would stop it.

        Raises:
            DatasetError: files that would not be trained, or nothing that would.
        """
        bad = [item for item in self.left if item.stops]
        if bad and self.config and skip_bad:
            raise DatasetError(f"{self.config} is used as it is, bad files and all: --skip_bad can't leave them out.")
        if bad and not skip_bad:
            raise DatasetError(self._complaint(bad))
        if not self.train_items:
            reasons = dict.fromkeys(f"{item.path.name}: {item.problem}" for item in self.left)
            raise DatasetError(f"nothing in {self.name} would be trained: {listing(reasons)}.")
        if not bad:
            return self
        out = f"left out, as you said: {listing(item.path.name for item in bad)}."
        return replace(self, notes=(*self.notes, out))

    def _complaint(self, bad: list[Item]) -> str:
        files = len({item.path for entry in self.entries for item in entry.items} | {item.path for item in bad})
        lines = "".join(f"\n  {item.path}: {item.problem}" for item in bad[:MOST])
        place = quote(str(self.root or self.config))
        more = f"\n  and {len(bad) - MOST} more; `wanwrap check {place}` lists all" if len(bad) > MOST else ""
        way_out = "" if self.config else "\nMend or remove them, or train without them: --skip_bad"
        return f"{len(bad)} of {files} file(s) would not be trained:{lines}{more}{way_out}"


def notes_on(entries: Sequence[Entry]) -> Iterator[str]:
    """What is not trained as a viewer shows it, or not at a length that was asked for, with the files' names."""
    names = defaultdict[str, dict[Path, str]](dict)
    for entry in entries:
        for item in entry.short:
            names[f"too short for {entry.longest} frames, not trained at that length"][item.path] = item.path.name
    for item in chain.from_iterable(entry.items for entry in entries):
        for what in item.odd:
            names[what][item.path] = item.path.name
    return (f"{what}: {listing(files.values())}." for what, files in names.items())


def too_short(item: Item, frames: int) -> str:
    """Why a clip is not trained at all."""
    needed = f"{frames} at 16 fps ({frames / buckets.FPS:.1f} s)"
    there = "its 1 frame is" if item.frames == 1 else f"its {item.frames} frames at {item.fps:.4g} fps are"
    return f"{there} less than {needed}; replace or remove it"


def render(dataset: Dataset, lists: Mapping[tuple[Item, ...], Path] | None = None) -> str:
    """The commented template, filled with a data set; `lists` are of files, for entries that are to be listed."""
    import tomlkit

    head, *templates = TEMPLATE.read_text(encoding="utf-8").split("[[datasets]]\n")
    document = tomlkit.parse(head)
    general: Any = document["general"]
    for name, value in dataset.entries[0].options.items():
        if name in general and all(entry.options.get(name) == value for entry in dataset.entries):
            general[name] = value
    parts = [tomlkit.dumps(document)]
    for entry in dataset.entries:
        files = (lists or {}).get(entry.items) if entry.listed else None
        key = f"{entry.kind}_jsonl_file" if files else f"{entry.kind}_directory"
        template = templates[0] if entry.kind == "image" else templates[1].replace("# Clips.", _heading(entry))
        table = tomlkit.parse(template.replace(f"{entry.kind}_directory", key))
        places = {key: (files or entry.directory).as_posix(), "cache_directory": entry.cache.as_posix()}
        for name, value in {**places, **entry.options}.items():
            if general.get(name) != value:
                table[name] = list(value) if isinstance(value, tuple) else value
        parts.append(f"[[datasets]]\n{tomlkit.dumps(table)}")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def _heading(entry: Entry) -> str:
    """What tells one entry of clips from the next."""
    width, height = entry.options["resolution"]
    frames = ", ".join(map(str, entry.options.get("target_frames", (1,))))
    return f"# Clips, target_frames {frames}, resolution {width}x{height}."


def file_list(items: Sequence[Item]) -> str:
    """Files as upstream reads a list of them: a JSON object a line, with whole paths and captions."""
    rows = ({f"{item.kind}_path": item.path.as_posix(), "caption": item.caption} for item in items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
