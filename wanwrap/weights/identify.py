"""What is this file? From its header, in milliseconds; what that leaves open, by its sha256, then by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wanwrap.errors import WeightsError, listing
from wanwrap.system.safetensors import open_source, stat
from wanwrap.upstream.dit_file import PREFIX
from wanwrap.weights import inside
from wanwrap.weights.catalogue import ALSO, CATALOGUE, NEVER, Weight
from wanwrap.weights.models import Role, agreeing, comfy_t5, option, said, said_by, strange

Sha256 = Callable[[Path], "str | None"]  # None: not known, and not worth computing now
PICKLES = {".pth", ".pt", ".pt2", ".bin", ".ckpt", ".pkl"}
SUFFIXES = {".safetensors", ".gguf", *PICKLES}
PUBLISHED: tuple[tuple[str, Weight], ...] = (*CATALOGUE.items(), *ALSO)
ROLES: dict[str, Role] = {"dit": "dit", "vae": "vae", "t5": "t5", "clip": "clip", "lightning": "lora"}
NEAR = 100_000  # bytes by which a size that was computed may err: the metadata of a header


@dataclass(frozen=True, kw_only=True)
class Found:
    """The verdict on one file.

    `names` are the catalogue's models that it may be; `told` is how it is known to be the one that it is (sha256, size,
    header, name, or the user's word), None where only the user can say. `convert`: upstream reads it once wanwrap has
    rewritten it. `stamp`: bytes and mtime when it was looked at. `hashable`: a published file has its size, so that
    its sha256 tells for sure. `broken`: no weights can be read from it. `made`: what wanwrap made it of. `lora` is what
    a LoRA's tensors tell, `trained` what its metadata do.
    """

    path: Path
    role: Role = "other"
    usable: bool = False
    reason: str = ""
    what: str = ""
    names: tuple[str, ...] = ()
    told: str | None = None
    dtype: str | None = None
    keys: str | None = None
    size: int = 0
    stamp: tuple[int, int] | None = None
    sha256: str | None = None
    hashable: bool = False
    convert: bool = False
    broken: bool = False
    made: str | None = None
    lora: Mapping[str, Any] | None = None
    trained: Mapping[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """For other programs."""
        return {**vars(self), "path": str(self.path)}


def look(path: Path, sha256: Sha256 = lambda _: None, needs: Collection[str] | None = None) -> Found:
    """The verdict; a file that can't be read has one too.

    `sha256` is asked where the content alone can tell: of DiTs only of those that may be one of `needs`.
    """
    if not path.is_file():
        why = f"it is a broken link, to {path.readlink()}" if path.is_symlink() else "there is no such file"
        return Found(path=path, reason=f"{why}; look at its path", broken=True)
    size, mtime = stat(path)
    if path.with_name(f"{path.name}.aria2").exists():
        why = "it is still being downloaded (there is an .aria2 file beside it)"
        return Found(path=path, reason=why, size=size, broken=True)
    try:
        found = replace(_look(path, size), stamp=(size, mtime))
        return _told(found, sha256, needs)
    except WeightsError as error:
        text = str(error).replace(str(path), "it", 1).removesuffix(".")
        return Found(path=path, reason=text, size=size, broken=True)
    except OSError as error:
        return Found(path=path, reason=f"it can't be read: {error.strerror or error}", broken=True)


def _look(path: Path, size: int) -> Found:
    with path.open("rb") as file:
        start = file.read(4096)
    if start[:4] == b"GGUF":
        kind = start.partition(b"general.architecture")[2][:32]
        role: Role = "dit" if b"wan" in kind else "t5" if b"t5" in kind else "other"
        why = f"it is GGUF, which upstream can't read{_instead(path, role)}"
        return Found(path=path, role=role, what="GGUF", keys="GGUF", reason=why, size=size)
    return _pickle(path, start, size) if path.suffix.lower() in PICKLES else _safetensors(path)


def _pickle(path: Path, start: bytes, size: int) -> Found:
    """Never opened to look: a pickle may hold any program. Its bytes and its sha256 tell."""
    if start[:2] not in (b"PK", b"\x80\x02"):
        return Found(path=path, reason="it is no file of torch's; get it again", size=size, broken=True)
    found = Found(path=path, keys="pickle", size=size)
    for name, row in PUBLISHED:
        if row.name.endswith(".pth") and row.size == size:
            found = replace(found, role=ROLES[row.role], usable=True, reason="upstream loads it", what=name)
            return replace(found, names=(name,), told="size", dtype=row.dtype)
        if row.name.endswith(".pth") and row.name == path.name:
            why = f"it has {size:,} bytes instead of {row.size:,}; get it again"
            return replace(found, role=ROLES[row.role], reason=why)
    if what := next((what for bytes_, what in NEVER.values() if bytes_ == size), None):
        return replace(found, role="vae", what=what, reason=f"it has the size of {what}{_instead(path, 'vae')}")
    why = "it is a pickle, which wanwrap doesn't open, and no published file by its size"
    return replace(found, reason=why)


def _safetensors(path: Path) -> Found:
    source = open_source(path)
    rows = {name.removeprefix(PREFIX): row for name, row in source.rows.items()}
    known = inside.known(source.rows)
    role, made = known.role if known else inside.role(rows), inside.made_of(source.metadata)
    found = Found(path=path, role=role, size=source.bytes, keys=inside.key_format(source.rows, role), made=made)
    if role == "lora":
        return replace(found, **inside.lora(source))
    found = replace(found, dtype=inside.dtype(rows, role))
    if model := known or inside.family(rows):
        found = replace(found, what=model.what, names=model.names)
    if why := inside.quantised(rows, source.metadata, role):
        return replace(found, reason=why + _instead(path, role, found.names))
    if known:
        return replace(found, usable=True, reason="upstream loads it")
    if comfy_t5({name: row.shape for name, row in rows.items()}):
        why = "upstream loads it once `wanwrap convert` has given it Wan's key names; setup does that"
        found = replace(found, what="UMT5-XXL in ComfyUI's key names", names=("t5",))
        return replace(found, usable=True, convert=True, reason=why)
    return replace(found, reason=inside.why_not(rows, role) + _instead(path, role, found.names))


def _told(found: Found, sha256: Sha256, needs: Collection[str] | None) -> Found:
    """What the header has left open: by the content, where a published file has this size, else by the name."""
    if not found.usable:
        return replace(found, names=agreeing(said(found.path), found.names))
    rows = [(name, row) for name, row in PUBLISHED if ROLES[row.role] == found.role]
    same = [(name, row) for name, row in rows if abs(row.bytes - found.size) < (NEAR if row.about else 1)]
    never = {mark: what for mark, (size, what) in NEVER.items() if size == found.size}
    hashable = bool(same or never)
    needed = needs is None or found.role != "dit" or any(name.removesuffix("-fp8") in found.names for name in needs)
    mark = sha256(found.path) if hashable and needed else None
    found = replace(found, hashable=hashable, sha256=mark)
    if mark in never:
        return _qwen(found, never[mark])
    for name, row in same if mark else ():
        if row.sha256 == mark:
            return replace(found, names=(name.removesuffix("-fp8"),), told="sha256")
    for name, row in same if mark else ():
        if found.keys == "pickle" or (row.name, row.size) == (found.path.name, found.size):
            why = f"it has the size of {row.repo}'s {row.name}, but another content: its sha256 is {str(mark)[:8]}..."
            return replace(found, usable=False, told=None, names=(name,), reason=f"{why}; get it again")
    return _named(found)


def _qwen(found: Found, what: str) -> Found:
    """What upstream would take for Wan's VAE."""
    why = f"it is {what}: upstream would load it, and train on noise{_instead(found.path, 'vae')}"
    return replace(found, usable=False, names=(), what=what, reason=why)


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
    left = agreeing(said(found.path), found.names) if found.role == "dit" else found.names
    plain = "wan" in found.path.stem.lower() if found.role == "vae" else bool(said_by(found.path.stem))
    odd = strange(found.path) if plain else [found.path.stem]
    told = "name" if len(left) == 1 and not odd and not found.made else None
    return replace(found, names=left, told=told, reason=f"upstream loads it{_doubt(found, left, odd)}")


def _doubt(found: Found, left: tuple[str, ...], odd: list[str]) -> str:
    """What of a file that upstream loads is known by its name alone, or not at all."""
    if found.made:
        return f", and wanwrap made it of {found.made}"
    words = f" ({listing(odd)})" if odd else ""
    if not left:
        return f", but its name speaks of another model than {listing(found.names)}, which its header could be"
    if len(left) > 1:
        return f", but its name{words} doesn't tell whether it is {' or '.join(left)}: only you can say{_options(left)}"
    if words:
        return f", but by its name{words} it may be a finetune or merge of {left[0]}: only you can say{_options(left)}"
    return f", and by its name it is {left[0]}"


def _options(left: tuple[str, ...]) -> str:
    return f", with {' or '.join(dict.fromkeys(map(option, left)))}"


def _instead(path: Path, role: Role, could_be: tuple[str, ...] = ()) -> str:
    """The published file that would do, as the end of a sentence; of DiTs those that its name doesn't rule out."""
    if role in CATALOGUE:
        return f"; take {CATALOGUE[role].name}"
    dits = could_be or tuple(name for name, row in CATALOGUE.items() if row.role == "dit")
    do = agreeing(said(path), dits) if role == "dit" else ()
    return f"; take {listing(CATALOGUE[name].name for name in do)}" if 0 < len(do) <= 3 else ""
