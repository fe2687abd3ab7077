"""The card that a training is fitted to: this machine's, or one that isn't here; and what it has shown so far."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wanwrap.errors import OutputError
from wanwrap.system import gpu
from wanwrap.system.files import write_atomic
from wanwrap.system.gpu import Gpu
from wanwrap.system.shell import Shell
from wanwrap.upstream.memory import GIB

ALLOCATOR, EXPANDABLE = "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"
LEAST, MOST = 0.4, 0.75  # of what a card is built for: published trainings on clips reach 0.37 to 0.74
LATELY = 3600  # seconds; a card is seldom changed while the machine runs
SPREAD = 0.8  # of what it has shown before: another data set, another season


@dataclass(frozen=True)
class Card:
    """A GPU: its bytes, the RAM and page file of its machine (None: nobody knows), floating-point operations a second, at
    least and at most (0: nobody knows); whether it `draws` a screen. `expandable` is whether torch grows its segments
    there; None where it may be told to.
    """

    name: str
    memory: int
    ram: int | None = None
    speed: tuple[float, float] = (0.0, 0.0)
    expandable: bool | None = False
    draws: bool = False

    def with_env(self, env: Mapping[str, str]) -> Card:
        """The card with torch's allocator as this environment sets it; Windows' torch heeds none."""
        own = env.get(ALLOCATOR)
        return replace(self, expandable=EXPANDABLE in own) if own and self.expandable is not False else self


def described(gib: float, shell: Shell | None = None) -> Card:
    """One that isn't here, by its size; its machine has the system of a shell, by default this one's."""
    grows = False if shell == "powershell" else _expandable()
    return Card(f"a card of {gib:g} GB", round(gib * GIB), expandable=grows)


def here(gpus: int = 1) -> Card | None:
    """This machine's, by nvidia-smi: the smallest of the so many largest that are visible; None where there are fewer.

    torch counts them by their speed, which nvidia-smi doesn't tell: a run looks again when it has asked torch.
    """
    found = sorted(gpu.visible(_listed(), os.environ), key=lambda each: -each.total)
    if len(found) < gpus:
        return None
    smallest = found[gpus - 1]
    return of(smallest.name, smallest.total, draws=smallest.draws)


def _listed() -> list[Gpu]:
    """All of this machine's, as nvidia-smi has told lately: it takes its time."""
    place = _place("cards.json")
    with suppress(OSError, ValueError, TypeError):
        if 0 <= time.time() - place.stat().st_mtime < LATELY:
            return [Gpu(**row) for row in json.loads(place.read_text(encoding="utf-8"))]
    found = gpu.listed()
    if found:
        _keep("cards.json", [vars(each) for each in found])
    return found


def _keep(name: str, rows: object) -> None:
    """A cache that can't be written costs time alone."""
    place = _place(name)
    with suppress(OSError, OutputError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, json.dumps(rows, indent=1))


def seen(gpus: Sequence[Mapping[str, Any]]) -> Card | None:
    """The smallest of these GPUs, as torch tells of them; by nvidia-smi's size, as `here` has it."""
    return min(map(_seen, gpus), key=lambda each: each.memory, default=None)


def _seen(row: Mapping[str, Any]) -> Card:
    built = gpu.operations(row["name"], row["capability"], row["multiprocessors"])
    if listed := gpu.find(row["uuid"]):
        return of(listed.name, listed.total, built, draws=listed.draws)
    return of(row["name"], row["memory"], built)


def of(name: str, memory: int, operations: float = 0.0, *, draws: bool = False) -> Card:
    """A card of this machine; `operations` a second are those that it is built for, where torch has told."""
    import psutil

    shown = _speeds().get(name, 0.0)
    speed = (SPREAD * shown, shown / SPREAD) if shown else (LEAST * operations, MOST * operations)
    ram = psutil.virtual_memory().total + psutil.swap_memory().total
    return Card(name, memory, ram, speed, _expandable(), draws)


def keep_speed(name: str, speed: float) -> None:
    """Remember what a card has done, for the next run."""
    known = _speeds()
    if speed > known.get(name, 0):
        _keep("speeds.json", {**known, name: speed})


def _expandable() -> bool | None:
    """torch can do it on Linux alone; what the user has set stays, by either name, of which torch takes the first."""
    if own := os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get(ALLOCATOR):
        return "expandable_segments:true" in own.lower().replace(" ", "")
    return None if sys.platform == "linux" and not gpu.wsl() else False


def _speeds() -> dict[str, float]:
    """Operations a second by the names of cards, as earlier runs have measured them."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        rows = json.loads(_place("speeds.json").read_text(encoding="utf-8"))
        return {name: float(speed) for name, speed in rows.items()}
    return {}


def _place(name: str) -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("wanwrap") / name
