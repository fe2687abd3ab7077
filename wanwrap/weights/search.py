"""Which of the files that are there serve for what is needed, and why the others don't."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wanwrap.system import console
from wanwrap.system.safetensors import SHARD
from wanwrap.weights import comfyui
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.identify import Sha256, look
from wanwrap.weights.weight_file import WeightFile

SURE = ("sha256", "size", "header", "name")  # by what a file is known, the surest first


@dataclass
class Search:
    """What was found: `files` in the order of the search, `chosen` by the catalogue's names."""

    needs: tuple[str, ...]
    files: list[WeightFile] = field(default_factory=list)
    chosen: dict[str, WeightFile] = field(default_factory=dict)
    others: int = 0  # files of other models

    def why(self, found: WeightFile) -> str:
        """The end of a candidate's line: used for what, or why not."""
        names = [name for name, each in self.chosen.items() if each.path == found.path]
        if names:
            return f"used for {', '.join(names)} ({_how(found)})"
        if found.role == "clip" and "clip" not in self.needs:
            return "not needed: only Wan 2.1 I2V takes a CLIP"
        if not found.usable:
            return f"not used: {found.reason}"
        if found.role == "lora" and not found.names:
            return "not used: it is none of the releases that the presets merge, by its size or sha256"
        if not any(map(found.may_be, self.needs)):
            return f"not needed{f' ({found.what})' if found.what else ''}"
        return f"not used: {_worse(found, self.needs) or 'another is used'}"


def search(needs: Sequence[str], folders: Iterable[Path], sha256: Sha256) -> Search:
    """Look through all folders. `sha256` is asked only of files that could be needed ones."""
    found, seen = Search(tuple(needs)), set[str]()
    with console.bar("looking at file") as done:
        for path in (path for folder in folders for path in comfyui.files(folder)):
            shard, real = SHARD.search(path.name), os.path.realpath(path)
            if real in seen or (shard and int(shard[1]) != 1):  # the first one speaks for its set
                continue
            seen.add(real)
            file = look(path, sha256, needs)
            done()
            if _candidate(file):
                found.files.append(file)
            else:
                found.others += 1
    for name in needs:
        if best := _best(name, found.files):
            found.chosen[name] = best
    return found


def could_be(name: str, found: Search) -> list[WeightFile]:
    """Files that upstream would load for it, of which only the user can say whether they are it."""
    return [each for each in found.files if each.usable and not each.told and each.may_be(name)]


def _how(found: WeightFile) -> str:
    """How it is known to be what it is used for."""
    if found.told == "user":
        return found.reason
    if found.told == "sha256":
        return "its sha256 is the published one"
    return f"by its {found.told}" + ("; its sha256 is to be checked" if found.unchecked else "")


def _candidate(found: WeightFile) -> bool:
    """Whether it could be taken for a needed file; other models' files and a user's LoRAs are counted only."""
    if found.role == "lora":
        return found.hashable or "light" in found.path.name.lower()
    return (found.role != "other" or found.broken) and not (found.role == "dit" and found.made)


def _best(name: str, files: Iterable[WeightFile]) -> WeightFile | None:
    """The one that is used without asking: it needs no conversion, is most surely that model, has the published type."""
    fit = [each for each in files if each.usable and len(each.names) == 1 and each.may_be(name)]
    return min(
        (each for each in fit if not _worse(each, [name])),
        key=lambda each: (each.convert, SURE.index(str(each.told)), each.dtype != CATALOGUE[name].dtype),
        default=None,
    )


def _worse(found: WeightFile, needs: Sequence[str]) -> str | None:
    """Why a file that upstream loads is only used if the user says so."""
    if not found.told:
        return found.reason
    if found.dtype == "fp8" and not any(CATALOGUE[name].dtype == "fp8" for name in needs if found.may_be(name)):
        return "it is fp8, rounded once and for all; give it as an option if you want it none the less"
    if found.role == "dit" and found.dtype == "fp32":
        return "it is fp32, which takes twice the disk and memory; give it as an option if you want it none the less"
    return None
