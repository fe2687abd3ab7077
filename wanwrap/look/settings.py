"""What a run was trained with, as rows of its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from wanwrap.plan.fit_words import gib
from wanwrap.run.record import BASE, DATA, ENCODERS, Record

# of each expert's settings those that are asked for first
SETTINGS = {
    "rank": ("network_dim",),
    "alpha": ("network_alpha",),
    "learning rate": ("learning_rate",),
    "schedule": ("lr_scheduler", "lr_scheduler_type"),
    "optimizer": ("optimizer_type",),
    "timesteps": ("min_timestep", "max_timestep"),
    "drawn by": ("timestep_sampling", "discrete_flow_shift"),
    "epochs": ("epochs",),
    "steps": ("steps",),
}
Row = tuple[str, list[str]]  # its label, and the value of each expert


def first(records: Sequence[Record]) -> list[Row]:
    """What most ask for."""
    rows = [(label, [_values(each, *names) for each in records]) for label, names in SETTINGS.items()]
    rows += [("GPU memory", [*map(_memory, records)])]
    rows += [("base model", [Path(each.dit).name for each in records])]
    return [(label, values) for label, values in rows if any(values)]


def complete(records: Sequence[Record]) -> list[Row]:
    """All of them, by upstream's names; marks of files tell nobody anything."""
    names = dict.fromkeys(name for each in records for name in each.settings if name not in (BASE, DATA, ENCODERS))
    return [(name, [_values(each, name) for each in records]) for name in names]


def _memory(record: Record) -> str:
    """What was foretold of the GPU's, and the most that all programs were seen to use, in whatever attempt."""
    memory, before = record.memory, [each.get("memory", {}) for each in record.attempts]
    used = max(each.get("used", 0) for each in (memory, *before))
    told = [f"{gib(memory['foretold'])} foretold"] if memory.get("foretold") else []
    told += [f"{gib(used)} in use at most"] if used else []
    return ", ".join(told)


def _values(record: Record, *names: str) -> str:
    values = [record.settings[name] for name in names if name in record.settings]
    return ", ".join(" ".join(map(_bare, value if isinstance(value, list) else [value])) for value in values)


def _bare(value: object) -> str:
    """Of a file, as --resume_from takes it, the name alone: the page is shown to others."""
    path = PureWindowsPath(str(value))
    return path.name if path.root else str(value)
