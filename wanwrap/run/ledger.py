"""What a run has done, as JSON in its folder; whole at every moment."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wanwrap import __version__
from wanwrap.plan.plan import Plan, Step
from wanwrap.system.files import running, write_whole
from wanwrap.upstream.pin import Upstream


def now() -> str:
    """The time, to the second, with its zone."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass
class Ledger:
    """The record of one run; each change is on disk at once."""

    path: Path
    record: dict[str, Any] = field(default_factory=dict)

    def write(self) -> None:
        """Put the record on disk."""
        write_whole(self.path, json.dumps(self.record, indent=1, ensure_ascii=False) + "\n")

    def note(self, **changes: object) -> None:
        """Change the run's own fields."""
        self.record.update(changes)
        self.write()

    def ended(self, state: str, reason: str = "") -> None:
        """Close the record; a step that was running ended as the run did."""
        for row in self.record["steps"]:
            if row["state"] == "running":
                row |= {"state": state, "ended": now()}
        self.note(state=state, ended=now(), **({"reason": reason} if reason else {}))

    def close(self, reason: str = "") -> None:
        """Nobody is at work any more, however that came about."""
        if self.record["state"] == "running":
            with suppress(OSError):
                self.ended("failed", reason)

    def step(self, index: int, **changes: object) -> None:
        """Change the fields of one step."""
        self.record["steps"][index].update(changes)
        self.write()


def at_work(outputs: Path, caches: Iterable[Path], besides: Collection[int] = ()) -> tuple[int, str] | None:
    """The process and folder of a run that is going on on the caches, `besides` those processes."""
    real = {*map(os.path.realpath, caches)}
    for path in outputs.glob("*/run*.json"):
        with suppress(
            OSError, ValueError, TypeError, KeyError, AttributeError, IndexError
        ):  # no ledger, whatever it is
            record = json.loads(path.read_text(encoding="utf-8"))
            process, shared = record["process"], real & {*record.get("caches", ())}
            if shared and record["state"] == "running" and process not in besides and running(path.parent):
                return int(process), str(path.parent)
    return None


def _caches(plan: Plan) -> list[str]:
    """A folder by its one real name: the user's own TOML may spell it in several ways."""
    return [os.path.realpath(path) for path in plan.caches]


def ancestors() -> set[int]:
    """The processes that this one was started by, launchers between them and all."""
    import psutil

    with suppress(psutil.Error):
        return {each.pid for each in psutil.Process().parents()}
    return {os.getppid()}


def opened(plan: Plan, upstream: Upstream, answer: Mapping[str, Any]) -> Ledger:
    """The ledger of a run that is about to start."""
    record = {
        "wanwrap": __version__,
        "state": "running",
        "started": now(),
        "process": os.getpid(),
        "command": shlex.join(["wanwrap", *sys.argv[1:]]),
        "cwd": str(Path.cwd()),
        "preset": plan.preset.name,
        "name": plan.name,
        "upstream": {
            "folder": str(upstream.folder or ""),
            "version": upstream.version,
            "commit": upstream.commit,
        },
        "python": answer["python"],
        "packages": answer["packages"],
        "gpus": answer["gpus"],
        "dataset": {
            "name": plan.dataset.name,
            "items": plan.dataset.train_items,
            "batches_per_epoch": plan.dataset.batches,
        },
        "caches": _caches(plan),
        "weights": [{"path": str(w.path), "bytes": _size(w.path)} for w in plan.weights],
        "steps": [_row(step) for step in plan.steps],
    }
    ledger = Ledger(path=plan.folder / f"{plan.record}.json", record=record)
    ledger.write()
    return ledger


def last(plan: Plan) -> Ledger:
    """The ledger of the plan's last run; an empty one where that is gone."""
    path, record = plan.folder / f"{plan.record}.json", dict[str, Any]()
    with suppress(OSError, ValueError):
        record = json.loads(path.read_text(encoding="utf-8"))
    return Ledger(path=path, record=record)


def _size(path: Path) -> int | None:
    """Bytes; None for a file that a step of the plan will make."""
    return path.stat().st_size if path.is_file() else None


def _row(step: Step) -> dict[str, Any]:
    planned = {"optimizer_steps_planned": step.recipe.steps, "optimizer_steps_done": 0} if step.recipe else {}
    makes = {"makes": str(step.makes)} if step.makes else {}
    return {"name": step.name, "state": "planned", **planned, **makes, "argv": list(step.argv)}
