"""One start of upstream's trainer, for the steps that are left: it knows of no others, so this adds them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wanwrap.plan.plan import Plan, Step
from wanwrap.run.collect import Collector
from wanwrap.run.curves import Curves
from wanwrap.system.log import Log
from wanwrap.system.process import Child
from wanwrap.upstream import states
from wanwrap.upstream.options import whole
from wanwrap.upstream.output import Watch

# Of a whole state: {"step": 1000, "epoch": 20, "folder": "low-1/cats-low-000020-state"}, below the run's `training/`:
# a workspace may be moved, or be reached by another path.
Place = dict[str, Any]


class Attempt:
    """From `origin`, the place of a whole state, or from nothing; in `folder`, until what it makes is taken over."""

    def __init__(self, plan: Plan, step: Step, folder: Path, origin: Place | None) -> None:
        assert step.recipe and step.training
        self.plan, self.step, self.folder, self.origin = plan, step, folder, origin
        self.recipe, self.training = step.recipe, step.training
        self.begun = (origin["step"], origin["epoch"]) if origin else (0, 0)
        self.watch, self._whole = Watch(self.recipe.steps - self.begun[0]), set[str]()

    @property
    def state_every(self) -> int:
        """Epochs between two states: a part of those of the plan, where it would miss theirs from its own start."""
        return math.gcd(self.training.state_every, self.begun[1])

    def begin(self, log: Path, env: Mapping[str, str], blocks: int) -> Child:
        """Start upstream with so many blocks swapped; what it prints is watched, and kept in the log."""
        self.curves = Curves(self.plan.folder / "logs" / self.training.key, *self.begun)
        argv, self.log = self.training.argv(self._changes(blocks)), Log(log.open("ab", buffering=0))
        self.log.begin(self.step.name, argv)
        self.child = Child(argv, self.plan.folder, {**self.plan.env, **env}, self._listen)
        return self.child

    def _listen(self, chunk: bytes) -> None:
        self.watch.read(chunk)
        self.log.write(chunk)

    def _changes(self, blocks: int) -> dict[str, Any]:
        """How its options differ from the plan's."""
        changes: dict[str, Any] = {"output_dir": str(self.folder), "logging_dir": str(self.folder / "logs")}
        changes |= {"blocks_to_swap": blocks} if blocks else {}
        if not self.origin:
            return changes
        options, (step, epoch) = self.training.options, self.begun
        changes |= {"resume": str(self.folder.parent / self.origin["folder"]), "network_weights": None}
        changes |= {"save_every_n_epochs": self.state_every}
        if options.get("max_train_epochs") is not None:
            changes["max_train_epochs"] = self.recipe.epochs - epoch
        else:
            changes["max_train_steps"] = self.recipe.steps - step
        if options.get("seed") is not None:  # else the data set would come in the order of its first epochs again
            changes["seed"] = (whole(options, "seed", 0) + epoch) % 2**32
        return changes

    def follow(self) -> None:
        """Take over what there is of the curves."""
        self.curves.follow(self.folder / "logs")

    def now(self) -> dict[str, Any]:
        """How far all of the training has come."""
        done = self.begun[0] + self.watch.done
        over, loss = done >= self.recipe.steps, float(self.watch.loss or "nan")
        return {
            "loading": not self.watch.done,
            "steps_done": done,
            "epochs_done": self.recipe.epochs if over else done // self.recipe.per_epoch,
            "loss": loss if math.isfinite(loss) else None,
            **({"seconds_per_step": pace} if (pace := self.watch.pace) else {}),
        }

    @property
    def broken(self) -> tuple[int, int]:
        """Since which step, of its own, the loss is no number, and for how many of them; (0, 0) where it is one.

        The curves tell of each step; upstream's mean, which it prints, stays none after a single one that was none.
        """
        if self.curves.seen:
            many = self.curves.broken
            return (self.curves.seen - many + 1, many) if many else (0, 0)
        return self.watch.broken or 0, self.watch.broken_for

    def places(self) -> Iterator[Place]:
        """The whole states that it has saved, and that are good: the loss of the step after is a number."""
        since = self.broken[0]
        end = self.begun[0] + (since - 1 if since else self.recipe.steps)
        for place in places(self.step, self.folder, self.begun[1]):
            name = Path(place["folder"]).name
            if place["step"] < end and (name in self._whole or states.is_whole(self.folder / name)):
                self._whole.add(name)  # a look every second should not read headers again
                yield place

    def collector(self) -> Collector:
        """What takes over its LoRAs, and counts in them as all of the training does."""
        seed = self.training.options.get("seed")
        told = {"ss_num_epochs": self.recipe.epochs, "ss_max_train_steps": self.recipe.steps, "ss_seed": seed}
        return Collector(
            source=self.folder,
            into=self.plan.folder,
            label=self.training.label,
            step=self.begun[0],
            epoch=self.begun[1],
            save_every=self.training.save_every,
            keep_last=self.training.keep_last,
            metadata={key: str(value) for key, value in told.items() if value is not None},
        )


def places(step: Step, folder: Path, epoch: int) -> Iterator[Place]:
    """The states in the folder of an attempt that began at that epoch, whole or not."""
    assert step.recipe and step.training
    for more, path in states.saved(folder, step.training.label):
        place = f"{folder.name}/{path.name}"
        yield {"step": (epoch + more) * step.recipe.per_epoch, "epoch": epoch + more, "folder": place}
