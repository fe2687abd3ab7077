"""Where a weight is: the path the user gives, else the workspace's models folder."""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from wanwrap.data import absolute
from wanwrap.errors import WeightsError
from wanwrap.source import shards, stat
from wanwrap.weights.catalogue import CATALOGUE, Weight, told
from wanwrap.weights.header import ROLES, check_role, dit_dtype


@dataclass(frozen=True, kw_only=True)
class Located:
    """A weight file as this machine has it, or would have it.

    `identity` changes when the file does: derived files carry its hash in their names.
    """

    path: Path
    dtype: str
    exists: bool
    identity: str
    size: int = 0  # bytes, of all shards; 0 where the file is not there
    weight: Weight | None = None  # None: the user's own file

    @property
    def sha256(self) -> str | None:
        """What its content's must be; None for the user's own."""
        return self.weight.sha256 if self.weight else None

    def complaint(self) -> str | None:
        """Why this file can't be used, in words with the command that gets it; None where it can."""
        if not self.exists:
            if self.weight is None:
                return f"{self.path} is not there."
            large = f" ({self.weight.size / 1e9:.1f} GB)" if self.weight.size else ""
            return f"{self.path.name}{large} is not there. Get it with: {download(self.weight, self.path)}"
        size = self.path.stat().st_size
        if self.weight and self.weight.size not in (None, size):
            return f"{self.path} has {size:,} bytes instead of {self.weight.size:,}; get it again."
        return None


def download(weight: Weight, path: Path) -> str:
    """The command that puts the file there (`hf` comes with huggingface_hub)."""
    folder = path.parents[len(Path(weight.path).parts) - 1]
    revision = ["--revision", weight.revision] if weight.revision else []
    return shlex.join(["hf", "download", weight.repo, weight.path, *revision, "--local-dir", str(folder)])


def locate(name: str, models: Path, given: Path | None) -> Located:
    """The catalogue's file `name`: what the user gave, else what `models` holds, else where it belongs.

    Raises:
        WeightsError: the user's file is not there, or is a DiT that upstream cannot train on.
    """
    weight = CATALOGUE[name]
    if given is not None:
        return _given(absolute(given), weight)
    path = models / weight.path
    if not path.is_file():
        path = next(iter(sorted(models.rglob(weight.tail))), path)
    exists = path.is_file()
    return Located(
        path=path,
        dtype=dit_dtype(path) if exists and weight.role == "dit" else weight.dtype,
        exists=exists,
        identity=weight.sha256 or weight.path,
        size=path.stat().st_size if exists else weight.size or 0,
        weight=weight,
    )


def _given(path: Path, weight: Weight) -> Located:
    if not path.is_file():
        raise WeightsError(f"there is no file {path}, which was given as the {weight.role}.")
    _check_given_name(path, weight)
    if weight.role in ROLES:
        check_role(path, weight.role)
    dtype = dit_dtype(path) if weight.role == "dit" else weight.dtype
    stats = {each: stat(each) for each in shards(path)}
    size = sum(size for size, _ in stats.values())
    identity = ":".join(f"{each}:{size}:{mtime}" for each, (size, mtime) in stats.items())
    published = weight if weight.role == "lightning" else None  # it must be that release: nothing but its content tells
    return Located(path=path, dtype=dtype, exists=True, identity=identity, size=size, weight=published)


def _model(name: str) -> str:
    """A file's name without its type: a model is the same in fp16 and bf16."""
    return re.sub(r"_(fp16|bf16|fp8_e4m3fn)(?=\.)", "", name)


def _check_given_name(path: Path, weight: Weight) -> None:
    """Raises WeightsError: by its name a file is another one. High and low noise can't be told by their headers."""
    other = next(
        (
            each
            for each in CATALOGUE.values()
            if each.role == weight.role != "lightning"  # its files are told by their content
            and each.name == path.name
            and _model(each.name) != _model(weight.name)
        ),
        None,
    )
    mine, wanted = (told(text) & {"high", "low"} for text in (path.stem, weight.name))
    if other or (mine and wanted and mine.isdisjoint(wanted)):
        raise WeightsError(
            f"{path} is by its name not what was asked for ({weight.name}); give that one, or rename the file."
        )
    if weight.role == "vae" and "qwen" in path.name.lower():
        raise WeightsError(
            f"{path} is Qwen-Image's VAE: upstream would load it, and train on noise. Wan's is {weight.name}."
        )


def digest(*parts: object) -> str:
    """Eight hex digits that change when any of the parts does."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:8]
