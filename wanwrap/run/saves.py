"""What upstream saves, taken over: states to go on from into the expert's folder, LoRAs into the run's.

Both under their true epochs, and only when they are whole and on the disk. A state that is here upstream never touches.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wanwrap.errors import OutputError, StepError
from wanwrap.plan.plan import Train
from wanwrap.run.attempt import Attempt, recorded
from wanwrap.run.record import Record
from wanwrap.system import console
from wanwrap.system.files import move, sync, sync_folder
from wanwrap.system.safetensors import read_header
from wanwrap.upstream import states

SAMPLE = re.compile(r"_(e)?(\d{6})(?=_\d\d_\d{14})")  # upstream's names: e000005 is an epoch, 000123 a step


@dataclass
class Saves:
    """One expert's."""

    train: Train
    record: Record

    def state(self, epoch: int) -> Path:
        """Where the state after an epoch is, or would be."""
        return self.train.folder / f"state-{epoch:06d}"

    def lost(self) -> str:
        """That the state which the record names can't be gone on from, in words; empty where it can, or is none."""
        epoch = self.record.saved_epoch
        with suppress(OSError):
            if not epoch or states.is_whole(self.state(epoch)):
                return ""
        return f"The state after epoch {epoch} is damaged or gone."

    def states(self) -> dict[int, Path]:
        """Those that have been taken over, whole or not, by their epoch; the youngest first."""
        found = {path: re.fullmatch(r"state-(\d{6})", path.name) for path in self.train.folder.iterdir()}
        return dict(sorted(((int(name[1]), path) for path, name in found.items() if name), reverse=True))

    def attempts(self) -> dict[Path, int]:
        """The folders of attempts, and what a kill has kept from going, with their numbers."""
        ours = re.compile(rf"attempt-(\d+)({re.escape(states.REMOVED)})?")
        there = {path: ours.fullmatch(path.name) for path in self.train.folder.iterdir()}
        return {path: int(found[1]) for path, found in there.items() if found}

    def removed(self) -> list[Path]:
        """States that a kill has kept from going."""
        return [*self.train.folder.glob(f"state-*{states.REMOVED}")]

    def last(self) -> int:
        """The epoch of the state to go on from, 0 where there is none; what else earlier attempts have left goes.

        Raises:
            OutputError: there should be one.
        """
        if self.record.attempts:
            attempt = recorded(self.train, self.record.attempts[-1])
            self.keep(attempt)  # a kill may have come before
            self._move_samples(attempt)
        there, known = self.states(), self.record.saved_epoch
        sound = (
            epoch for epoch, path in there.items() if states.is_whole(path, thorough=True) and states.is_good(path)
        )
        epoch = next(sound, 0)
        if known and not epoch:
            raise OutputError(
                f"{self.train.name} can't go on: no whole state is left in {self.train.folder}. Put it back, or begin "
                "anew with --restart."
            )
        if epoch < known:
            console.say(f"{self.train.expert}: the state after epoch {known} is gone or damaged, going on from {epoch}")
        for path in (*(path for each, path in there.items() if each != epoch), *self.attempts(), *self.removed()):
            states.remove(path)
        return epoch

    def keep(self, attempt: Attempt) -> bool:
        """Take over the youngest state that is whole and good, and the LoRAs up to it; whether there was one.

        An older one than is here already is left: upstream keeps two.
        """
        saved = states.saved(attempt.folder, self.train.label)
        if not saved:  # as at nearly every look: none of ours is opened each second
            return False
        here = max((epoch for epoch, path in self.states().items() if states.is_whole(path)), default=0)
        for epoch, path in reversed(saved.items()):
            if attempt.epoch + epoch <= here:
                return False
            try:
                if path in attempt.unfit or not states.is_whole(path):
                    continue
                if states.is_good(path):
                    self._take(attempt, epoch, path)
                    return True
            except FileNotFoundError:
                if path.is_dir():
                    raise
                continue  # upstream has just removed it: there are younger ones
            attempt.unfit.add(path)
            console.say(
                f"{self.train.expert}: the state after epoch {attempt.epoch + epoch} holds no numbers; it is left out"
            )
        return False

    def _take(self, attempt: Attempt, epoch: int, path: Path) -> None:
        before, true = self.record.saved_epoch, attempt.epoch + epoch
        if before and self.state(before).is_dir() and states.matrix(self.state(before)) == states.matrix(path):
            console.say(
                f"warning: {self.train.expert} has learned nothing from epoch {before} to {true}: all steps were left out, "
                "or the rate is 0."
            )
        states.settle(path)
        self.place_loras(attempt, epoch)  # first: once the state is moved no later start looks for them
        move(path, self.state(true))
        sync_folder(self.train.folder)
        self._move_samples(attempt, self.state(true).stat().st_mtime)
        self.record.bytes["state"] = states.size(self.state(true))
        self.record.write(self.train.folder, saved_epoch=true)  # before any other state goes
        for each, old in self.states().items():
            if each < true:
                states.remove(old)

    def place_loras(self, attempt: Attempt, most: int) -> None:
        """Move LoRAs up to an epoch of the attempt's, until which they are whole; those that nobody wants go."""
        train = self.train
        for path in sorted(attempt.folder.glob("*.safetensors")):
            epoch = states.lora_epoch(path.name, train.label)
            if not epoch or epoch > most:
                continue
            true = attempt.epoch + epoch
            if not train.save_every or true % train.save_every:
                path.unlink()
                continue
            self._place(path, states.lora_name(train.label, true))
        there = {states.lora_epoch(path.name, train.label): path for path in train.folder.parent.iterdir()}
        numbered = sorted(epoch for epoch in there if epoch)
        for epoch in numbered[: -train.keep_last] if train.keep_last else ():
            with suppress(PermissionError):  # Windows: ComfyUI has it open; it goes with the next
                there.pop(epoch).unlink()
        self.record.files = sorted(path.name for epoch, path in there.items() if epoch is not None)

    def _place(self, path: Path, name: str) -> None:
        """Raises WeightsError: not all of it is there."""
        read_header(path)
        with path.open("rb+") as file:
            sync(file)
        self.record.bytes["lora"] = path.stat().st_size
        move(path, self.train.folder.parent / name)
        sync_folder(self.train.folder.parent)
        console.say(f"{self.train.expert}: saved {name}")

    def _move_samples(self, attempt: Attempt, before: float = math.inf) -> None:
        """Pictures and clips that upstream had made by then (mtime), numbered by the whole training."""

        def numbered(found: re.Match[str]) -> str:
            return f"_{found[1] or ''}{int(found[2]) + (attempt.epoch if found[1] else attempt.step):06d}"

        for path in sorted((attempt.folder / "sample").glob("*")):
            with suppress(PermissionError):  # Windows: upstream, or who looks at it, has it open
                if path.stat().st_mtime <= before:
                    (self.train.folder / "samples").mkdir(exist_ok=True)
                    path.replace(self.train.folder / "samples" / SAMPLE.sub(numbered, path.name, count=1))

    def finish(self, attempt: Attempt) -> None:
        """Upstream has ended well: the last LoRA takes its place.

        Raises:
            WeightsError, StepError: it is not whole, or not there.
        """
        last = attempt.folder / self.train.lora.name
        if not last.is_file():
            raise StepError(
                f"{self.train.name} ended well, and {attempt.folder} holds no LoRA of it: please report this."
            )
        self.place_loras(attempt, self.train.epochs)
        self._move_samples(attempt)
        self._place(last, last.name)

    def clear(self) -> None:
        """What was needed to go on goes."""
        for path in (*self.states().values(), *self.attempts(), *self.removed()):
            states.remove(path)
        self.record.saved_epoch = 0
