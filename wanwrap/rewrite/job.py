"""What is made of which files: decided from headers alone, before a tensor is read. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap import __version__
from wanwrap.errors import WeightsError
from wanwrap.rewrite.engine import Tensor
from wanwrap.system.safetensors import Source, header_sha256
from wanwrap.upstream.dit_file import DTYPES
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.lora import Match
from wanwrap.weights.provenance import made_from

STORED = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One new file.

    `made` goes into its metadata. `hashed` are the files whose sha256 is worth knowing, and `check` raises
    WeightsError where those that are known say that a file is not what it was said to be.
    """

    source: Source
    tensors: Sequence[Tensor]
    made: Mapping[str, Any]
    lora: Source | None = None
    match: Match = field(default_factory=Match)
    hashed: tuple[Path, ...] = ()
    check: Callable[[Mapping[Path, str]], None] = lambda _: None

    @property
    def bytes(self) -> int:
        """The new file's size, but for its header."""
        return sum(tensor.bytes for tensor in self.tensors)

    def metadata(self, marks: Mapping[Path, str]) -> dict[str, str]:
        """The new file's: the source's own, and under `wanwrap` what it was made from; `marks` are sha256."""
        before = made_from(self.source.metadata)
        made = {
            "wanwrap": __version__,
            **self.made,
            "from": _described(self.source, marks),
            **({"lora": _described(self.lora, marks)[0]} if self.lora else {}),
            **({"before": before} if before else {}),
        }
        return {"format": "pt", **self.source.metadata, "wanwrap": json.dumps(made)}


def _described(source: Source, marks: Mapping[Path, str]) -> list[dict[str, Any]]:
    """The files as the record knows them; without a sha256 the header's alone."""
    return [
        {
            "name": path.name,
            "bytes": size,
            "mtime_ns": mtime,
            **({"sha256": marks[path]} if path in marks else {"header_sha256": header_sha256(path)}),
        }
        for path, (size, mtime) in zip(source.paths, source.stats, strict=True)
    ]


def worth_hashing(source: Source, wanted: str | None) -> tuple[Path, ...]:
    """The file, where there is a sha256 to compare its own with: it must have one, or has a published file's size."""
    sizes = {weight.size for weight in CATALOGUE.values()}
    return source.paths if wanted or (len(source.paths) == 1 and source.bytes in sizes) else ()


# what else can be done with a DiT that is not the published one
OWN = ", or use it as it is: without the option here, in a run with --dit_high, --dit_low or --dit"


def check_published(source: Source, marks: Mapping[Path, str], wanted: str | None, instead: str = "") -> None:
    """Raises WeightsError: a file is not the one that it must be; `instead` is what else there is to do."""
    path = source.paths[0]
    if wanted and marks.get(path, wanted) != wanted:
        raise WeightsError(
            f"{path} is not the published file: its sha256 is {marks[path]}, not {wanted}; get it again{instead}."
        )


def cast(dtype: str, main: str, precision: str | None) -> str:
    """A tensor's new type: those of the model's main type are cast; the few that are kept wider stay as they are."""
    return STORED[precision] if precision and dtype == main else dtype
