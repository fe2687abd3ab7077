"""What a file's name says: the last resort where header and content leave it open. A name with other words says nothing."""

from __future__ import annotations

import re
from pathlib import Path

# All that the name of a plain file is made of; what is left of it is somebody's own.
PLAIN = r"""(?x) (?<![a-z]) (?: wan([-_. ]*video)? [-_. ]? 2[-_. ]?[12] (?!\d) | wan([-_. ]*video)? | [ti]2[vi]
    | (high|low) ([-_. ]?noise)? | a?14b | 1[._]3b | 480p? | 720p? | fp?16 | bf16 | fp?32 | fp8 ([-_. ]?e4m3(fn)?)?
    | models? | dit | diffusion | pytorch | transformer | unet | \d+-of-\d+ | vae | comfyui | repackaged | \(\d\)
    ) (?![a-z])"""
VERSION = r"wan[-_. ]?(?:video[-_. ]?)?2[-_. ]?([12])(?!\d)"
WORDS = r"(?<![a-z])(?:high|low)(?=noise|[^a-z]|$)|(?<![a-z])(?:t2v|i2v|480p|720p)(?![a-z])"
PAIRS = ({"2.1", "2.2"}, {"high", "low"}, {"t2v", "i2v"}, {"480p", "720p"})


def said_by(name: str) -> set[str]:
    """Version, task, noise level and resolution: {"2.2", "t2v", "high"}."""
    version = re.search(VERSION, name.lower())
    return {*re.findall(WORDS, name.lower()), *([f"2.{version[1]}"] if version else [])}


def said(path: Path) -> set[str]:
    """The same of a file, or in Wan-AI's own layout of its folder: `high_noise_model/diffusion_pytorch_model...`."""
    return said_by(path.stem) or (said_by(path.parent.name) if path.parent.name.endswith("_noise_model") else set())


def strange(path: Path) -> list[str]:
    """The words of a file's name that no plain file has: `remix`, `lightning`, the `0.7` of a merge."""
    return re.findall(r"[^\W_]+", re.sub(PLAIN, " ", path.stem.lower()))


def option(name: str) -> str:
    """The option that names a file for one of the catalogue's."""
    level = said_by(name) & {"high", "low"}
    kind = "lightning" if name.startswith("lightning") else "dit" if name.startswith("wan") else name
    return f"--{kind}_{level.pop()}" if level else f"--{kind}"


def agreeing(said: set[str], could_be: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the catalogue's names with which nothing that was said is at odds."""
    return tuple(name for name in could_be if _agrees(said_by(name), said))


def _agrees(mine: set[str], said: set[str]) -> bool:
    if said & {"high", "low"} and not mine & {"high", "low"}:
        return False  # Wan 2.1 has no experts
    return all(not (said & pair and mine & pair) or said & mine & pair for pair in PAIRS)
