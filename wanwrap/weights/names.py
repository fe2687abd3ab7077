"""What a file's name says: the last resort where header and content leave it open. A name with other words says nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from wanwrap.weights.catalogue import CATALOGUE

# All that the name of a plain file is made of; what is left of it is somebody's own.
PLAIN = r"""(?x) wan[-_. ]*video | wan[-_. ]?2[-_. ]?[12] (?!\d) | wan | [ti]2[vi] | high | low | noise | a?14b | 1[._]3b
    | 480p? | 720p? | fp?16 | bf16 | fp?32 | fp8 | e4m3fn | models? | dit | diffusion | pytorch | transformer | unet
    | \d+-of-\d+ | vae | comfyui | repackaged"""
VERSION = r"wan[-_. ]?(?:video[-_. ]?)?2[-_. ]?([12])(?!\d)"
WORDS = r"(?<![a-z])(?:high|low)(?=noise|[^a-z]|$)|(?<![a-z])(?:t2v|i2v|480p|720p)(?![a-z])"
PAIRS = ({"2.1", "2.2"}, {"high", "low"}, {"t2v", "i2v"}, {"480p", "720p"})


def said_by(name: str) -> set[str]:
    """Version, task, noise level and resolution: {"2.2", "t2v", "high"}."""
    version = re.search(VERSION, name.lower())
    return {*re.findall(WORDS, name.lower()), *([f"2.{version[1]}"] if version else [])}


def read(path: Path) -> tuple[set[str], list[str]]:
    """What a file's name says, else that of its folder; and the words in it that no plain file has: `remix`."""
    strange = _strange(path.stem)
    for text in (path.stem, *_folders(path)):
        if said := said_by(text):
            return said, strange if text == path.stem else [*strange, *_strange(text)]
    return set(), strange


def _folders(path: Path) -> Iterator[str]:
    """Two folders above, `Wan2.2-T2V-A14B/high_noise_model`, and the repository in the Hugging Face cache."""
    yield from path.parts[-2:-4:-1]
    yield from (part.split("--", 2)[-1] for part in path.parts if part.startswith("models--"))


def _strange(text: str) -> list[str]:
    return re.findall(r"[a-z][a-z\d]*", re.sub(PLAIN, " ", text.lower()))


def agreeing(said: set[str], could_be: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the catalogue's names with which nothing that was said is at odds."""
    return tuple(name for name in could_be if _agrees(said_by(name), said))


def _agrees(mine: set[str], said: set[str]) -> bool:
    if said & {"high", "low"} and not mine & {"high", "low"}:
        return False  # Wan 2.1 has no experts
    return all(not (said & pair and mine & pair) or said & mine & pair for pair in PAIRS)


def lightning(path: Path) -> tuple[str, ...]:
    """The release that a LoRA is by its published name."""
    end = path.as_posix()
    return tuple(
        name for name, row in CATALOGUE.items() if row.role == "lightning" and f"/{end}".endswith(f"/{row.tail}")
    )
