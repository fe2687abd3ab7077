"""One start of upstream's trainer, for the steps that are left: its command, how far it is, and what it saves.

Upstream knows of no other start, so this adds them. States to go on from are taken over into the expert's folder, LoRAs
into the run's: under their true epochs, and only when they are whole and on the disk. What is there upstream never
touches.
"""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from wanwrap.errors import OutputError, StepError
from wanwrap.plan.card import ALLOCATOR
from wanwrap.plan.plan import Train
from wanwrap.run.record import Record, saved_every
from wanwrap.system import console
from wanwrap.system.files import move, opened, remove, sync, sync_folder
from wanwrap.system.safetensors import read_header
from wanwrap.upstream import states
from wanwrap.upstream.options import whole
from wanwrap.upstream.output import Curves, TrainingOutput

OURS = re.compile(rf"(state|attempt)-\d+({re.escape(states.REMOVED)})?")
SAMPLE = re.compile(r"_(e)?(\d{6})(?=_\d{2,}_\d{14})")  # upstream's names: e000005 is an epoch, 000123 a step


def leftovers(folder: Path) -> list[Path]:
    """The states and attempts of a training in an expert's folder, with those that a kill has kept from going."""
    return [path for path in folder.iterdir() if OURS.fullmatch(path.name)] if folder.is_dir() else []


def remove_leftovers(train: Train, kept: Path | None = None) -> None:
    """What was needed to go on goes, but for one state."""
    for path in leftovers(train.folder):
        if path != kept:
            states.remove(path)


def state_folder(train: Train, epoch: int) -> Path:
    """Where the state after an epoch is, or would be."""
    return train.folder / f"state-{epoch:06d}"


def is_lost(train: Train, epoch: int) -> bool:
    """Whether there should be a state after that epoch, and can't be gone on from."""
    with suppress(OSError):
        return bool(epoch) and not states.is_whole(state_folder(train, epoch))
    return True


def _states(train: Train) -> dict[int, Path]:
    """Those that have been taken over, whole or not, by their epoch; the youngest first."""
    found = {path: re.fullmatch(r"state-(\d{6})", path.name) for path in train.folder.iterdir()}
    return dict(sorted(((int(name[1]), path) for path, name in found.items() if name), reverse=True))


def placed(train: Train) -> dict[int, Path]:
    """Its LoRAs that are in their place, by their epochs; the last epoch's is 0."""
    found = {states.lora_epoch(path.name, train.label): path for path in train.folder.parent.iterdir()}
    return {epoch: path for epoch, path in found.items() if epoch is not None}


def last_state(train: Train, record: Record) -> int:
    """The epoch of the state to go on from, 0 where there is none; what else earlier attempts have left goes.

    Raises:
        OutputError: there should be one.
    """
    if record.attempts:
        attempt = Attempt(train, record)
        attempt.keep()  # a kill may have come before
        attempt.move_samples()
    there, known = _states(train), record.saved_epoch
    sound = (epoch for epoch, path in there.items() if states.is_whole(path, thorough=True) and states.is_good(path))
    epoch = next(sound, 0)
    if known and not epoch:
        raise OutputError(
            f"{train.name} can't go on: no whole state is left in {train.folder}. Put it back, or begin anew with "
            "--restart."
        )
    if epoch < known:
        console.say(f"{train.expert}: the state after epoch {known} is gone or damaged, going on from {epoch}")
    remove_leftovers(train, there.get(epoch))
    return epoch


class Attempt:
    """The newest start on record, after `epoch` and `step` of all the training; in `folder` upstream counts from 0."""

    def __init__(self, train: Train, record: Record) -> None:
        newest = record.attempts[-1]
        self.train, self.record = train, record
        self.number, self.epoch, self.step = newest["number"], newest["epoch"], newest["step"]
        self.folder = train.attempt_folder(self.number)
        self.curves, self.output = Curves(train.logs(self.number)), TrainingOutput()

    def argv(self) -> tuple[str, ...]:
        """Upstream's command: of the first start the one that the script prints, but for what was raised since."""
        train, epoch = self.train, self.epoch
        changes = {name: value for name, value in self.record.raised.items() if name != ALLOCATOR}
        if not epoch:
            return train.attempt(self.number, changes)
        changes |= {"resume": str(state_folder(train, epoch)), "network_weights": None}
        changes |= {"save_every_n_epochs": saved_every(train.state_every, epoch)}
        if train.options.get("max_train_epochs") is not None:
            changes["max_train_epochs"] = train.epochs - epoch
        else:
            changes["max_train_steps"] = train.steps - self.step
        if train.options.get("seed") is not None:  # else the data set would come in the order of its first epochs again
            changes["seed"] = (whole(train.options, "seed", 0) + epoch) % 2**32
        return train.attempt(self.number, changes, (epoch, self.step))

    @property
    def env(self) -> dict[str, str]:
        """What was added to the environment since, and what tells W&B of the attempts that belong together."""
        raised = {ALLOCATOR: self.record.raised[ALLOCATOR]} if ALLOCATOR in self.record.raised else {}
        if self.train.options.get("log_with") not in ("wandb", "all"):
            return raised
        # In one W&B run the steps of a later attempt would be lost: upstream counts them from 1, and W&B (0.31) leaves out
        # each that is not above its last.
        came_on = f" from epoch {self.epoch}" if self.epoch else ""
        named = {"WANDB_RUN_GROUP": self.train.folder.parent.name, "WANDB_NAME": f"{self.train.label}{came_on}"}
        return {**raised, **{name: value for name, value in named.items() if name not in os.environ}}

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

    def broken(self) -> tuple[int, int]:
        """How many losses in a row, up to the newest, are no number, and the step of the first of them.

        The curves tell of each step; upstream's mean, which it prints, stays none after a single one that was none.
        """
        losses, output = self.curves.losses, self.output
        count, done = (self.curves.broken_for, len(losses)) if losses else (output.broken_for, output.done)
        return count, self.step + done - count + 1

    # ---- what it saves

    def keep(self) -> bool:
        """Take over the youngest state that is whole and good, and the LoRAs up to it; whether there was one.

        An older one than is here already is left: upstream keeps two.

        Raises:
            FileNotFoundError: upstream has just removed it, for there are younger ones.
        """
        saved = states.saved(self.folder, self.train.label)
        if not saved:  # as at nearly every look: none of ours is opened each second
            return False
        here = max((epoch for epoch, path in _states(self.train).items() if states.is_whole(path)), default=0)
        for epoch, path in reversed(saved.items()):
            true = self.epoch + epoch
            if true <= here:
                break
            if states.is_whole(path):
                if states.is_good(path):
                    self._take(epoch, path)
                    return True
                states.remove(path)
                console.say(f"{self.train.expert}: the state after epoch {true} held no numbers; it is removed")
        return False

    def _take(self, epoch: int, path: Path) -> None:
        before, true = self.record.saved_epoch, self.epoch + epoch
        old, new = state_folder(self.train, before), state_folder(self.train, true)
        if before and old.is_dir() and states.matrix(old) == states.matrix(path):
            console.say(
                f"warning: {self.train.expert} has learned nothing from epoch {before} to {true}: all steps were left out, "
                "or the rate is 0."
            )
        states.settle(path)
        self._place_loras(epoch)  # first: once the state is moved no later start looks for them
        move(path, new)
        sync_folder(self.train.folder)
        self.move_samples()
        self.record.bytes["state"] = states.size(new)
        self.record.write(self.train.folder, saved_epoch=true)  # before any other state goes
        for each, other in _states(self.train).items():
            if each < true:
                states.remove(other)

    def _place_loras(self, most: int) -> None:
        """Move LoRAs up to an epoch of the attempt's, until which they are whole; those that nobody wants go."""
        train = self.train
        for path in sorted(self.folder.glob("*.safetensors")):
            epoch = states.lora_epoch(path.name, train.label)
            if not epoch or epoch > most:
                continue
            true = self.epoch + epoch
            if not train.save_every or true % train.save_every:
                remove(path)
                continue
            self._place(path, states.lora_name(train.label, true))
        there = placed(train)
        numbered = sorted(epoch for epoch in there if epoch)
        for epoch in numbered[: -train.keep_last] if train.keep_last else ():
            with suppress(PermissionError):  # Windows: ComfyUI has it open; it goes with the next
                there.pop(epoch).unlink()
        self.record.files = sorted(path.name for path in there.values())

    def _place(self, path: Path, name: str) -> None:
        """Raises WeightsError: not all of it is there."""
        with opened(path, "r+b") as file:
            read_header(path)
            sync(file)
        self.record.bytes["lora"] = path.stat().st_size
        move(path, self.train.folder.parent / name)
        sync_folder(self.train.folder.parent)
        console.say(f"{self.train.expert}: saved {name}")

    def move_samples(self) -> None:
        """Pictures and clips that upstream has made, numbered by the whole training."""

        def numbered(found: re.Match[str]) -> str:
            return f"_{found[1] or ''}{int(found[2]) + (self.epoch if found[1] else self.step):06d}"

        for path in sorted((self.folder / "sample").glob("*")):
            (self.train.folder / "samples").mkdir(exist_ok=True)
            with suppress(PermissionError):  # Windows: upstream, or who looks at it, has it open
                path.replace(self.train.folder / "samples" / SAMPLE.sub(numbered, path.name, count=1))

    def finish(self) -> None:
        """Upstream has ended well: the last LoRA takes its place.

        Raises:
            WeightsError, StepError: it is not whole, or not there.
        """
        last = self.folder / self.train.lora.name
        if not last.is_file():
            raise StepError(f"{self.train.name} ended well, and {self.folder} holds no LoRA of it: please report this.")
        self._place_loras(self.train.epochs)
        self.move_samples()
        self._place(last, last.name)
