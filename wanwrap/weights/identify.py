"""What is this file? From its header, in milliseconds; what that leaves open, by its sha256, then by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wanwrap.errors import WeightsError, listing
from wanwrap.system.safetensors import open_source, stat
from wanwrap.upstream.dit_file import PREFIX
from wanwrap.weights import inside, names
from wanwrap.weights.catalogue import ALSO, CATALOGUE, NEVER, Weight
from wanwrap.weights.models import Role

Sha256 = Callable[[Path], "str | None"]  # None: not known, and not worth computing now
PICKLES = {".pth", ".pt", ".pt2", ".bin", ".ckpt", ".pkl"}
SUFFIXES = {".safetensors", ".sft", ".gguf", *PICKLES}
PUBLISHED: tuple[tuple[str, Weight], ...] = (*CATALOGUE.items(), *ALSO)
ROLES: dict[str, Role] = {"dit": "dit", "vae": "vae", "t5": "t5", "clip": "clip", "lightning": "lora"}
# What is saved under a weight's name by mistake, by its first bytes.
STRANGERS = {
    b"version https://git-lfs": "a pointer of git-lfs, not the file itself; fetch it with `git lfs pull`",
    b"<!doctype html": "a web page; the download may want you to log in",
    b"<html": "a web page; the download may want you to log in",
    b"\x89png": "a picture",
    b"\xff\xd8\xff": "a picture",
}
NEAR = 100_000  # bytes by which a size that was computed may err: the metadata of a header


@dataclass(frozen=True, kw_only=True)
class Found:
    """The verdict on one file.

    `family` are the catalogue's names of all that it could be by its header, `names` those that are left; `told` is how it is known to be the one that it is
    (sha256, size, header, name), None where only the user can say. `convert`: upstream reads it once wanwrap has
    rewritten it. `stamp`: bytes and mtime when it was looked at. `hashable`: a published file has its size, so that its sha256 tells for sure. `opaque`: nothing but the user's word tells what is in it. `broken`: no weights can be read from it.
    `made`: what wanwrap made it of. `lora` is what a LoRA's tensors tell, `trained` what its metadata do.
    """

    path: Path
    role: Role = "other"
    usable: bool = False
    reason: str = ""
    what: str = ""
    family: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    told: str | None = None
    dtype: str | None = None
    keys: str | None = None
    size: int = 0
    stamp: tuple[int, int] | None = None
    sha256: str | None = None
    hashable: bool = False
    convert: bool = False
    opaque: bool = False
    broken: bool = False
    made: str | None = None
    lora: Mapping[str, Any] | None = None
    trained: Mapping[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """For other programs."""
        return {**vars(self), "path": str(self.path)}


def look(path: Path, sha256: Sha256 = lambda _: None) -> Found:
    """The verdict; a file that can't be read has one too. `sha256` is asked where the content alone can tell."""
    try:
        if not path.is_file():
            return Found(path=path, reason=_absent(path), broken=True)
        stamp = stat(path)
        found = replace(_look(path), stamp=stamp)
        return _told(found if found.size else replace(found, size=stamp[0]), sha256)
    except WeightsError as error:
        return Found(path=path, reason=_bare(error, path), size=_size(path), broken=True)
    except OSError as error:
        return Found(path=path, reason=f"it can't be read: {error.strerror or error}", broken=True)


def _absent(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"it is a broken link, to {path.readlink()}"
    return "it is a folder; give the files in it" if path.is_dir() else "there is no such file; look at its path"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _bare(error: WeightsError, path: Path) -> str:
    """A message on a file, without the file."""
    text = str(error).removeprefix(f"{path}").strip(" :").removesuffix(".")
    return f"it {text}" if str(error).startswith(str(path)) else text


def _look(path: Path) -> Found:
    with path.open("rb") as file:
        start = file.read(4096)
    if start[:4] == b"GGUF":
        role = inside.gguf_role(start)
        why = f"it is GGUF, which upstream can't read{_instead(path, role)}"
        return Found(path=path, role=role, what="GGUF", keys="GGUF", reason=why)
    if what := next((what for magic, what in STRANGERS.items() if start.lower().startswith(magic)), None):
        raise WeightsError(f"{path} is {what}.")
    if path.suffix.lower() in PICKLES:
        return _pickle(path, start)
    found = _safetensors(path)
    if path.with_name(f"{path.name}.aria2").exists():
        return replace(found, usable=False, reason="it is still being downloaded (there is an .aria2 file beside it)")
    if found.usable and path.suffix != ".safetensors":
        return replace(found, usable=False, reason="it must end in .safetensors, by which upstream goes; rename it")
    return found


def _pickle(path: Path, start: bytes) -> Found:
    """Never opened to look: a pickle may hold any program. Its bytes and its sha256 tell."""
    if start[:2] not in (b"PK", b"\x80\x02"):
        return Found(path=path, reason="it is no file of torch's; get it again", broken=True)
    found, size = Found(path=path, keys="pickle"), path.stat().st_size
    for name, row in PUBLISHED:
        if row.name.endswith(".pth") and row.size == size:
            it: dict[str, Any] = {"what": name, "family": (name,), "names": (name,), "told": "size", "dtype": row.dtype}
            return replace(found, role=ROLES[row.role], usable=True, reason="upstream loads it", **it)
        if row.name.endswith(".pth") and row.name == path.name:
            why = f"it has {size:,} bytes instead of {row.size:,}; get it again"
            return replace(found, role=ROLES[row.role], reason=why)
    if what := next((what for bytes_, what in NEVER.values() if bytes_ == size), None):
        return replace(found, role="vae", what=what, reason=f"it has the size of {what}{_instead(path, 'vae')}")
    why = "it is a pickle, which wanwrap doesn't open, and no published file by its size"
    return replace(found, opaque=True, reason=why)


def _safetensors(path: Path) -> Found:
    source = open_source(path)
    content = {name: {"dtype": row.dtype, "shape": row.shape} for name, row in source.rows.items()}
    rows = {name.removeprefix(PREFIX): row for name, row in content.items()}
    known = inside.known(content)
    role = known.role if known else inside.role(rows)
    found = Found(path=path, role=role, size=source.bytes, keys=inside.key_format(content, role))
    found = replace(found, made=inside.made_of(source.metadata))
    if role == "lora":
        return replace(found, **inside.lora(source))
    if model := known or inside.family(rows):
        found = replace(found, what=model.what, family=model.names, names=model.names)
    try:
        found = replace(found, dtype=inside.dtype(rows, role))
        if why := inside.quantised(rows, source.metadata, role):
            raise WeightsError(why)
        if known:
            return replace(found, usable=True, reason="upstream loads it")
        if inside.convertible(source, rows):
            why = "upstream loads it once `wanwrap convert` has given it Wan's key names; setup does that"
            it: dict[str, Any] = {"convert": True, "what": "UMT5-XXL in ComfyUI's key names"}
            return replace(found, usable=True, reason=why, family=("t5",), names=("t5",), **it)
        raise WeightsError(inside.why_not(path, rows, role))
    except WeightsError as error:
        return replace(found, reason=_bare(error, path) + _instead(path, role, found.names))


def _told(found: Found, sha256: Sha256) -> Found:
    """What the header has left open: by the content, where a published file has this size, else by the name."""
    if not found.usable:
        return replace(found, names=names.agreeing(names.said(found.path), found.names))
    same = [(name, row) for name, row in PUBLISHED if ROLES[row.role] == found.role and _fits(row, found)]
    never = {mark: what for mark, (size, what) in NEVER.items() if size == found.size}
    found = replace(found, hashable=bool(same or never))
    found = replace(found, sha256=sha256(found.path) if found.hashable else None)
    if found.sha256 in never:
        return _qwen(found, never[found.sha256])
    mark = found.sha256 or ""
    for name, row in same if mark else ():
        if row.sha256 == mark:
            return replace(found, names=(name.removesuffix("-fp8"),), told="sha256")
    for name, row in same if mark else ():
        if found.keys == "pickle" or (row.name, row.size) == (found.path.name, found.size):
            why = f"it has the size of {row.repo}'s {row.name}, but another content: its sha256 is {mark[:8]}..."
            return replace(found, usable=False, told=None, names=(name,), reason=f"{why}; get it again")
    return _named(found)


def _qwen(found: Found, what: str) -> Found:
    """What upstream would take for Wan's VAE."""
    why = f"it is {what}: upstream would load it, and train on noise{_instead(found.path, 'vae')}"
    return replace(found, usable=False, names=(), what=what, reason=why)


def _fits(row: Weight, found: Found) -> bool:
    """Whether a published file has this size, as far as it is known."""
    return row.size == found.size if row.size else row.about is not None and abs(row.about - found.size) < NEAR


def _named(found: Found) -> Found:
    """By the name, if that says no more than what it is: a name with other words in it is of another's making.

    A LoRA's says nothing: releases of other models and of other trainers have the same.
    """
    if found.told or found.role == "lora":
        return found
    if found.role in ("t5", "clip"):
        return replace(found, told="header")
    if found.role == "vae" and "qwen" in found.path.name.lower():
        return _qwen(found, "Qwen-Image's VAE by its name")
    left = names.agreeing(names.said(found.path), found.names) if found.role == "dit" else found.names
    plain = "wan" in found.path.stem.lower() if found.role == "vae" else bool(names.said_by(found.path.stem))
    strange = names.strange(found.path) if plain else [found.path.stem]
    told = "name" if len(left) == 1 and not strange and not found.made else None
    return replace(found, names=left, told=told, reason=f"upstream loads it{_doubt(found, left, strange)}")


def _doubt(found: Found, left: tuple[str, ...], strange: list[str]) -> str:
    """What of a file that upstream loads is known by its name alone, or not at all."""
    if found.made:
        return f", and wanwrap made it of {found.made}"
    words = f" ({listing(strange)})" if strange else ""
    if not left:
        return f", but its name speaks of another model than {listing(found.names)}, which its header could be"
    if len(left) > 1:
        return f", but its name{words} doesn't tell whether it is {' or '.join(left)}: only you can say{_options(left)}"
    if words:
        return f", but by its name{words} it may be a finetune or merge of {left[0]}: only you can say{_options(left)}"
    return f", and by its name it is {left[0]}"


def _options(left: tuple[str, ...]) -> str:
    return f", with {' or '.join(dict.fromkeys(map(names.option, left)))}"


def _instead(path: Path, role: Role, could_be: tuple[str, ...] = ()) -> str:
    """The published file that would do, as the end of a sentence; of DiTs those that its name doesn't rule out."""
    if role in CATALOGUE:
        return f"; take {CATALOGUE[role].name}"
    dits = could_be or tuple(name for name, row in CATALOGUE.items() if row.role == "dit")
    do = names.agreeing(names.said(path), dits) if role == "dit" else ()
    return f"; take {listing(CATALOGUE[name].name for name in do)}" if 0 < len(do) <= 3 else ""
