"""How far each expert of a run has come: `training/low.json` in the run's folder, whole at every moment."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from wanwrap import __version__
from wanwrap.errors import OutputError
from wanwrap.plan.plan import Plan, Step, epoch_of
from wanwrap.run.ledger import Ledger, now
from wanwrap.run.settings import changes, settings
from wanwrap.upstream.states import clear


def file_of(folder: Path, key: str) -> Path:
    """Where an expert's progress stands."""
    return folder / "training" / f"{key}.json"


# What each field is where nothing has happened yet; one of another type, of a hand or another version, is no better.
BLANK: dict[str, Any] = {
    "state": "waiting",
    "reason": "",
    "steps_done": 0,
    "steps_planned": 0,
    "epochs_done": 0,
    "epochs_planned": 0,
    "seconds_per_step": None,
    "loss": None,
    "started": "",
    "blocks_to_swap": 0,
    "asked_blocks": 0,
    "attempts": [],
    "files": [],
    "bytes": {},
}


def read(folder: Path, key: str) -> dict[str, Any]:
    """The progress that is on disk; empty where there is none, or what is no progress."""
    with suppress(OSError, ValueError, RecursionError):
        record = json.loads(file_of(folder, key).read_text(encoding="utf-8"))
        if isinstance(record, dict) and isinstance(record.get("settings"), dict):
            sound = {name: _typed(record.get(name), blank) for name, blank in BLANK.items()}
            sound["attempts"] = [each for each in sound["attempts"] if _is(each, from_step=int, from_epoch=int)]
            place = record.get("resume")
            return {**record, **sound, "resume": place if _is(place, step=int, epoch=int) else None}
    return {}


def _typed(value: Any, blank: Any) -> Any:
    kind = int | float if blank is None else type(blank)
    return value if isinstance(value, kind) else copy.deepcopy(blank)


def _is(row: object, **fields: type) -> bool:
    """Whether it is a record with these fields, in a folder."""
    wanted = {"folder": str, **fields}
    return isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in wanted.items())


def opened(plan: Plan, step: Step) -> Ledger:
    """The progress of a training that begins or goes on; nothing is written yet."""
    assert step.recipe and step.training
    training = step.training
    known = {
        "wanwrap": __version__,
        "state": "waiting",
        "reason": "",
        "steps_planned": step.recipe.steps,
        "epochs_planned": step.recipe.epochs,
        "steps_per_epoch": step.recipe.per_epoch,
        "state_every": training.state_every,
        "settings": settings(step, plan.dataset),
    }
    blank = {"expert": training.key, **copy.deepcopy(BLANK), "started": now(), "resume": None}
    record = {**blank, **read(plan.folder, training.key), **known}
    return Ledger(path=file_of(plan.folder, training.key), record=record)


def is_done(plan: Plan, step: Step) -> bool:
    """Whether an expert has been trained to its end."""
    assert step.training
    return bool(read(plan.folder, step.training.key).get("state") == "done")


def check(plan: Plan) -> None:
    """Raises OutputError: an earlier run of the name was another one, or its files are nobody's."""
    told = list[str]()
    for step in plan.trainings:
        assert step.training
        if before := read(plan.folder, step.training.key):
            changed = changes(before["settings"], settings(step, plan.dataset))
            told += [f"  {step.training.key}: {line}" for line in changed]
    if told:
        raise OutputError(
            f"{plan.folder} holds a run with other settings, which can't go on as this one:\n"
            + "\n".join(told)
            + "\nGive those again, or another --output_name; --restart begins anew (what is there is put aside; with "
            "--noise_level high or low that expert's alone)."
        )


def standing(plan: Plan) -> Iterator[str]:
    """Where each expert's training goes on, a line each; nothing for one that begins."""
    for step in plan.trainings:
        assert step.training
        key, before = step.training.key, read(plan.folder, step.training.key)
        if not before:
            continue
        if before["state"] == "done":
            gone = "" if step.makes and step.makes.is_file() else f" ({step.makes} is no longer there)"
            yield f"{key}: trained to its end{gone}; --restart trains it again"
        elif before["epochs_done"] or before["resume"]:
            done = f"{key}: {before['epochs_done']} of {before['epochs_planned']} epochs done"
            begin = before["resume"]["epoch"] if before["resume"] else None
            yield f"{done}, going on from {begin}" if begin else f"{done}, and no state was saved: it begins anew"


def made(plan: Plan, step: Step) -> list[str]:
    """The LoRAs of a training that are in their place."""
    assert step.training
    return sorted(path.name for path in plan.folder.glob("*") if epoch_of(path.name, step.training.label) is not None)


def put_aside(plan: Plan) -> Path | None:
    """Move what earlier runs of the trainings have made into a folder of its own; their states go, last."""
    number = next(n for n in range(1, 10**6) if not (plan.folder / f"before-{n}").exists())
    aside, moved = plan.folder / f"before-{number}", False
    for step in plan.trainings:
        assert step.training
        key = step.training.key
        samples = (plan.folder / "sample").glob(f"{step.training.label}_*")
        places = [*(plan.folder / name for name in made(plan, step)), *samples, plan.folder / "logs" / key]
        for path in (*places, file_of(plan.folder, key)):
            if path.exists():
                (aside / path.relative_to(plan.folder)).parent.mkdir(parents=True, exist_ok=True)
                path.replace(aside / path.relative_to(plan.folder))
                moved = True
        clear(plan.folder / "training", key)
    return aside if moved else None
