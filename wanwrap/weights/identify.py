"""What is this file? From its header, in milliseconds; what that leaves open, by its sha256, then by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from wanwrap.errors import WeightsError, listing
from wanwrap.system.safetensors import open_source, stat
from wanwrap.system.shell import quote
from wanwrap.upstream.dit import PREFIX
from wanwrap.weights import inside, lora
from wanwrap.weights.catalogue import ALSO, CATALOGUE, NEVER, Weight
from wanwrap.weights.models import agreeing, option, said, said_by, strange
from wanwrap.weights.weight_file import Role, WeightFile

Sha256 = Callable[[Path], "str | None"]  # None: not known, and not worth computing now
PICKLES = {".pth", ".pt", ".pt2", ".bin", ".ckpt", ".pkl"}
SUFFIXES = {".safetensors", ".gguf", *PICKLES}
PUBLISHED = (*CATALOGUE.items(), *ALSO)
ROLES: dict[str, Role] = {"dit": "dit", "vae": "vae", "t5": "t5", "clip": "clip", "lightning": "lora"}
NEAR = 100_000  # bytes by which a size that was computed may err: the metadata of a header


def look(path: Path, sha256: Sha256 = lambda _: None, needs: Collection[str] | None = None) -> WeightFile:
    """The verdict; a file that can't be read has one too.

    `sha256` is asked where the content alone can tell: of DiTs only of those that may be one of `needs`.
    """
    if not path.is_file():
        why = f"it is a broken link, to {path.readlink()}" if path.is_symlink() else "there is no such file"
        return WeightFile(path=path, reason=f"{why}; look at its path", broken=True)
    stamp = stat(path)
    if path.with_name(f"{path.name}.aria2").exists():
        why = "it is still being downloaded (there is an .aria2 file beside it)"
    else:
        try:
            return replace(_which(_content(path, stamp[0]), sha256, needs), stamp=stamp)
        except WeightsError as error:
            why = str(error).replace(str(path), "it", 1).removesuffix(".")
        except OSError as error:
            why = f"it can't be read: {error.strerror or error}"
    return WeightFile(path=path, reason=why, size=stamp[0], broken=True)


def checked(found: WeightFile, name: str) -> str:
    """The type of a file that the user says is the catalogue's `name`. Raises WeightsError: it can't be."""
    row = CATALOGUE[name]
    if row.role == "lightning" and (found.told, found.names) != ("sha256", (name,)):
        raise WeightsError(f"{found.path} is not {name}, which its sha256 would tell: {found.reason}; give that one.")
    if row.role == "dit" and found.path.suffix != ".safetensors":
        raise WeightsError(f"{found.path} is no .safetensors file; upstream reads a DiT from nothing else.")
    if found.keys == "pickle" and found.role == "other":
        return row.dtype  # nothing but the user's word tells what is in it
    if not found.usable:
        raise WeightsError(f"{found.path}: {found.reason}.")
    if found.convert:
        raise WeightsError(
            f"{found.path} has ComfyUI's key names: `wanwrap convert {quote(str(found.path))} --out umt5-xxl-enc-bf16.safetensors` "
            "gives it Wan's, and `wanwrap setup --comfyui_dir` does so by itself."
        )
    if row.role == "dit" and not found.may_be(name):
        raise WeightsError(
            f"{found.path} is {found.what}, and by its {'content' if found.told == 'sha256' else 'name'} it is not "
            f"what was asked for ({row.name}); give that one, or rename the file if its name is wrong."
        )
    if found.role != ROLES[row.role]:
        raise WeightsError(f"{found.path} is {found.what}, and was given as the {row.role}; give {row.name}.")
    return found.dtype if row.role == "dit" else row.dtype


# ---- what the file holds


def _content(path: Path, size: int) -> WeightFile:
    with path.open("rb") as file:
        start = file.read(4096)
    if start[:4] == b"GGUF":
        kind = start.partition(b"general.architecture")[2][:32]
        role: Role = "dit" if b"wan" in kind else "t5" if b"t5" in kind else "other"
        why = f"it is GGUF, which upstream can't read{_instead(path, role)}"
        return WeightFile(path=path, role=role, what="GGUF", keys="GGUF", reason=why, size=size)
    return _pickle(path, start, size) if path.suffix.lower() in PICKLES else _safetensors(path)


def _pickle(path: Path, start: bytes, size: int) -> WeightFile:
    """Never opened to look: a pickle may hold any program. Its bytes and its sha256 tell."""
    if start[:2] not in (b"PK", b"\x80\x02"):
        raise WeightsError("it is no file of torch's; get it again")
    found = WeightFile(path=path, keys="pickle", size=size)
    for name, row in PUBLISHED:
        if row.name.endswith(".pth") and row.size == size:
            found = replace(found, role=ROLES[row.role], what=name, names=(name,), dtype=row.dtype)
            return replace(found, usable=True, told="size", reason="upstream loads it")
        if row.name.endswith(".pth") and row.name == path.name:
            why = f"it has {size:,} bytes instead of {row.size:,}; get it again"
            return replace(found, role=ROLES[row.role], reason=why)
    if what := next((what for count, what in NEVER.values() if count == size), None):
        return replace(found, role="vae", what=what, reason=f"it has the size of {what}{_instead(path, 'vae')}")
    return replace(found, reason="it is a pickle, which wanwrap doesn't open, and no published file by its size")


def _safetensors(path: Path) -> WeightFile:
    source = open_source(path)
    rows = {name.removeprefix(PREFIX): row for name, row in source.rows.items()}
    model, keys = inside.known(source.rows) or (None, None)
    role = model.role if model else inside.role(rows)
    found = WeightFile(path=path, role=role, size=source.bytes, keys=keys, made=inside.made_of(source.metadata))
    if role == "lora":
        return replace(found, **lora.verdict(source))
    if role != "other":
        found = replace(found, dtype=inside.dtype(rows))
    if kin := model or inside.family(rows):
        found = replace(found, what=kin.what, names=kin.names)
    why = inside.why_not(rows, source.metadata, role)
    if why or not model:
        return replace(found, reason=(why or inside.unknown(role)) + _instead(path, role, found.names))
    if keys == inside.COMFYUI:
        why = "upstream loads it once `wanwrap convert` has given it Wan's key names; setup does that"
        return replace(found, usable=True, convert=True, what="UMT5-XXL in ComfyUI's key names", reason=why)
    return replace(found, usable=True, reason="upstream loads it")


# ---- which of several it is


def _which(found: WeightFile, sha256: Sha256, needs: Collection[str] | None) -> WeightFile:
    """What the header has left open: by the content, where a published file has this size, else by the name."""
    if not found.usable:
        return replace(found, names=agreeing(said(found.path), found.names))
    same = [(name, row) for name, row in PUBLISHED if ROLES[row.role] == found.role and _same_size(row, found.size)]
    hashable = bool(same) or found.size in [size for size, _ in NEVER.values()]
    needed = needs is None or found.role != "dit" or any(map(found.may_be, needs))
    mark = sha256(found.path) if hashable and needed else None
    found = replace(found, hashable=hashable, sha256=mark)
    if mark and (sure := _by_content(found, mark, same)):
        return sure
    if found.told or found.role == "lora":  # releases of other models and of other trainers have the same names
        return found
    return _by_name(found) if found.role in ("dit", "vae") else replace(found, told="header")


def _same_size(row: Weight, size: int) -> bool:
    return abs(row.bytes - size) < (NEAR if row.about else 1)


def _by_content(found: WeightFile, mark: str, same: Sequence[tuple[str, Weight]]) -> WeightFile | None:
    """The verdict on a file whose sha256 is `mark`, of the published ones of its size; None: it tells nothing."""
    if mark in NEVER:
        return _no_vae(found, NEVER[mark][1])
    for name, row in same:
        if row.sha256 == mark:
            return replace(found, names=(name.removesuffix("-fp8"),), told="sha256")
    for name, row in same:
        if found.keys == "pickle" or (row.name, row.size) == (found.path.name, found.size):
            why = f"it has the size of {row.repo}'s {row.name}, but another content: its sha256 is {mark[:8]}..."
            return replace(found, usable=False, told=None, names=(name,), reason=f"{why}; get it again")
    return None


def _no_vae(found: WeightFile, what: str) -> WeightFile:
    """What upstream would take for Wan's VAE."""
    why = f"it is {what}: upstream would load it, and train on noise{_instead(found.path, 'vae')}"
    return replace(found, usable=False, names=(), what=what, reason=why)


def _by_name(found: WeightFile) -> WeightFile:
    """By the name, if that says no more than what it is: a name with other words in it is of another's making."""
    path, vae = found.path, found.role == "vae"
    if vae and "qwen" in path.name.lower():
        return _no_vae(found, "Qwen-Image's VAE by its name")
    left = found.names if vae else agreeing(said(path), found.names)
    plain = "wan" in path.stem.lower() if vae else bool(said_by(path.stem))
    odd = strange(path) if plain else [path.stem]
    told = "name" if len(left) == 1 and not odd and not found.made else None
    return replace(found, names=left, told=told, reason=f"upstream loads it{_doubt(found, left, odd)}")


def _doubt(found: WeightFile, left: tuple[str, ...], odd: list[str]) -> str:
    """What of a file that upstream loads is known by its name alone, or not at all."""
    if found.made:
        return f", and wanwrap made it of {found.made}"
    if not left:
        return f", but its name speaks of another model than {listing(found.names)}, which its header could be"
    words = f" ({listing(odd)})" if odd else ""
    if not words and len(left) == 1:
        return f", and by its name it is {left[0]}"
    why = f"by its name{words} it may be a finetune or merge of {left[0]}"
    if len(left) > 1:
        why = f"its name{words} doesn't tell whether it is {' or '.join(left)}"
    return f", but {why}: only you can say, with {' or '.join(dict.fromkeys(map(option, left)))}"


def _instead(path: Path, role: Role, could_be: tuple[str, ...] = ()) -> str:
    """The published file that would do, as the end of a sentence; of DiTs those that its name doesn't rule out."""
    if role in CATALOGUE:
        return f"; take {CATALOGUE[role].name}"
    dits = could_be or tuple(name for name, row in CATALOGUE.items() if row.role == "dit")
    do = agreeing(said(path), dits) if role == "dit" else ()
    return f"; take {listing(CATALOGUE[name].name for name in do)}" if 0 < len(do) <= 3 else ""
