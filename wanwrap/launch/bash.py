"""What engines that start a bash script have in common: its values, then texts that are the same for all runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from wanwrap.launch.job import Job
from wanwrap.paths import folder
from wanwrap.system.safetensors import digest

# Torch brings CUDA with it, and setup chooses the build that the driver runs. An image of a newer CUDA would not start on
# machines whose driver is older (runpod/containers #98).
IMAGE = "nvidia/cuda:12.4.1-base-ubuntu22.04"


def template(name: str) -> str:
    """A text of templates/launch."""
    return (folder("templates") / "launch" / name).read_text(encoding="utf-8")


def values(**named: str | int | Sequence[str]) -> str:
    """`name=value` a line, a sequence as an array, each word whole."""
    rows = {
        name: f"({shlex.join(value)})" if not isinstance(value, str | int) else shlex.quote(str(value))
        for name, value in named.items()
    }
    return "".join(f"{name}={row}\n" for name, row in rows.items())


def codes(mistakes: Sequence[int]) -> str:
    """Exit codes after which nothing is tried again, as `again` takes them."""
    return " ".join(map(str, mistakes))


def plain(name: str) -> str:
    """A name of ASCII letters, digits, - and _ alone, as clusters and folders on other machines may have it; one a name."""
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")
    if word == name and word[0].isalpha() and len(word) <= 50:
        return word
    return f"wan-{word[:40].strip('-_')}-{digest(name)[:6]}"


def labels(job: Job) -> list[str]:
    """What tells its runs apart: nothing where there is one, else `-high`, `-low`."""
    return [f"-{expert}" for expert in job.experts] if len(job.runs) > 1 else [""]


def setups(job: Job) -> list[tuple[str, ...]]:
    """The words after `wanwrap setup` on the machine of each run: each fetches the DiT of its expert alone."""
    levels = [("--noise_level", expert) for expert in job.experts] if len(job.runs) > 1 else [()]
    return [(*job.setup, *level) for level in levels]


def seconds(job: Job) -> int:
    """After which a run is ended."""
    return round(job.hours * 3600)
