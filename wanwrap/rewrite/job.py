"""What is made of which files: decided from headers alone, before a tensor is read. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap import __version__
from wanwrap.errors import WeightsError
from wanwrap.rewrite.pair import check_pair
from wanwrap.system.safetensors import FLOATS, WIDTHS, Row, Source
from wanwrap.upstream.dit import DTYPES, PREFIX, blocks_dtype
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.lora import Patch
from wanwrap.weights.provenance import made_from

STORED = {name: dtype for dtype, name in DTYPES.items()}
# what else can be done with a DiT that is not the published one
OWN = ", or use it as it is: without the option here, in a run with --dit_high, --dit_low or --dit"


@dataclass(frozen=True)
class Tensor:
    """What becomes of one row: its name and type in the new file; `by_rows` keeps its first dimension together."""

    row: Row
    name: str
    dtype: str
    by_rows: bool = False

    @property
    def count(self) -> int:
        """Its rows, or else its elements."""
        return self.row.shape[0] if self.by_rows else math.prod(self.row.shape)

    @property
    def bytes(self) -> int:
        """Its size in the new file."""
        return math.prod(self.row.shape) * WIDTHS[self.dtype]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One new file; `made` goes into its metadata, `patches` are by the new tensors' names.

    `sha256` and `lora_sha256` are what those of source and LoRA must turn out to be.
    """

    source: Source
    tensors: Sequence[Tensor]
    made: Mapping[str, Any]
    sha256: str | None = None
    lora: Source | None = None
    lora_sha256: str | None = None
    patches: Mapping[str, Sequence[Patch]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The new file's size, but for its header."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def hashed(self) -> tuple[Path, ...]:
        """The files whose sha256 there is something to compare with: one that is given, or a published file of that size."""
        published = self.source.bytes in [weight.size for weight in CATALOGUE.values()]
        source = self.source.paths if self.sha256 or published else ()
        return (*self.lora.paths, *source) if self.lora else source

    def check(self, marks: Mapping[Path, str]) -> None:
        """Raises WeightsError: by those sha256 that are known, a file is not what it was said to be."""
        _check_published(self.source, marks, self.sha256, OWN)
        if self.lora:
            _check_published(self.lora, marks, self.lora_sha256)
            self.lora.check_unchanged()
            check_pair(self.source, self.lora, marks)

    def metadata(self, marks: Mapping[Path, str]) -> dict[str, str]:
        """The new file's: the source's own, and under `wanwrap` what it was made from; `marks` are sha256."""
        made = {"wanwrap": __version__, **self.made, "from": _described(self.source, marks)}
        if self.lora:
            made["lora"] = _described(self.lora, marks)[0]
        if before := made_from(self.source.metadata):
            made["before"] = before
        return {"format": "pt", **self.source.metadata, "wanwrap": json.dumps(made)}


def _check_published(source: Source, marks: Mapping[Path, str], wanted: str | None, instead: str = "") -> None:
    path = source.paths[0]
    if wanted and marks.get(path, wanted) != wanted:
        raise WeightsError(
            f"{path} is not the published file: its sha256 is {marks[path]}, not {wanted}; get it again{instead}."
        )


def _described(source: Source, marks: Mapping[Path, str]) -> list[dict[str, Any]]:
    """The files as the record knows them."""
    return [
        {"name": path.name, "bytes": size, "mtime_ns": mtime} | ({"sha256": marks[path]} if path in marks else {})
        for path, (size, mtime) in zip(source.paths, source.stats, strict=True)
    ]


def main_dtype(source: Source, why: str) -> str:
    """The type that a DiT's blocks are stored in. Raises WeightsError: it is no DiT, or has fp8 in it."""
    rows = source.rows
    main = blocks_dtype(source.paths[0], {name: row.dtype for name, row in rows.items()})
    if eight := next((row for row in rows.values() if row.dtype not in FLOATS), None):
        raise WeightsError(
            f"{source.paths[0]} stores {eight.name} as {eight.dtype}; of a number's fraction fp8 keeps 3 bits: {why}; "
            "give the fp16 or bf16 file, upstream makes fp8 of it while it loads."
        )
    return STORED[main]


def native_names(source: Source) -> dict[Row, str]:
    """A DiT's names without the prefix of repacked files. Raises WeightsError: some have it, others not."""
    other = next((name for name in source.rows if not name.startswith(PREFIX)), None)
    if other and any(name.startswith(PREFIX) for name in source.rows):
        raise WeightsError(
            f"{source.paths[0]} holds more than a DiT ({other}), and upstream reads DiTs alone; give the DiT's own file."
        )
    return {row: name.removeprefix(PREFIX) for name, row in source.rows.items()}


def cast(dtype: str, main: str, precision: str | None) -> str:
    """A tensor's new type: those of the model's main type are cast; the few that are kept wider stay as they are."""
    return STORED[precision] if precision and dtype == main else dtype
