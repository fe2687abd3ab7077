"""Where a weight is: the path the user gives, else the one that setup found, else the workspace's models folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.errors import WeightsError
from wanwrap.paths import absolute
from wanwrap.system.safetensors import header_sha256, shards, stat
from wanwrap.weights.catalogue import ALSO, CATALOGUE, Weight
from wanwrap.weights.workspace import Record

if TYPE_CHECKING:
    from wanwrap.weights.identify import Found, Sha256


@dataclass(frozen=True, kw_only=True)
class Located:
    """A weight file as this machine has it, or would have it.

    `identity` changes when the file does: derived files carry its hash in their names.
    """

    path: Path
    dtype: str
    exists: bool
    identity: str
    size: int = 0  # bytes, of all shards; of a file that is not there those to download
    weight: Weight | None = None  # None: the user's own file
    name: str = ""  # the catalogue's, of what it stands for
    changed: bool = False  # since setup has found it
    made_of: str = ""  # of a file that a step makes: a mark of the content of those that it is made of
    header_sha256: str | None = None  # of the user's own: all of it would have to be read for its sha256

    @property
    def sha256(self) -> str | None:
        """What its content's must be; None for the user's own."""
        return self.weight.sha256 if self.weight else None

    @property
    def content(self) -> str:
        """What is in it, as far as that is known without reading it: moved or touched it is the same."""
        header = f"{self.size}:{self.header_sha256 or self.path.name}"
        return self.made_of or self.sha256 or header

    def complaint(self) -> str | None:
        """Why this file can't be used; None where it can."""
        if self.changed:
            return f"{self.path} is gone or another file since setup has found it; run setup again."
        if not self.exists:
            large = f" ({self.size / 1e9:.1f} GB)" if self.size else ""
            return f"{self.path.name}{large} is not there."
        size = self.path.stat().st_size
        if self.weight and self.weight.size not in (None, size):
            return f"{self.path} has {size:,} bytes instead of {self.weight.size:,}; get it again."
        return None


def locate(name: str, models: Path, given: Path | None, record: Record | None = None) -> Located:
    """The catalogue's file `name`: what the user gave, else what setup found, else what `models` holds.

    Raises:
        WeightsError: the user's file is not there, or one that upstream cannot train on, or another model's.
    """
    weight = CATALOGUE[name]
    if given is None and record and record.bytes is None:
        given = record.path  # written by hand
    if given is not None:
        return _given(absolute(given), name)
    if record:
        return _recorded(record, name)
    path = models / weight.path
    if not path.is_file():
        path = next(iter(sorted(models.rglob(weight.tail))), path)
    exists = path.is_file()
    return Located(
        path=path,
        dtype=_dit(_look(path), name) if exists and weight.role == "dit" else weight.dtype,
        exists=exists,
        identity=weight.sha256 or weight.path,
        size=path.stat().st_size if exists else weight.bytes,
        weight=weight,
        name=name,
    )


def _look(path: Path, sha256: Sha256 = lambda _: None) -> Found:
    """The verdict on a file; a dry run of weights that are not there waits for no import of it."""
    from wanwrap.weights.identify import look

    return look(path, sha256)


def _recorded(record: Record, name: str) -> Located:
    """What setup found: verified then, and unchanged since."""
    weight, path = CATALOGUE[name], record.path
    if record.changed:
        return Located(path=path, dtype=weight.dtype, exists=False, identity=name, name=name, changed=True)
    dtype = _dit(_look(path, lambda _: record.sha256), name) if weight.role == "dit" else weight.dtype
    if weight.role == "lightning":  # it must be that release, whatever stands there
        return _own(path, name, dtype, weight)
    if record.sha256 is None or record.sha256 not in published(name):
        return _own(path, name, dtype)
    size = path.stat().st_size
    known = replace(weight, size=size, sha256=record.sha256)
    return Located(path=path, dtype=dtype, exists=True, identity=record.sha256, size=size, weight=known, name=name)


def published(name: str) -> set[str | None]:
    """The sha256 of all published files that are this one."""
    model, rows = name.removesuffix("-fp8"), (*CATALOGUE.items(), *ALSO)
    return {row.sha256 for each, row in rows if each.removesuffix("-fp8") == model}


def _own(path: Path, name: str, dtype: str, weight: Weight | None = None) -> Located:
    """A file of the user's, known by its path, size and time."""
    stats = {each: stat(each) for each in shards(path)}
    return Located(
        path=path,
        dtype=dtype,
        exists=True,
        identity=":".join(f"{each}:{size}:{mtime}" for each, (size, mtime) in stats.items()),
        size=sum(size for size, _ in stats.values()),
        weight=weight,
        name=name,
        header_sha256=header_sha256(path) if path.suffix == ".safetensors" else None,
    )


def _given(path: Path, name: str) -> Located:
    weight = CATALOGUE[name]
    if not path.is_file():
        raise WeightsError(f"there is no file {path}, which was given as the {weight.role}.")
    if weight.role == "lightning":  # it must be that release: nothing but its content tells
        return _own(path, name, weight.dtype, weight)
    from wanwrap.weights import marks

    return _own(path, name, checked(_look(path, marks.quick), name))


def checked(found: Found, name: str) -> str:
    """The type of a file that the user says is `name`. Raises WeightsError: it can't be."""
    weight = CATALOGUE[name]
    if weight.role == "dit":
        return _dit(found, name)
    if weight.role == "lightning":
        if (found.told, found.names) == ("sha256", (name,)):
            return weight.dtype
        raise WeightsError(f"{found.path} is not {name}, which its sha256 would tell: {found.reason}; give that one.")
    if found.keys == "pickle" and found.role == "other":
        return weight.dtype  # nothing but the user's word tells what is in it
    if not found.usable:
        raise WeightsError(f"{found.path}: {found.reason}.")
    if found.convert:
        raise WeightsError(
            f"{found.path} has ComfyUI's key names: `wanwrap convert {found.path} --out umt5-xxl-enc-bf16.safetensors` "
            "gives it Wan's, and `wanwrap setup --comfyui_dir` does so by itself."
        )
    if found.role != weight.role:
        raise WeightsError(f"{found.path} is {found.what}, and was given as the {weight.role}; give {weight.name}.")
    return weight.dtype


def _dit(found: Found, name: str) -> str:
    """A DiT's type. Raises WeightsError: upstream can't train on it, or it is another model."""
    if found.path.suffix != ".safetensors":
        raise WeightsError(f"{found.path} is no .safetensors file; upstream reads a DiT from nothing else.")
    if not found.usable:
        raise WeightsError(f"{found.path}: {found.reason}.")
    if name.removesuffix("-fp8") not in found.names:
        raise WeightsError(
            f"{found.path} is {found.what}, and by its {'content' if found.told == 'sha256' else 'name'} it is not "
            f"what was asked for ({CATALOGUE[name].name}); give that one, or rename the file if its name is wrong."
        )
    assert found.dtype
    return found.dtype


def digest(*parts: object) -> str:
    """Eight hex digits that change when any of the parts does."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()[:8]
