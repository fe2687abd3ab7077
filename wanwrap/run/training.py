"""One expert's training, in as many attempts as it takes: each goes on from the last whole state."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wanwrap.errors import FULL, OutputError, RoomError, StepError, WanwrapError
from wanwrap.plan.plan import Plan, Train
from wanwrap.run.attempt import Attempt, recorded
from wanwrap.run.record import Record, is_done, now
from wanwrap.run.saves import Saves
from wanwrap.system import console, disk
from wanwrap.system.failures import failure
from wanwrap.system.log import Log
from wanwrap.system.process import Child, Command, check_interrupted
from wanwrap.upstream.options import whole

LOG = "run.log"
STOP, NOW = "stop", "now"  # the file that asks for an end, and what stands in it where that is to be at once
LOOK = 1.0  # seconds between two looks at what has been saved
NOTE = 5.0  # seconds between two notes of how far it has come
REFUSED = 60  # looks at which what was saved can't be moved, after which that won't change
BROKEN = 5  # losses in a row that are no number, after which nothing will come of it
BLOCKS = 5  # blocks that are swapped more after the GPU has run out of memory: 1.8 GB of a 14B in fp8


class Stopped(WanwrapError, exit_code=130):
    """The user has asked for an end, and it has come; the same command goes on."""


def stop_asked(folder: Path) -> str | None:
    """Whether an expert's training is to end: "" after the next state, NOW at once; None where nobody has asked."""
    with suppress(OSError):
        return (folder / STOP).read_text(encoding="utf-8", errors="replace").strip()
    return None


@dataclass
class Training:
    """One expert, from where it stands to its end; `show` is called whenever there may be something new to show."""

    plan: Plan
    train: Train
    record: Record
    retry: bool = True
    show: Callable[[], object] = bool
    more_blocks: int = 0  # that the GPU took beyond what was asked for, with the other expert's training
    kind: str = ""  # of failure, as failures.py has them
    refused: int = 0  # looks in a row at which the system refused to move what was saved
    noted: float = 0.0

    def __post_init__(self) -> None:
        self.saves = Saves(self.train, self.record)

    def run(self) -> None:
        """Train to the end.

        Raises:
            Stopped: as was asked. KeyboardInterrupt: Ctrl-C. WanwrapError: it failed; what there is to go on from.
        """
        try:
            if not is_done(self.train, self.record):
                self._choose_blocks()
                while not self._attempted():
                    pass
            self.saves.clear()
        except KeyboardInterrupt:
            self._end(state="interrupted")
            raise
        except (WanwrapError, OSError) as caught:
            error = self._refused(caught) if isinstance(caught, OSError) else caught
            first, _, rest = str(error).partition("\n")
            first = f"{first} {self._kept()}"
            self._end(state="stopped" if isinstance(error, Stopped) else "failed", reason=first)
            raise type(error)(f"{first}\n{rest}" if rest else first) from caught
        files = sorted({*self.record.files, self.train.lora.name})
        self._end(state="done", steps_done=self.train.steps, epochs_done=self.train.epochs, files=files)

    def _refused(self, error: OSError) -> WanwrapError:
        """What the system refuses, in words."""
        kind = RoomError if error.errno in FULL else OutputError
        what = f"{error.filename or self.train.folder}: {error.strerror or error}"
        return kind(f"{self.train.name} was stopped: {what}; mend that, and start again.")

    def _kept(self) -> str:
        """What there is to go on from."""
        epoch = self.record.saved_epoch
        return self.saves.lost() or (f"The state after epoch {epoch} is kept." if epoch else "No state was saved yet.")

    def _end(self, **changes: object) -> None:
        """Put the end on record, if the disk takes it: a training that is done is done without."""
        with suppress(OSError):
            self.record.write(self.train.folder, **{"ended": now(), "doing": "", "loading": False, **changes})

    # ---- an attempt

    def _attempted(self) -> bool:
        """One attempt: whether the training is done; False: out of memory, and more blocks can be swapped."""
        attempt = self._begin(self.saves.last())
        argv = attempt.argv(self.record.blocks_to_swap, self.saves.state(attempt.epoch))
        status: int | None = None
        with (self.train.folder / LOG).open("ab", buffering=0) as file:
            log = Log(file)
            log.begin(self.train.name, argv)

            def listen(chunk: bytes) -> None:
                attempt.output.read(chunk)
                log.write(chunk)

            try:
                with Child(Command(argv, self.plan.folder, self.plan.env), listen) as child:
                    self._watch(attempt, child)
                status = child.status()
            finally:
                tail = log.end()
                self._close(attempt, status)
        if not status:
            self.saves.finish(attempt)
            return True
        self._failed(status, tail)
        return False

    def _begin(self, epoch: int) -> Attempt:
        """Put it on record before it has a folder: what is on no record is nobody's."""
        train, record = self.train, self.record
        number, step = 1 + max([len(record.attempts), *self.saves.attempts().values()]), epoch * train.per_epoch
        record.attempts.append({"number": number, "epoch": epoch, "step": step, "started": now()})
        attempt = recorded(train, record.attempts[-1])
        going = {"state": "running", "doing": train.name, "reason": ""}
        record.write(train.folder, **{**attempt.far(), **going, "saved_epoch": epoch})
        attempt.folder.mkdir()
        return attempt

    def _close(self, attempt: Attempt, status: int | None) -> None:
        """What it has just made is kept, and how far it came put on record, if the disk takes it."""
        self.record.attempts[-1] |= {"ended": now(), "exit": status}
        with suppress(OSError, WanwrapError):
            if status != 0:
                self.saves.keep(attempt)
            self.record.write(self.train.folder, **attempt.far())

    def _watch(self, attempt: Attempt, child: Child) -> None:
        """Until upstream ends, or there is a reason to end it."""
        while not child.over(LOOK):
            check_interrupted()
            self._look(attempt)
            self.show()

    def _look(self, attempt: Attempt) -> None:
        """Raises what the training is to be ended for."""
        planned, announced = self.train.steps - attempt.step, attempt.output.announced
        if announced not in (None, planned):
            raise StepError(
                f"{self.train.name} was stopped before it began: upstream announced {announced} steps and wanwrap "
                f"planned {planned}, so the learning rate would have been wrong. Please report this with "
                f"{self.train.folder}."
            )
        attempt.curves.follow()
        kept, wish = self._keep(attempt), stop_asked(self.train.folder)
        self._check_loss(attempt)
        if wish == NOW or (kept and wish is not None):
            raise Stopped(f"{self.train.name} was stopped, as you asked.")
        if kept:
            self._check_disk()
        if time.monotonic() - self.noted > NOTE:
            self.noted = time.monotonic()
            with suppress(OSError):  # a disk that is full for a while stops no training
                self.record.write(self.train.folder, **attempt.far())

    def _keep(self, attempt: Attempt) -> bool:
        """As Saves.keep. Windows moves nothing that a scanner or a viewer has open: the next look tries again."""
        try:
            kept = self.saves.keep(attempt)
        except PermissionError:
            self.refused += 1
            if self.refused > REFUSED:
                raise
            return False
        self.refused = 0
        return kept

    def _check_loss(self, attempt: Attempt) -> None:
        """Raises StepError: nothing will come of it."""
        count, since = attempt.broken
        if count >= BROKEN:
            alone = "--restart" if self.train.expert == "dit" else f"--noise_level {self.train.expert} --restart"
            raise StepError(
                f"{self.train.name} was stopped: since step {since} the loss is no number; train it anew with a lower "
                f"--lr ({alone}), or look for a broken file with `wanwrap check`."
            )

    def _check_disk(self) -> None:
        """Raises RoomError: no interval is trained for a save that will fail."""
        sizes = self.record.bytes
        need = sizes.get("state", 0) + 2 * sizes.get("lora", 0)
        if why := disk.lacking(self.train.folder, need, what="needed for the next state and LoRA"):
            raise RoomError(f"{self.train.name} was stopped: {why}")

    def _failed(self, status: int, tail: str) -> None:
        """Raises the error that upstream has ended with, unless the GPU's memory was too small and can be helped."""
        found = failure(status, tail)
        self.kind, text = found.kind, f"{self.train.name} {found.text}"
        if found.kind == "gpu memory" and self._more_blocks():
            text = f"{text} Trying again with {self.record.blocks_to_swap} blocks swapped."
            self.record.attempts[-1] |= {"reason": text}
            console.say(text)
            return
        self.record.attempts[-1] |= {"reason": text}
        raise found.error(f"{text}\n{tail}\nThe whole log: {self.train.folder / LOG}")

    # ---- blocks to swap

    def _choose_blocks(self) -> None:
        """The number that worked before, unless the user has asked for another one since."""
        asked = whole(self.train.options, "blocks_to_swap", 0)
        if self.record.asked_blocks != asked or not self.record.attempts:
            self.record.asked_blocks, self.record.blocks_to_swap = asked, max(asked, self.more_blocks)

    def _more_blocks(self) -> bool:
        most = self.plan.request.preset.blocks - 1
        if not self.retry or self.record.blocks_to_swap >= most:
            return False
        self.record.blocks_to_swap = self.more_blocks = min(most, self.record.blocks_to_swap + BLOCKS)
        return True
