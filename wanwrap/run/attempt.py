"""One start of upstream's trainer, for the steps that are left: it knows of no others, so this adds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap.plan.plan import Train
from wanwrap.upstream.options import whole
from wanwrap.upstream.output import Curves, TrainingOutput


@dataclass
class Attempt:
    """The nth start, after `epoch` and `step` of the whole training; in `folder` upstream counts from 0 again."""

    train: Train
    number: int
    epoch: int
    step: int
    curves: Curves
    output: TrainingOutput = field(default_factory=TrainingOutput)
    unfit: set[Path] = field(default_factory=set)  # states that hold no numbers

    @property
    def folder(self) -> Path:
        """Where upstream saves."""
        return self.train.attempt_folder(self.number)

    def argv(self, blocks: int, state: Path) -> tuple[str, ...]:
        """Upstream's command with so many blocks swapped: of the first start the one that the script prints."""
        train, epoch = self.train, self.epoch
        changes: dict[str, Any] = {"blocks_to_swap": blocks} if blocks else {}
        if not epoch:
            return train.attempt(self.number, changes)
        changes |= {"resume": str(state), "network_weights": None}
        # upstream counts its epochs anew: a part of those of the plan, where it would miss theirs
        changes |= {"save_every_n_epochs": math.gcd(train.state_every, epoch)}
        if train.options.get("max_train_epochs") is not None:
            changes["max_train_epochs"] = train.epochs - epoch
        else:
            changes["max_train_steps"] = train.steps - self.step
        if train.options.get("seed") is not None:  # else the data set would come in the order of its first epochs again
            changes["seed"] = (whole(train.options, "seed", 0) + epoch) % 2**32
        return train.attempt(self.number, changes, (epoch, self.step))

    def far(self) -> dict[str, Any]:
        """How far all of the training has come, for its record."""
        done, loss, pace = self.step + self.output.done, float(self.output.loss or "nan"), self.output.pace
        return {
            "loading": not self.output.done,
            "steps_done": done,
            "epochs_done": self.train.epochs if done >= self.train.steps else done // self.train.per_epoch,
            "loss": loss if math.isfinite(loss) else None,
            **({"seconds_per_step": pace} if pace else {}),
        }

    @property
    def broken(self) -> tuple[int, int]:
        """How many losses in a row, up to the newest, are no number, and the step of the first of them.

        The curves tell of each step; upstream's mean, which it prints, stays none after a single one that was none.
        """
        losses, output = self.curves.losses, self.output
        count, done = (self.curves.broken_for, len(losses)) if losses else (output.broken_for, output.done)
        return count, self.step + done - count + 1


def recorded(train: Train, row: Mapping[str, Any]) -> Attempt:
    """The attempt of a row in the record."""
    number = int(row["number"])
    return Attempt(train, number, int(row["epoch"]), int(row["step"]), Curves(train.logs(number)))
