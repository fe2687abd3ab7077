"""What must hold of a run that was killed and went on: the same files, steps and curves as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from wanwrap.data.caches import WHAT, missing, names, strangers
from wanwrap.errors import WeightsError
from wanwrap.plan.plan import Plan, Step
from wanwrap.system import header
from wanwrap.system.files import PART

Floor = dict[str, tuple[int, int]]  # of each expert: the attempts so far, and the last epoch that was safe
SAFE = 2.0  # seconds after which a LoRA's epoch must never be trained again
ROWS = "lr/unet", "loss/current"

# In the training Python: the points of each folder of curves, all of them and as TensorBoard shows them; steps of states.
READER = """
import json, sys, torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
asked, found = json.loads(sys.argv[1]), {}
for folder in asked["curves"]:
    for purge in (False, True):
        curves = EventAccumulator(folder, size_guidance={"scalars": 0}, purge_orphaned_data=purge)
        curves.Reload()
        tags = curves.Tags()["scalars"]
        found[f"{folder} {purge}"] = {tag: [[p.step, p.value] for p in curves.Scalars(tag)] for tag in asked["rows"] if tag in tags}
for state in asked["states"]:
    found[state] = sorted({int(each["step"]) for each in torch.load(state)["state"].values()})
print(json.dumps(found))
"""


def check(plan: Plan, floors: Sequence[Floor], reference: dict[str, Any] | None, python: str) -> list[str]:
    """All that does not hold; `reference` is what `read` says of a run without kills, `floors` what each kill left."""
    problems = list[str]()
    checks: list[Callable[[], Iterable[str]]] = [
        lambda: _files(plan),
        lambda: _caches(plan),
        lambda: _progress(plan, floors),
        lambda: _curves(plan, read(plan, python), reference),
    ]
    for each in checks:
        try:
            problems += each()
        except (OSError, ValueError, KeyError, TypeError, WeightsError) as error:
            problems.append(f"{type(error).__name__}: {error}")
    return problems


def key(step: Step) -> str:
    """What an expert's folders are called."""
    return step.name.removeprefix("train").strip() or "dit"


def _loras(run_epochs: int, save_every: int, step: Step) -> dict[str, int]:
    """The names of an expert's LoRAs, with their epochs; upstream saves none for the last epoch but the final one."""
    assert step.makes
    numbered = {f"{step.makes.stem}-{n:06d}.safetensors": n for n in range(save_every, run_epochs, save_every)}
    return {**numbered, step.makes.name: run_epochs}


def expected(plan: Plan) -> dict[str, tuple[Step, int]]:
    """All LoRAs of a run: whose, and of which epoch."""
    found = dict[str, tuple[Step, int]]()
    for step in plan.trainings:
        assert step.recipe
        options = step.recipe.options
        every, epochs = int(str(options["save_every_n_epochs"])), int(str(options["max_train_epochs"]))
        found |= {name: (step, epoch) for name, epoch in _loras(epochs, every, step).items()}
    return found


def kept_epochs(plan: Plan) -> Floor:
    """What must not be lost if the run is killed now."""
    floors = Floor()
    for step in plan.trainings:
        epochs, attempts = [0], 0
        for name, (owner, epoch) in expected(plan).items():
            with suppress(OSError):
                safe = time.time() - (plan.folder / name).stat().st_ctime > SAFE
                epochs += [epoch] if safe and owner is step else []
        with suppress(OSError, ValueError):
            attempts = len(_record(plan, step)["attempts"])
        floors[key(step)] = attempts, max(epochs)
    return floors


def keep_states(plan: Plan, number: int) -> None:
    """Link the optimizer that each expert goes on from after this kill: at the end it is asked for its steps."""
    _states(plan).mkdir(exist_ok=True)
    for step in plan.trainings:
        with suppress(OSError, ValueError, TypeError):  # it would begin anew
            resume = _record(plan, step)["resume"]
            name = f"{key(step)}-{number}-{resume['step']}.bin"
            os.link(plan.folder / "training" / resume["folder"] / "optimizer.bin", _states(plan) / name)


def _states(plan: Plan) -> Path:
    return plan.folder.parent.parent / "states"


def _record(plan: Plan, step: Step) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((plan.folder / "training" / f"{key(step)}.json").read_text(encoding="utf-8"))
    return found


def _files(plan: Plan) -> Iterator[str]:
    """Each LoRA whole and of the epoch in its name; nothing else."""
    loras, there = expected(plan), {path.name for path in plan.folder.iterdir()}
    if found := loras.keys() ^ {name for name in there if name.endswith(".safetensors")}:
        yield f"LoRAs there or expected alone: {sorted(found)}"
    own = {*loras, *(path.name for path in plan.files), "logs", "training", "sample"}
    own |= {f"{plan.record}{ending}" for ending in (".sh", ".json", ".log")}
    if foreign := sorted(there - own):
        yield f"foreign in the run's folder: {foreign}"
    base = plan.folder.parent.parent
    if parts := sorted(path.name for path in base.rglob(f"*{PART}") if path.name != f"run{PART}"):
        yield f"half files: {parts}"
    progress = {f"{key(step)}.json" for step in plan.trainings}
    if left := sorted({path.name for path in (plan.folder / "training").iterdir()} - progress):
        yield f"left in training: {left}"
    for name in sorted(loras.keys() & there):
        yield from _lora(plan.folder / name, *loras[name])


def _lora(path: Path, step: Step, epoch: int) -> Iterator[str]:
    assert step.recipe
    told = header.read(path).get("__metadata__", {})
    epochs = int(str(step.recipe.options["max_train_epochs"]))
    steps = step.recipe.steps * epoch // epochs
    if (told.get("ss_epoch"), told.get("ss_steps")) != (str(epoch), str(steps)):
        yield f"{path.name} says epoch {told.get('ss_epoch')}, step {told.get('ss_steps')}, not {epoch}, {steps}"


def _caches(plan: Plan) -> Iterator[str]:
    """Caches and merged DiTs whole, and no others."""
    entries, caches = plan.dataset.entries, plan.caches
    lacking = [path.name for what in WHAT for path in missing(entries, caches, what)]
    if lacking or strangers(entries, caches):
        yield f"caches: {lacking} missing, {strangers(entries, caches)} of no file"
    for entry, cache in zip(entries, caches, strict=True):
        for path in (cache / name for what in WHAT for name, _ in names(entry, what)):
            header.read(path)
    made = {step.makes for step in plan.rewrites}
    folder = plan.folder.parent.parent / "merged_dits"
    if odd := made ^ ({*folder.iterdir()} if folder.is_dir() else set()):
        yield f"merged DiTs there or expected alone: {sorted(map(str, odd))}"
    for dit in made:
        assert dit
        header.read(dit)


def _progress(plan: Plan, floors: Sequence[Floor]) -> Iterator[str]:
    """What `training/<expert>.json` says, and that no attempt began before what was safe."""
    for step in plan.trainings:
        assert step.recipe
        told, epochs = _record(plan, step), int(str(step.recipe.options["max_train_epochs"]))
        steps, whose = step.recipe.steps, {n for n, (owner, _) in expected(plan).items() if owner is step}
        wanted = {"expert": key(step), "state": "done", "steps_planned": steps, "steps_done": steps}
        wanted |= {"epochs_planned": epochs, "epochs_done": epochs, "steps_per_epoch": steps // epochs}
        if odd := {name: told.get(name) for name, value in wanted.items() if told.get(name) != value}:
            yield f"{key(step)}.json: {odd}"
        if whose != {*told["files"]} or len(whose) != len(told["files"]):
            yield f"{key(step)}.json names the files {told['files']}"
        for number, floor in enumerate(floors):
            attempts, epoch = floor[key(step)]
            if again := [each["from_epoch"] for each in told["attempts"][attempts:] if each["from_epoch"] < epoch]:
                yield f"{key(step)}: epoch {epoch} was safe at kill {number + 1}, and trained again from {again[0]}"


def read(plan: Plan, python: str) -> dict[str, Any]:
    """What READER finds: the curves of `logs/<expert>` by "<expert> False" (all points) and "<expert> True", states."""
    curves = {key(step): _curve_folder(plan.folder / "logs" / key(step)) for step in plan.trainings}
    states = [*map(str, _states(plan).glob("*.bin"))]
    asked = {"curves": [str(each) for each in curves.values()], "rows": ROWS, "states": states}
    argv = [python, "-c", READER, json.dumps(asked)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"reading the curves failed: {done.stderr.splitlines()[-1:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    whose = {f"{folder} {purge}": f"{name} {purge}" for name, folder in curves.items() for purge in (False, True)}
    return {whose.get(name, name): found for name, found in answer.items()}


def _curve_folder(top: Path) -> Path:
    """The one folder with events. Raises ValueError: there are several, or none."""
    folders = sorted({path.parent for path in top.rglob("*tfevents*")})
    if len(folders) != 1:
        raise ValueError(f"{top} has {len(folders)} folders with curves")
    return folders[0]


def _curves(plan: Plan, found: dict[str, Any], reference: dict[str, Any] | None) -> Iterator[str]:
    """Each step has one learning rate, which is the reference's, and one loss; the optimizer has made all steps."""
    for step in plan.trainings:
        assert step.recipe
        steps = [*range(1, step.recipe.steps + 1)]
        for which in (f"{key(step)} False", f"{key(step)} True"):
            for row in ROWS:
                numbers = Counter(x for x, _ in found[which].get(row, []))
                if odd := {x: numbers[x] for x in sorted({*steps, *numbers}) if numbers[x] != (x in steps)}:
                    yield f"{row} of {which}: so many points at these steps: {odd}"
            rates, right = (each[which].get(ROWS[0], []) for each in (found, reference or found))
            if wrong := [[x, y] for x, y in rates if [x, y] not in right]:
                yield f"learning rates of {which} are not those of a run without kills: {wrong}"
    for state in _states(plan).glob("*.bin"):
        if found[str(state)] != [int(state.stem.rpartition("-")[2])]:
            yield f"the optimizer of {state.stem} has made {found[str(state)]} steps"
