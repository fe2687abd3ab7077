"""One expert's training, in as many attempts as it takes: each goes on from the last whole state."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wanwrap.errors import RoomError, StepError, WanwrapError, first_line, of_system
from wanwrap.plan.card import ALLOCATOR, EXPANDABLE
from wanwrap.plan.fit import LEVERS, less
from wanwrap.plan.fit_words import chosen
from wanwrap.plan.plan import Plan, Train
from wanwrap.run.attempt import Attempt, is_lost, last_state, placed, remove_leftovers
from wanwrap.run.record import Record, now
from wanwrap.run.spill import Watch
from wanwrap.system import console, disk
from wanwrap.system.failures import failure, lacking
from wanwrap.system.log import run_logged
from wanwrap.system.process import Command
from wanwrap.upstream.memory import GIB

LOG = "run.log"
STOP, NOW = "stop", "now"  # the file that asks for an end, and what stands in it where that is to be at once
NOTE = 5.0  # seconds between two notes of how far it has come
# upstream has just removed a state, with younger ones there; Windows moves nothing that a scanner or a viewer has open
PASSING = (FileNotFoundError, PermissionError) if os.name == "nt" else (FileNotFoundError,)
BROKEN = 5  # losses in a row that are no number, after which nothing will come of it


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
    noted: float = 0.0

    def __post_init__(self) -> None:
        self._watch = Watch(self.plan, self.train, self.record)

    def run(self) -> None:
        """Train to the end.

        Raises:
            Stopped: as was asked. KeyboardInterrupt: Ctrl-C. WanwrapError: it failed; what there is to go on from.
        """
        if stop_asked(self.train.folder) is not None:
            raise Stopped(f"{self.train.name} was stopped before it began, as you asked.")
        console.say(f"\n{self.train.name}")
        asked = {name: self.train.options.get(name) for name in LEVERS}
        if self.record.asked != asked:  # else what worked before
            self.record.asked, self.record.raised = asked, {}
        try:
            while not self._attempted():
                pass
            self.finish()
        except KeyboardInterrupt as interrupt:
            self.end_by(interrupt)
            raise
        except (WanwrapError, OSError) as caught:
            error = self._refused(caught) if isinstance(caught, OSError) else caught
            first, newline, rest = str(error).partition("\n")
            told = type(error)(f"{first} {self._kept()}{newline}{rest}")
            self.end_by(told)
            raise told from caught

    def finish(self) -> None:
        """All its LoRAs are there: what was needed to go on goes, and the record says so."""
        remove_leftovers(self.train)
        files = sorted(path.name for path in placed(self.train).values())  # a kill may have kept some off the record
        far = {"steps_done": self.train.steps, "epochs_done": self.train.epochs, "saved_epoch": 0}
        self._end(state="done", files=files, **far)

    def end_by(self, error: BaseException) -> None:
        """Put on record what has ended it before it was done."""
        state = {KeyboardInterrupt: "interrupted", Stopped: "stopped"}.get(type(error), "failed")
        self._end(state=state, reason=first_line(error))

    def note(self, **changes: object) -> None:
        """Put something on record. Raises OSError."""
        self.record.write(self.train.folder, **changes)

    def _end(self, **changes: object) -> None:
        """Put the end on record, if the disk takes it: a training that is done is done without."""
        with suppress(OSError):
            self.note(**{"ended": now(), "doing": "", "loading": False, **changes})

    def _refused(self, error: OSError) -> WanwrapError:
        found = of_system(error, self.train.folder, "mend that, and start again.")
        return type(found)(f"{self.train.name} was stopped: {found}")

    def _kept(self) -> str:
        epoch = self.record.saved_epoch
        if not epoch:
            return "No state was saved yet."
        return f"The state after epoch {epoch} is {'damaged or gone' if is_lost(self.train, epoch) else 'kept'}."

    # ---- an attempt

    def _attempted(self) -> bool:
        """One attempt: whether the training is done; False: out of memory, and more blocks can be swapped."""
        attempt = self._begin(last_state(self.train, self.record))
        command = Command(attempt.argv(), self.plan.folder, {**self.plan.env, **attempt.env})
        log, status = self.train.folder / LOG, None
        try:
            status, tail = run_logged(self.train.name, command, log, lambda: self._look(attempt), attempt.output.read)
        finally:
            self._close(attempt, status)
        if status:
            self._failed(status, tail)
            return False
        attempt.finish()
        return True

    def _begin(self, epoch: int) -> Attempt:
        """Put it on record before it has a folder: what is on no record is nobody's."""
        train, record = self.train, self.record
        number, step = len(record.attempts) + 1, epoch * train.per_epoch
        if record.attempts and record.memory.get(
            "used"
        ):  # of one that was out of memory it is there, with what was lacking
            record.attempts[-1].setdefault("memory", record.memory)
        record.attempts.append({"number": number, "epoch": epoch, "step": step, "started": now()})
        attempt, self._watch = Attempt(train, record), Watch(self.plan, train, record)
        record.memory = {"foretold": self._watch.fit.memory.total}
        going = {"state": "running", "doing": train.name, "reason": "", "slow": ""}
        self.note(**{**attempt.far(), **going, "saved_epoch": epoch})
        attempt.folder.mkdir()
        return attempt

    def _close(self, attempt: Attempt, status: int | None) -> None:
        """What it has just made is kept, and how far it came put on record, if the disk takes it."""
        self.record.attempts[-1] |= {"ended": now(), "exit": status}
        self._watch.keep()
        with suppress(OSError, WanwrapError):
            if status != 0:
                attempt.keep()
            self.note(**attempt.far())

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
        self._check_pace(attempt)
        kept, asked = False, stop_asked(self.train.folder)
        with suppress(*PASSING):  # the next look tries again
            kept = attempt.keep()
        self._check_loss(attempt)
        if asked == NOW or (kept and asked is not None):
            raise Stopped(f"{self.train.name} was stopped, as you asked.")
        if kept:
            self._check_disk()
        if time.monotonic() - self.noted > NOTE:
            self.noted = time.monotonic()
            with suppress(OSError):  # a disk that is full for a while stops no training
                self.note(**attempt.far())
        self.show()

    def _check_pace(self, attempt: Attempt) -> None:
        """Tell once where it is far too slow, and put on record what it takes of the GPU."""
        slow, used = self._watch.look(attempt.output.seconds), self._watch.used
        if used > self.record.memory.get("used", 0):
            self.record.memory["used"] = used
        if slow and not self.record.slow:
            console.say(f"{self.train.expert}: {slow}")
            with suppress(OSError):
                self.note(slow=slow)

    def _check_loss(self, attempt: Attempt) -> None:
        """Raises StepError: nothing will come of it."""
        count, since = attempt.broken()
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
        text = f"{self.train.name} {found.text}"
        if found.kind == "gpu memory":
            self.record.attempts[-1] |= {"memory": {**self.record.memory, "lacking": lacking(tail)}}
        # what the user has given may be raised too
        if found.kind == "gpu memory" and self.retry and (way := less(self._watch.fit, max(GIB, lacking(tail)))):
            self.record.raised |= {**way.chosen, **({ALLOCATOR: EXPANDABLE} if way.expandable else {})}
            text = f"{self.train.name} ran out of GPU memory. Trying again{chosen(way)}."
            self.record.attempts[-1] |= {"reason": text}
            console.say(text)
            return
        self.record.attempts[-1] |= {"reason": text}
        raise found.error(f"{text}\n{tail}\nThe whole log: {self.train.folder / LOG}")
