"""One weight file of this machine: what is in it, which of the catalogue's it stands for, whether it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wanwrap.system.safetensors import stat

Role = Literal["dit", "vae", "t5", "clip", "lora", "other"]
OF_A_PLAN = {"identity", "content", "header_sha256"}  # what only plans are told by


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """A weight file, as `identify` has looked at it, `locate` has found it, or `wanwrap.toml` remembers it.

    `names` are the catalogue's models that it may be; `told` is how it is known to be the one that it is (sha256, size,
    header, name, or the user's word), None where only the user can say. `convert`: upstream reads it once wanwrap has
    rewritten it. `hashable`: a published file has its size, so that its sha256 tells for sure. `broken`: no weights can
    be read from it. `made`: what wanwrap made it of. `lora` is what a LoRA's tensors tell, `trained` what its metadata
    do.
    """

    path: Path
    role: Role = "other"
    usable: bool = False
    reason: str = ""  # why it is usable, or is not
    what: str = ""
    names: tuple[str, ...] = ()
    told: str | None = None
    dtype: str = ""  # as upstream names it: fp16, bf16, fp32 or fp8
    keys: str | None = None  # whose names the tensors have
    size: int = 0  # bytes, of all shards; of a file that is not there those to download
    stamp: tuple[int, int] | None = None  # bytes and mtime_ns when it was looked at; None: not there, or not looked at
    sha256: str | None = None  # of a located file what its content's must be; None: the user's own
    hashable: bool = False
    convert: bool = False
    broken: bool = False
    made: str | None = None
    lora: Mapping[str, Any] | None = None
    trained: Mapping[str, Any] | None = None
    identity: str = ""  # changes when the file does: derived files carry its hash in their names
    content: str = ""  # the same of what is in it, as far as that is known without reading it: moved it is the same
    header_sha256: str | None = None  # of the user's own: all of it would have to be read for its sha256

    @property
    def exists(self) -> bool:
        """Whether it was there."""
        return self.stamp is not None

    @property
    def changed(self) -> bool:
        """Whether the file is gone, or another one since it was looked at."""
        return not self.path.is_file() or self.stamp not in (None, stat(self.path))

    @property
    def unchecked(self) -> bool:
        """Whether its sha256 would tell for sure, and has not been computed."""
        return self.hashable and not self.sha256 and self.told != "user"

    def may_be(self, name: str) -> bool:
        """Whether it may be the catalogue's `name`; one model may stand there in two types."""
        return name.removesuffix("-fp8") in self.names

    def json(self) -> dict[str, Any]:
        """For other programs."""
        facts = {name: value for name, value in vars(self).items() if name not in OF_A_PLAN}
        return {**facts, "path": str(self.path), "dtype": self.dtype or None}
