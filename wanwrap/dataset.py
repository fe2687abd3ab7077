"""What is trained: entries of pictures or clips, counted as upstream counts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wanwrap import buckets
from wanwrap.errors import DatasetError, listing
from wanwrap.media import Item, Kind


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One `[[datasets]]` of the TOML: a folder of one kind, `options` by upstream's names."""

    kind: Kind
    directory: Path
    items: tuple[Item, ...]
    options: Mapping[str, Any]

    @cached_property
    def keys(self) -> tuple[tuple[int, ...], ...]:
        """The bucket of each thing that is trained: (width, height), with frames for a window of a clip."""
        return tuple(self._keys())

    def _keys(self) -> Iterator[tuple[int, ...]]:
        for item in self.items:
            if self.kind == "image":
                yield self._bucket(item.size)
            else:
                # Clips are cached at their bucket's size, upscaled if need be; that size is all training sees.
                size = self._bucket(buckets.bucket(item.size, tuple(self.options["resolution"])))
                yield from ((*size, count) for _, count in sorted(buckets.windows(item.frames or 0, self.options)))

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

    @property
    def train_items(self) -> int:
        """What upstream prints as `num train items`."""
        return sum(len(entry.keys) * entry.options.get("num_repeats", 1) for entry in self.entries)

    @property
    def batches(self) -> int:
        """What upstream prints as `num batches per epoch` on one GPU."""
        return sum(buckets.batches(entry.keys, entry.options) for entry in self.entries)

    def steps(self, epochs: int, accumulation: int) -> int:
        """What upstream prints as `total optimization steps` on one GPU."""
        return epochs * buckets.steps_per_epoch(self.batches, accumulation)


def check_buckets(entry: Entry) -> None:
    """Raises DatasetError: pictures of which nothing is left when their sides are cut to multiples of 16."""
    tiny = [item.path.name for item in entry.items if min(item.size) < buckets.STEP]
    if tiny:
        raise DatasetError(f"smaller than 16 pixels: {listing(tiny)} in {entry.directory}; remove them.")
