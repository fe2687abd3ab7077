"""What a file's name says: the last resort where header and content leave it open. A name with other words says nothing."""

from __future__ import annotations

import re
from pathlib import Path

from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.models import Role

# All that the name of a plain file is made of; what is left of it is somebody's own.
PLAIN = r"""(?x) wan[-_. ]*video | wan[-_. ]?2[-_. ]?[12] (?!\d) | wan | [ti]2[vi] | high | low | noise | a?14b | 1[._]3b | 480p? | 720p? | fp?16
    | bf16 | fp?32 | fp8 | e4m3fn | models? | dit | diffusion | pytorch | transformer | unet | \d+-of-\d+ | vae
    | comfyui | repackaged"""
VERSION = r"wan[-_. ]?(?:video[-_. ]?)?2[-_. ]?([12])(?!\d)"
WORDS = r"(?<![a-z])(high|low|t2v|i2v|480p|720p)(?![a-z])"
DEEP = 5  # folders above a file with a general name that may say more: a snapshot in the Hugging Face cache


def narrowed(path: Path, could_be: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the catalogue's names with which nothing in the file's name is at odds."""
    said = said_by(path.stem)
    for folder in path.parts[-2 : -2 - DEEP : -1]:
        if said:
            break
        said = said_by(folder)
    return tuple(name for name in could_be if _agrees(name, said))


def said_by(name: str) -> set[str]:
    """Version, task, noise level and resolution: {"2.2", "t2v", "high"}."""
    version = re.search(VERSION, name.lower())
    return {*re.findall(WORDS, name.lower()), *([f"2.{version[1]}"] if version else [])}


def _agrees(name: str, said: set[str]) -> bool:
    mine = said_by(name)
    pairs = ({"2.1", "2.2"}, {"high", "low"}, {"t2v", "i2v"}, {"480p", "720p"})
    if said & {"high", "low"} and not mine & {"high", "low"}:
        return False  # Wan 2.1 has no experts
    return all(not (said & pair and mine & pair) or said & mine & pair for pair in pairs)


def strange(path: Path, role: Role) -> list[str]:
    """The words of a name that no plain file has: `remix`, `lightning`. A VAE must say whose it is."""
    if role == "vae" and "wan" not in path.name.lower():
        return [path.stem]
    return re.findall(r"[a-z][a-z\d]*", re.sub(PLAIN, " ", path.stem.lower())) if role != "lora" else []


def lightning(path: Path) -> tuple[str, ...]:
    """The release that a LoRA is by its published name."""
    return tuple(
        name for name, row in CATALOGUE.items() if row.role == "lightning" and path.as_posix().endswith(f"/{row.tail}")
    )
