"""What must hold of a run that was killed and went on: the same files, steps and curves as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from wanwrap.data.cache_lock import READERS
from wanwrap.data.caches import survey
from wanwrap.errors import WeightsError
from wanwrap.plan.plan import Plan, Train
from wanwrap.run import record as records
from wanwrap.run.attempt import Attempt
from wanwrap.run.record import FILE, Record
from wanwrap.run.training import LOG
from wanwrap.system.files import LOCK, PART
from wanwrap.system.safetensors import read_header
from wanwrap.upstream import states
from wanwrap.upstream.output import LOSS, points
from wanwrap.weights.provenance import trained

RATE = "lr/unet"
Floor = dict[str, tuple[int, int]]  # of each expert: the attempts so far, and the last epoch that was safe
Curves = dict[str, dict[str, list[list[tuple[int, float]]]]]  # expert, tag, attempt: step of all the training, value

# In the training Python: how many steps each of the optimizers has made.
READER = """
import json, sys, torch
print(json.dumps([sorted({int(each["step"]) for each in torch.load(path)["state"].values()}) for path in sys.argv[1:]]))
"""


def check(plan: Plan, floors: Sequence[Floor], reference: Curves | None, python: str) -> list[str]:
    """All that does not hold; `reference` is what `read` says of a run without kills, `floors` what each kill left."""
    problems = list[str]()
    for each in (_files(plan), _caches(plan), _records(plan, floors), _curves(plan, reference), _states(plan, python)):
        try:
            problems += each
        except (OSError, ValueError, KeyError, WeightsError) as error:
            problems.append(f"{type(error).__name__}: {error}")
    return problems


# ---- at a kill


def kept_epochs(plan: Plan) -> Floor:
    """What must not be lost if the run is killed now."""
    floor = Floor()
    for train in plan.trainings:
        loras = [states.lora_epoch(path.name, train.label) for path in plan.folder.glob("*.safetensors")]
        epochs = [train.epochs if epoch == 0 else epoch for epoch in loras if epoch is not None]
        with suppress(OSError):
            attempts = len(_record(train).attempts)
            floor[train.expert] = attempts, max([*epochs, *(epoch for epoch, _ in _whole_states(train))], default=0)
    return floor


def keep_states(plan: Plan, number: int) -> None:
    """Link the optimizers that each expert may go on from after this kill: at the end they are asked for their steps."""
    _base(plan, "states").mkdir(exist_ok=True)
    for train in plan.trainings:
        with suppress(OSError):
            for epoch, state in _whole_states(train):
                name = f"{train.expert}-{number}-{state.parent.name}-{epoch * train.per_epoch}.bin"
                os.link(state / "optimizer.bin", _base(plan, "states") / name)


def half_files(plan: Plan) -> Iterator[str]:
    """LoRAs and DiTs that are not whole, at any moment."""
    for path in (*plan.folder.glob("*.safetensors"), *_base(plan, "merged_dits").glob("*.safetensors")):
        with suppress(FileNotFoundError):  # one of those that are not kept
            try:
                read_header(path)
            except WeightsError as error:
                yield str(error)


def _whole_states(train: Train) -> list[tuple[int, Path]]:
    """The states that a next start finds, with the epochs after which they were saved."""
    attempt = Attempt(train, _record(train))
    there = [(int(path.name[-6:]), path) for path in train.folder.glob("state-??????")]
    there += [(attempt.epoch + n, path) for n, path in states.saved(attempt.folder, train.label).items()]
    return [(epoch, path) for epoch, path in there if states.is_whole(path)]


def _record(train: Train) -> Record:
    record = records.read(train.folder)
    if record is None or not record.attempts:
        raise FileNotFoundError(f"no record of an attempt in {train.folder}")
    return record


def _base(plan: Plan, name: str) -> Path:
    return plan.folder.parent.parent / name


# ---- at the end


def _files(plan: Plan) -> Iterator[str]:
    """Each LoRA whole and of the epoch in its name; nothing else."""
    loras = {name for train in plan.trainings for name in train.loras}
    yield from _differs(plan.folder, {*loras, "report.html", *(train.folder.name for train in plan.trainings)})
    for train in plan.trainings:
        own = {path.name for path in plan.files if path.parent == train.folder}
        yield from _differs(train.folder, {*own, FILE, LOG, "run.sh", "logs"})
        logs = {train.logs(row["number"]) for row in _record(train).attempts}
        if foreign := {*(train.folder / "logs").iterdir()} - logs:
            yield f"curves of no attempt: {sorted(map(str, foreign))}"
        for name in train.loras:
            epoch = states.lora_epoch(name, train.label) or train.epochs
            facts = trained(read_header(plan.folder / name).get("__metadata__", {}))
            wanted = {"epoch": epoch, "steps": train.per_epoch * epoch}
            wanted |= {"epochs": train.epochs, "steps_planned": train.steps}
            if odd := {key: facts.get(key) for key, value in wanted.items() if facts.get(key) != value}:
                yield f"{name} says {odd}"
    left = {path for ending in (PART, LOCK, states.REMOVED) for path in _base(plan, "").rglob(f"*{ending}")}
    if odd_names := sorted(path.name for path in left if path.parent.name != READERS):  # which go at the next change
        yield f"left lying: {odd_names}"


def _differs(folder: Path, expected: Iterable[str]) -> Iterator[str]:
    if odd := {*expected} ^ {path.name for path in folder.iterdir()}:
        yield f"in {folder.name} alone, or expected alone: {sorted(odd)}"


def _caches(plan: Plan) -> Iterator[str]:
    """Caches and merged DiTs whole, and no others."""
    for entry in plan.dataset.entries:
        found = survey(entry, plan.encoders)
        if not found.complete:
            yield f"caches: {sorted(found.marks.keys() - found.sound)} missing, {found.stale} stale"
    if plan.rewrites:
        yield from _differs(_base(plan, "merged_dits"), {step.out.name for step in plan.rewrites})
    yield from half_files(plan)


def _records(plan: Plan, floors: Sequence[Floor]) -> Iterator[str]:
    """What `record.json` says, and that no attempt began before what was safe."""
    for train in plan.trainings:
        record = _record(train)
        wanted = {"expert": train.expert, "state": "done", "doing": "", "saved_epoch": 0, "files": sorted(train.loras)}
        wanted |= {"steps_planned": train.steps, "steps_done": train.steps, "steps_per_epoch": train.per_epoch}
        wanted |= {"epochs_planned": train.epochs, "epochs_done": train.epochs}
        if odd := {key: getattr(record, key) for key, value in wanted.items() if getattr(record, key) != value}:
            yield f"the record of {train.expert}: {odd}"
        for number, floor in enumerate(floors):
            attempts, epoch = floor.get(train.expert, (0, 0))
            if again := [row["epoch"] for row in record.attempts[attempts:] if row["epoch"] < epoch]:
                yield f"{train.expert}: epoch {epoch} was safe at kill {number + 1}, and trained again from {again[0]}"


def read(plan: Plan) -> Curves:
    """The curves of each expert, attempt by attempt."""
    curves = Curves()
    for train in plan.trainings:
        rows = curves[train.expert] = {RATE: [], LOSS: []}
        for attempt in _record(train).attempts:
            for row in rows.values():
                row.append([])
            for path in sorted(train.logs(attempt["number"]).rglob("*tfevents*")):
                with path.open("rb") as file:
                    for step, tag, value in points(file):
                        if tag in rows:
                            rows[tag][-1].append((attempt["step"] + step, value))
    return curves


def _curves(plan: Plan, reference: Curves | None) -> Iterator[str]:
    """Each attempt has all steps from its first to the next one's; the rate of each is the reference's."""
    curves = read(plan)
    for train in plan.trainings:
        begins = [row["step"] for row in _record(train).attempts]
        for tag, attempts in curves[train.expert].items():
            for begin, end, row in zip(begins, [*begins[1:], train.steps], attempts, strict=True):
                steps = [step for step, _ in row]
                if begin + len(steps) < end or steps != [*range(begin + 1, begin + 1 + len(steps))]:
                    yield f"{tag} of {train.expert} from step {begin} to {end}: points at {steps}"
        right = {point for row in (reference or curves)[train.expert][RATE] for point in row}
        if wrong := [point for row in curves[train.expert][RATE] for point in row if point not in right]:
            yield f"learning rates of {train.expert} are not those of a run without kills: {wrong}"


def _states(plan: Plan, python: str) -> Iterator[str]:
    """The optimizers that it went on from have made as many steps as was said."""
    paths = sorted(_base(plan, "states").glob("*.bin"))
    done = subprocess.run([python, "-c", READER, *map(str, paths)], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"reading the optimizers failed: {done.stderr.splitlines()[-1:]}")
    for path, steps in zip(paths, json.loads(done.stdout.splitlines()[-1]), strict=True):
        if steps != [int(path.stem.rpartition("-")[2])]:
            yield f"the optimizer of {path.stem} has made {steps} steps"
