"""Samples as wanwrap makes them: which cells are there already, the child that makes the others, one after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from wanwrap.look import samples
from wanwrap.look.grid import Cell
from wanwrap.look.sample_plan import SamplePlan
from wanwrap.look.samples import FOLDER, Sample
from wanwrap.paths import PACKAGE
from wanwrap.plan.script import command, environment
from wanwrap.system import console
from wanwrap.system.failures import failure
from wanwrap.system.files import lock, remove, write_atomic
from wanwrap.system.log import JsonLines, run_logged
from wanwrap.system.process import Command
from wanwrap.system.shell import Shell
from wanwrap.upstream.options import CONVERT_LORA, SAMPLE, Options, spell
from wanwrap.upstream.pin import SETTINGS

LOG, JOB = f"{FOLDER}/sample.log", f"{FOLDER}/job.json"
CHILD = str(PACKAGE / "look" / "sample_child.py")
ADVICE = {
    "gpu memory": "a smaller --size or fewer --frames take less; `--blocks_to_swap` more of the DiTs in RAM",
    "memory": "close other programs",
}


def script(plan: SamplePlan, shell: Shell) -> list[str]:
    """What would be done, as commands of upstream's: a process for each cell."""
    lines = [
        *environment(_env(plan), shell),
        *(command(_conversion(plan, *each), shell) for each in plan.models.conversions),
    ]
    for cell in plan.cells:
        lines += ["", f"# {cell.sample.file}", command(argv(plan, cell), shell)]
    return lines


def argv(plan: SamplePlan, cell: Cell) -> tuple[str, ...]:
    """Upstream's own command that makes the same, but for what rounding the merged weights changes."""
    request, more = plan.request, {**plan.options, "save_path": str(plan.folder / FOLDER)}
    return (request.python, *request.upstream.start(SAMPLE), *cell.argv(more))


def _conversion(plan: SamplePlan, source: Path, out: Path) -> tuple[str, ...]:
    """Upstream's command that brings a LoRA into its own format."""
    words: Options = {"input": str(source), "output": str(out), "target": "default"}
    return (plan.request.python, *plan.request.upstream.start(CONVERT_LORA), *spell(words))


def _env(plan: SamplePlan) -> dict[str, str]:
    return {**plan.request.upstream.env, **SETTINGS, **plan.env}


def todo(plan: SamplePlan) -> list[Cell]:
    """The cells that are not there yet. Raises OutputError: the list of those that are is damaged."""
    done = {sample.file for sample in there(plan)}
    return [cell for cell in plan.cells if cell.sample.file not in done]


def there(plan: SamplePlan) -> list[Sample]:
    """Those of the plan's samples that are there. Raises OutputError: the list of all is damaged."""
    files = {cell.sample.file for cell in plan.cells}
    return [sample for sample in samples.read(plan.folder) if sample.file in files]


def make(plan: SamplePlan) -> None:
    """Make what is not there yet; each is on the list as soon as its file is whole.

    Raises:
        OutputError: another is at it. StepError, GpuError, RoomError: the child failed; what it has made stays.
    """
    folder = plan.folder
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    with lock(folder / FOLDER, f"another `wanwrap sample` is at work in {folder}; wait for it, or end it."):
        left = todo(plan)
        for source, out in plan.models.conversions if left else ():
            if not out.is_file():
                _convert(plan, source, out)
        if left:
            _make(plan, left)


def _convert(plan: SamplePlan, source: Path, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.stem}.{os.getpid()}.part.safetensors")  # two runs may convert it at once
    _run(plan, f"converting {source.name}", _conversion(plan, source, part), lambda _: None)
    part.replace(out)


def _make(plan: SamplePlan, cells: Sequence[Cell]) -> None:
    place = plan.folder / JOB
    write_atomic(place, json.dumps(_job(plan, cells), indent=1))
    made = samples.read(plan.folder)
    try:
        with console.bar("samples", len(cells)) as done:

            def hear(words: dict[str, Any]) -> None:
                if "doing" in words:
                    console.say(words["doing"])
                    return
                cell = cells[words["cell"]]
                made.append(replace(cell.sample, argv=[*argv(plan, cell)]))
                samples.write(plan.folder, made)
                done()

            child = filter(None, [plan.request.upstream.child, CHILD])
            _run(plan, "making samples", (plan.request.python, *child, str(place)), hear)
    finally:
        with suppress(OSError):
            remove(place)


def _job(plan: SamplePlan, cells: Sequence[Cell]) -> dict[str, Any]:
    """What the child reads."""
    more = {**plan.options, "save_path": FOLDER}
    bare = replace(cells[0], loras={})
    rows = [
        {
            "argv": cell.argv(more),
            "loras": {expert: str(path) for expert, path in cell.loras.items()},
            "strength": cell.sample.strength,
            "out": str(plan.folder / cell.sample.file),
        }
        for cell in cells
    ]
    return {"load": bare.argv(more), "networks": plan.networks, "cells": rows}


def _run(plan: SamplePlan, name: str, argv: Sequence[str], hear: Any) -> None:
    """Raises StepError, GpuError, RoomError, KeyboardInterrupt."""
    log = plan.folder / LOG
    status, tail = run_logged(name, Command(argv, plan.folder, _env(plan)), log, listen=JsonLines(hear))
    if status:
        why = failure(status, tail, ADVICE)
        raise why.error(f"{name} {why.text}\n{tail}\nThe whole log: {log}")
