"""What is known of one expert's training: `record.json` in its folder, whole at every moment."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from wanwrap import __version__
from wanwrap.data.caches import WHAT, names
from wanwrap.data.dataset import Dataset
from wanwrap.data.examples import examples, trigger
from wanwrap.errors import OutputError
from wanwrap.plan.plan import Plan, Train
from wanwrap.plan.preflight import Machine
from wanwrap.plan.request import Request
from wanwrap.system.files import patiently, write_atomic
from wanwrap.system.safetensors import digest
from wanwrap.system.shell import joined
from wanwrap.upstream.options import Value, changes_result
from wanwrap.upstream.sampling import Inference

FILE = "record.json"
BASE, ENCODERS = "the base model", "the VAE, the text encoder or CLIP"
DATA = "the data set (its files, captions, buckets or repeats)"

State = Literal["waiting", "running", "done", "failed", "stopped", "interrupted", "begun by 0.1.0", "unreadable"]


def now() -> str:
    """The time, to the second, with its zone."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass
class Record:
    """One expert's training; steps and epochs are counted from the very beginning, whatever attempt makes them.

    `settings` is all that matters of what is trained; `dit` the file that it is trained on. `inference` is how the LoRA is
    used: the task, the experts' boundary, Lightning's release, and upstream's settings for sampling. `examples` are some of
    the files that are trained with their captions, `trigger` the words that all captions begin with. `saved_epoch` is that of the state to go on from, 0 where there
    is none. `memory` is that of the GPU in bytes in the newest attempt: foretold, and the most that was seen in use. `slow` is what is to be known of steps that take far too long; `raised` what has changed, since the GPU's
    memory ran out, in the options that decide on it and were `asked` for. An attempt is a start of upstream: its
    number, the epoch and step that it went on from, how it ended; of those before the newest their `memory`.
    """

    expert: str
    lora: str
    settings: dict[str, Any]
    steps_planned: int
    epochs_planned: int
    steps_per_epoch: int
    state_every: int
    wanwrap: str = __version__
    command: str = ""
    cwd: str = ""
    dit: str = ""
    inference: dict[str, Any] = field(default_factory=dict)
    examples: list[dict[str, str]] = field(default_factory=list)
    trigger: str = ""
    preset: str = ""
    dataset: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    weights: list[dict[str, Any]] = field(default_factory=list)
    state: State = "waiting"
    doing: str = ""
    reason: str = ""
    started: str = ""
    updated: str = ""
    ended: str = ""
    loading: bool = False
    steps_done: int = 0
    epochs_done: int = 0
    loss: float | None = None
    seconds_per_step: float | None = None
    slow: str = ""
    saved_epoch: int = 0
    memory: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    raised: dict[str, Any] = field(default_factory=dict)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)

    @property
    def use(self) -> Inference | None:
        """How its LoRA is used; None of a record of 0.2.0."""
        known = {each.name for each in fields(Inference)}
        told = {name: value for name, value in self.inference.items() if name in known}
        return Inference(**{**told, "size": tuple(told["size"])}) if told else None

    def write(self, folder: Path, **changes: Any) -> None:
        """Change fields, and put all of it on disk. Raises OSError."""
        for name, value in {**changes, "updated": now()}.items():
            setattr(self, name, value)
        write_atomic(folder / FILE, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> Record | None:
    """The record in an expert's folder, "unreadable" where it is none; None where no training was begun.

    Raises:
        OSError: it is there, and can't be read.
    """
    try:
        text = patiently(lambda: (folder / FILE).read_text(encoding="utf-8", errors="surrogateescape"))
        row = json.loads(text)
        known = {each.name for each in fields(Record)}
        record = Record(**{name: value for name, value in row.items() if name in known})
        # where a kill or a full disk came before the last record
        if record.state != "done" and record.attempts and (folder.parent / record.lora).is_file():
            record.state, record.doing, record.ended = "done", "", ""
        return record
    except (FileNotFoundError, NotADirectoryError):
        return _read_0_1_0(folder)
    except (ValueError, TypeError, AttributeError):
        return unknown(folder)


def unknown(folder: Path, state: State = "unreadable", settings: Mapping[str, Any] = {}) -> Record:
    """The record of a training of which nothing else is known."""
    return Record(folder.name, "", dict(settings), 0, 0, 0, 0, state=state)


def _read_0_1_0(folder: Path) -> Record | None:
    """What wanwrap 0.1.0, which kept both experts in one folder, knew of one's training; None where it began none."""
    path = folder.parent / "training" / f"{folder.name}.json"
    if not path.is_file():
        return None
    with suppress(OSError, ValueError, TypeError, KeyError):
        row = json.loads(path.read_text(encoding="utf-8"))
        if row["state"] == "done":
            return unknown(folder, "done", row["settings"])
    return unknown(folder, "begun by 0.1.0")


def begun(folder: Path) -> Record | None:
    """The record of a training that has begun: one that ended before, while a DiT was made or cached, binds nobody."""
    found = read(folder)
    return found if found and (found.attempts or found.state in ("done", "begun by 0.1.0")) else None


def saved_every(state_every: int, begun: int) -> int:
    """Epochs between the states of an attempt from epoch `begun` on: upstream counts from there, and must miss none."""
    return math.gcd(state_every, begun)


def command_line() -> list[str]:
    """The words of this command that go on with what it makes: with --restart they would throw it away."""
    return [word for word in sys.argv[1:] if word != "--restart"]


def begin(plan: Plan, train: Train, machine: Machine) -> Record:
    """The record of a training that begins or goes on; nothing is written yet."""
    request, upstream = plan.request, machine.upstream
    found = begun(train.folder) or Record(
        expert=train.expert,
        lora=train.lora.name,
        settings=settings(train, plan.dataset),
        steps_planned=train.steps,
        epochs_planned=train.epochs,
        steps_per_epoch=train.per_epoch,
        state_every=train.state_every,
        started=now(),
    )
    return replace(
        found,
        wanwrap=__version__,
        command=joined(["wanwrap", *command_line()]),
        cwd=str(Path.cwd()),
        preset=request.called,
        dit=str(train.dit.path),
        inference=inference(request),
        examples=examples(plan.dataset),
        trigger=trigger(plan.dataset),
        dataset={
            "name": plan.dataset.name,
            "items": plan.dataset.train_items,
            "batches_per_epoch": plan.dataset.batches,
            "caches": [os.path.realpath(path) for path in plan.caches],
        },
        machine={
            "python": machine.python,
            "packages": dict(machine.packages),
            "gpus": [dict(gpu) for gpu in machine.gpus],
            "upstream": {"folder": str(upstream.folder or ""), "version": upstream.version, "commit": upstream.commit},
        },
        weights=[
            {"name": name, "path": str(weight.path), "bytes": weight.size or None}
            for name, weight in plan.weights.items()
        ],
        state_every=train.state_every,
        state="waiting",  # a kill has left it as it was
        reason="",
        ended="",
    )


def inference(request: Request) -> dict[str, Any]:
    """How the LoRAs of a run are used."""
    preset, lightning = request.preset, request.lightning
    return {
        "task": preset.task,
        "boundary": preset.timestep_boundary,
        "lightning": asdict(lightning) if lightning else None,
        "dits": {expert.key: expert.dit for expert in preset.experts},
        **asdict(request.inference),
    }


def trained_as(inference: Mapping[str, Any]) -> str:
    """In which both experts of a run must agree, in words: they are used together."""
    lightning = inference["lightning"]
    with_it = (
        f"with Lightning {lightning['release']} at {lightning['strength']:g}" if lightning else "without Lightning"
    )
    return f"{inference['task']} {with_it}"


def settings(train: Train, dataset: Dataset) -> dict[str, Any]:
    """All that matters of a training, by upstream's names, as JSON keeps it: of two that agree the second goes on."""
    paths = {"dit", "dataset_config", "output_name"}  # what is in them is told by marks
    options = {
        name: [*map(str, value)] if isinstance(value, tuple | list) else _text(value)
        for name, value in train.options.items()
        if value is not None and value is not False and changes_result(name) and name not in paths
    }
    made_of = {BASE: train.dit.content, ENCODERS: train.encoders}
    return {**options, **made_of, "steps": train.steps, "epochs": train.epochs, DATA: _mark(dataset)}


def _mark(dataset: Dataset) -> str:
    """A hash of what is trained: contents, captions, windows and sizes of all files, in no order."""
    entries = [
        digest(
            sorted((name, value) for name, value in entry.options.items() if not name.endswith("_directory")),
            *sorted(str(row) for what in WHAT for row in names(entry, what)),
        )
        for entry in dataset.entries
    ]
    return digest(*sorted(entries))


def check_same(plan: Plan, train: Train, before: Mapping[str, Any]) -> None:
    """Raises OutputError: the training that has begun there, with the settings `before`, is another one."""
    after = settings(train, plan.dataset)
    if any(not weight.exists for weight in plan.weights.values()):  # nobody knows what was in those that are gone
        after |= {name: before.get(name) for name in (BASE, ENCODERS)}
    names = {**before, **after}
    if changed := [_change(name, before, after) for name in names if _known(name, before) != _known(name, after)]:
        level = "" if train.expert == "dit" else f" (with --noise_level {train.expert} that expert's alone)"
        raise OutputError(
            f"{train.folder} holds a training with other settings, which can't go on as this one:\n"
            + "\n".join(f"  {train.expert}: {line}" for line in changed)
            + f"\nGive those again, or another --output_name; --restart begins anew{level}, and puts aside what is there."
        )


def _known(name: str, settings: Mapping[str, Any]) -> Any:
    """A setting, by which trainings are told apart: of a file its name, as it lies elsewhere on another machine."""
    value = settings.get(name)
    return PureWindowsPath(value).name if name == "network_weights" and value else value


def _change(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if name in (DATA, ENCODERS, BASE):
        return f"{name}: another one"
    values = (before.get(name, "-"), after.get(name, "-"))
    return f"{name}: {' -> '.join(' '.join(value) if isinstance(value, list) else str(value) for value in values)}"


def _text(value: Value) -> str:
    """A number is the same however it is written."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def standing(train: Train) -> str | None:
    """Where a training goes on, in words; None for one that begins."""
    record = read(train.folder)
    if record and record.state == "done":
        gone = "" if train.lora.is_file() else f" ({train.lora} is no longer there)"
        return f"{train.expert}: trained to its end{gone}; --restart trains it again"
    if record is None or not (record.epochs_done or record.saved_epoch):
        return None
    begins = f"going on from {record.saved_epoch}" if record.saved_epoch else "and no state was saved: it begins anew"
    return f"{train.expert}: {record.epochs_done} of {record.epochs_planned} epochs done, {begins}"
