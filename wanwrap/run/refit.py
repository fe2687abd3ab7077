"""A training that runs, fitted anew: as its options are now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wanwrap.plan import card
from wanwrap.plan.card import ALLOCATOR, Card
from wanwrap.plan.fit import Fit, fit, less
from wanwrap.plan.plan import Plan, Train
from wanwrap.run.record import Record


def present(plan: Plan, train: Train, record: Record) -> Fit:
    """As it is."""
    return Fit(_train(train, record), plan.dataset, _card(plan, record), {}, False)


def fitting(plan: Plan, train: Train, record: Record, memory: int) -> Fit:
    """The quickest way to fit its card, of so many bytes."""
    return fit(_train(train, record), {}, plan.dataset, replace(_card(plan, record), memory=memory))


def smaller(plan: Plan, train: Train, record: Record, lacking: int) -> Fit | None:
    """The quickest way that takes so many bytes less than now; None where there is none."""
    return less(_train(train, record), plan.dataset, _card(plan, record), lacking)


def _train(train: Train, record: Record) -> Train:
    raised = {name: value for name, value in record.raised.items() if name != ALLOCATOR}
    return replace(train, options={**train.options, **raised})


def _card(plan: Plan, record: Record) -> Card:
    """The first GPU that its Python sees, with torch's segments as they are set."""
    row: Mapping[str, Any] = next(iter(record.machine.get("gpus", [])), {"name": "the GPU", "memory": 0})
    return card.of(row["name"], row["memory"]).told({**plan.env, **record.raised})
