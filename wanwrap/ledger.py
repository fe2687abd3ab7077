"""What a run has done, as `run.json` in its folder; whole at every moment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wanwrap import __version__
from wanwrap.plan import Plan, Step
from wanwrap.upstream import Upstream


def write_whole(path: Path, text: str) -> None:
    """Write beside the place and move there: a half file is never taken for a whole one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


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

    def step(self, index: int, **changes: object) -> None:
        """Change the fields of one step."""
        self.record["steps"][index].update(changes)
        self.write()


def opened(plan: Plan, upstream: Upstream, answer: Mapping[str, Any]) -> Ledger:
    """The ledger of a run that is about to start."""
    record = {
        "wanwrap": __version__,
        "state": "running",
        "started": now(),
        "preset": plan.preset.name,
        "name": plan.name,
        "upstream": {
            "folder": str(upstream.folder or ""),
            "version": upstream.version,
            "commit": upstream.commit,
        },
        "python": answer["python"],
        "gpus": answer["gpus"],
        "dataset": {
            "name": plan.dataset.name,
            "items": plan.dataset.train_items,
            "batches_per_epoch": plan.dataset.batches,
        },
        "weights": [{"path": str(w.path), "bytes": _size(w.path)} for w in plan.weights],
        "steps": [_row(step) for step in plan.steps],
    }
    ledger = Ledger(path=plan.folder / "run.json", record=record)
    ledger.write()
    return ledger


def _size(path: Path) -> int | None:
    """Bytes; None for a file that a step of the plan will make."""
    return path.stat().st_size if path.is_file() else None


def _row(step: Step) -> dict[str, Any]:
    planned = {"optimizer_steps_planned": step.recipe.steps, "optimizer_steps_done": 0} if step.recipe else {}
    makes = {"makes": str(step.makes)} if step.makes else {}
    return {"name": step.name, "state": "planned", **planned, **makes, "argv": list(step.argv)}
