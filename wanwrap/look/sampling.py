"""Samples as wanwrap makes them: which cells are there already, the child that makes the others, one after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wanwrap.look import samples
from wanwrap.look.grid import Cell
from wanwrap.look.samples import FOLDER
from wanwrap.paths import PACKAGE
from wanwrap.plan.script import command, environment
from wanwrap.system import console
from wanwrap.system.failures import failure
from wanwrap.system.files import lock, remove, write_atomic
from wanwrap.system.log import JsonLines, run_logged
from wanwrap.system.process import Command
from wanwrap.system.shell import Shell
from wanwrap.upstream.options import CONVERT_LORA, SAMPLE, Options, spell
from wanwrap.upstream.pin import SETTINGS, Upstream

Network = tuple[str, Mapping[str, str]]
LOG, JOB = f"{FOLDER}/sample.log", f"{FOLDER}/job.json"
CHILD = str(PACKAGE / "look" / "sample_child.py")
ADVICE = {
    "gpu memory": "a smaller --size or fewer --frames take less; `--blocks_to_swap` more of the DiTs in RAM",
    "memory": "close other programs",
}


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """What makes samples of one run: the training Python, upstream in it, and the `options` that change no result.

    `networks` are upstream's modules of the LoRAs with their arguments, by expert; `conversions` are LoRAs that upstream can't read and the files to make of
    them first; `env` is added to the environment.
    """

    folder: Path
    python: str
    upstream: Upstream
    networks: Mapping[str, Network]
    options: Options
    conversions: Sequence[tuple[Path, Path]] = ()
    env: dict[str, str]

    def argv(self, cell: Cell) -> tuple[str, ...]:
        """Upstream's own command that makes the same, but for what rounding the merged weights changes."""
        more = {**self.options, "save_path": str(self.folder / FOLDER)}
        return (self.python, *self.upstream.start(SAMPLE), *cell.argv(more))

    def convert(self, source: Path, out: Path) -> tuple[str, ...]:
        """Upstream's command that brings a LoRA into its own format."""
        words: Options = {"input": str(source), "output": str(out), "target": "default"}
        return (self.python, *self.upstream.start(CONVERT_LORA), *spell(words))

    @property
    def start(self) -> tuple[str, ...]:
        """How the child is started."""
        return (self.python, *([self.upstream.child] if self.upstream.child else []), CHILD)


def script(sampler: Sampler, cells: Sequence[Cell], shell: Shell) -> list[str]:
    """What would be done, as commands of upstream's: a process for each cell."""
    env = {**sampler.upstream.env, **SETTINGS, **sampler.env}
    lines = [*environment(env, shell), *(command(sampler.convert(*each), shell) for each in sampler.conversions)]
    for cell in cells:
        lines += ["", f"# {cell.sample.file}", command(sampler.argv(cell), shell)]
    return lines


def todo(folder: Path, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are not there yet. Raises OutputError: the list of those that are is damaged."""
    there = {sample.file for sample in samples.read(folder)}
    return [cell for cell in cells if cell.sample.file not in there]


def make(sampler: Sampler, cells: Sequence[Cell]) -> None:
    """Make what is not there yet; each is on the list as soon as its file is whole.

    Raises:
        OutputError: another is at it. StepError, GpuError, RoomError: the child failed; what it has made stays.
    """
    folder = sampler.folder
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    with lock(folder / FOLDER, f"another `wanwrap sample` is at work in {folder}; wait for it, or end it."):
        left = todo(folder, cells)
        for source, out in sampler.conversions if left else ():
            if not out.is_file():
                _convert(sampler, source, out)
        if left:
            _make(sampler, left)


def _convert(sampler: Sampler, source: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.stem}.{os.getpid()}.part.safetensors")  # two runs may convert it at once
    _run(sampler, f"converting {source.name}", sampler.convert(source, part), lambda _: None)
    part.replace(out)


def _make(sampler: Sampler, cells: Sequence[Cell]) -> None:
    place = sampler.folder / JOB
    write_atomic(place, json.dumps(_job(sampler, cells), indent=1))
    made = samples.read(sampler.folder)
    try:
        with console.bar("samples", len(cells)) as done:

            def hear(words: dict[str, Any]) -> None:
                if "doing" in words:
                    console.say(words["doing"])
                    return
                cell = cells[words["cell"]]
                made.append(replace(cell.sample, seconds=words["seconds"], argv=[*sampler.argv(cell)]))
                samples.write(sampler.folder, made)
                done()

            _run(sampler, "making samples", (*sampler.start, str(place)), hear)
    finally:
        with suppress(OSError):
            remove(place)


def _job(sampler: Sampler, cells: Sequence[Cell]) -> dict[str, Any]:
    """What the child reads."""
    more = {**sampler.options, "save_path": FOLDER}
    bare = replace(cells[0], loras={})
    rows = [
        {
            "argv": cell.argv(more),
            "loras": {expert: str(path) for expert, path in cell.loras.items()},
            "strength": cell.sample.strength,
            "out": str(sampler.folder / cell.sample.file),
        }
        for cell in cells
    ]
    return {"load": bare.argv(more), "networks": sampler.networks, "cells": rows}


def _run(sampler: Sampler, name: str, argv: Sequence[str], hear: Any) -> None:
    """Raises StepError, GpuError, RoomError, KeyboardInterrupt."""
    env = {**sampler.upstream.env, **SETTINGS, **sampler.env}
    log = sampler.folder / LOG
    status, tail = run_logged(name, Command(argv, sampler.folder, env), log, listen=JsonLines(hear))
    if status:
        why = failure(status, tail, ADVICE)
        raise why.error(f"{name} {why.text}\n{tail}\nThe whole log: {log}")
