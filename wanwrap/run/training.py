"""One expert's training, in as many attempts as it takes: each goes on from the last whole state."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wanwrap.errors import FULL, OutputError, RoomError, StepError, WanwrapError, first_line
from wanwrap.plan.plan import Plan, Step
from wanwrap.run import progress
from wanwrap.run.attempt import Attempt, Place, places
from wanwrap.run.collect import Collector
from wanwrap.run.curves import Curves
from wanwrap.run.ledger import now
from wanwrap.system import disk
from wanwrap.system.failures import failure
from wanwrap.system.process import Child
from wanwrap.upstream import states
from wanwrap.upstream.options import whole

LOOK = 1.0  # seconds between two looks at what has been made
NOTE = 5.0  # seconds between two notes of how far it has come
BROKEN = 5  # steps whose loss is no number, after which nothing will come of it
BLOCKS = 5  # blocks that are swapped more after the GPU has run out of memory: 1.8 GB of a 14B in fp8

Say = Callable[[str], object]
Wish = Literal["", "epoch", "now"]


class Stopped(WanwrapError):
    """The user has asked for an end, and the training has come to one; the same command goes on."""

    exit_code = 130


@dataclass
class Training:
    """One expert. `begin` starts an attempt; `tick` is called often, until `over`, with an `error` or without."""

    plan: Plan
    step: Step
    log: Path
    say: Say
    retry: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    error: WanwrapError | None = None
    kind: str = ""  # of failure, as words.py has them
    over: bool = False
    more: bool = False  # whether the GPU took more swapped blocks than was asked for
    wish: Wish = ""
    attempt: Attempt | None = None
    looked: float = 0.0
    noted: float = 0.0

    def __post_init__(self) -> None:
        assert self.step.training
        self.training, self.key = self.step.training, self.step.training.key
        self.progress = progress.opened(self.plan, self.step)
        self.record = self.progress.record
        self.blocks = self._blocks()

    # ---- begin

    def begin(self, children: list[Child]) -> None:
        """Start where the last whole state is, without one from the start; the child is put to the others."""
        self.children, self.error, self.kind = children, None, ""
        try:
            self._begin(children)
        except OSError as error:
            self._end(self._told(error))
        except WanwrapError as error:
            self._end(error)

    def _begin(self, children: list[Child]) -> None:
        """Raises OutputError: there is nothing to go on from, and there should be."""
        origin = self._origin()
        number = 1 + max((self._number(path) for path in self._left()), default=0)
        attempt = Attempt(self.plan, self.step, self.training.folder(self.plan.folder, number), origin)
        self._home.mkdir(exist_ok=True)
        step, epoch = attempt.begun
        begun = {"folder": attempt.folder.name, "from_step": step, "from_epoch": epoch, "started": now()}
        self.progress.note(
            state="running",
            reason="",
            resume=origin,
            steps_done=step,
            epochs_done=epoch,
            loading=True,
            state_every=attempt.state_every,
            blocks_to_swap=self.blocks,
            asked_blocks=self._asked(),
            attempts=[*self.record["attempts"], begun],
        )
        (attempt.folder / "logs").mkdir(parents=True)  # not before it is on record: what is on none is nobody's
        children.append(attempt.begin(self.log, self.env, self.blocks))
        self.attempt = attempt

    @property
    def _home(self) -> Path:
        """Where attempts and their states are."""
        return self.plan.folder / "training"

    def _left(self) -> list[Path]:
        """The folders of attempts, and those that a kill has kept from being removed."""
        return states.attempts(self._home, self.key)

    def _number(self, path: Path) -> int:
        number = path.name.removeprefix(f"{self.key}-")
        return int(number) if number.isdecimal() else 0

    def _origin(self) -> Place | None:
        """The last whole state; what else its attempt has left up to there is taken over, and all others go."""
        begun = {each["folder"]: (each["from_step"], each["from_epoch"]) for each in self.record["attempts"]}
        origin: Place | None = self.record["resume"]
        there = [place for name in begun for place in places(self.step, self._home / name, begun[name][1])]
        if origin not in there or not self._sound(origin):
            if origin:
                self.say(f"{self.key}: {self._home / origin['folder']} is gone or damaged, looking for another state")
            others = filter(self._sound, there)  # on no record, since the disk was full for instance
            before, origin = origin, max(others, key=lambda place: int(place["epoch"]), default=None)
            if before and not origin:
                raise OutputError(
                    f"{self.step.name} can't go on: no whole state is left in {self._home}. Put it back, or begin anew "
                    "with --restart."
                )
        attempt = Path(origin["folder"]).parts[0] if origin else ""
        if origin and attempt in begun:
            step, epoch = begun[attempt]
            earlier = Attempt(self.plan, self.step, self._home / attempt, {"step": step, "epoch": epoch})
            Curves(self.plan.folder / "logs" / self.key, step, epoch).follow(earlier.folder / "logs")
            self._take(earlier.collector(), origin["epoch"])  # a kill may have come before
        for path in self._left():
            if path.name != attempt:
                states.remove(path)
        return origin

    def _sound(self, place: Place) -> bool:
        """Whether a state is whole, read to its end."""
        return states.is_whole(self._home / place["folder"], thorough=True)

    # ---- while it runs

    def tick(self) -> None:
        """Look at what has been made, and whether it goes on as it should."""
        assert self.attempt
        try:
            if self.attempt.child.over():
                self._ended(self.attempt)
            elif time.monotonic() - self.looked > LOOK:
                self._look(self.attempt)
        except OSError as error:
            self._fail(self._told(error))
        except WanwrapError as error:
            self._fail(error)

    def _told(self, error: OSError) -> WanwrapError:
        """What the system refuses, in words."""
        kind = RoomError if error.errno in FULL else OutputError
        what = f"{error.filename or self.plan.folder}: {error.strerror or error}"
        return kind(f"{self.step.name} was stopped: {what}; mend that, and start again. {self._kept()}")

    def _look(self, attempt: Attempt) -> None:
        self.looked = time.monotonic()
        attempt.follow()
        if attempt.watch.disagrees():
            raise StepError(
                f"{self.step.name} was stopped before it began: upstream announced {attempt.watch.announced} steps and "
                f"wanwrap planned {attempt.watch.planned}, so the learning rate would have been wrong. Please report "
                f"this with {self.plan.folder}."
            )
        kept, (since, steps) = self._keep(attempt), attempt.broken
        if steps >= BROKEN:
            for place in places(self.step, attempt.folder, attempt.begun[1]):
                if place["epoch"] > self._epoch():  # saved since, and no good
                    states.remove(self._home / place["folder"])
            raise StepError(
                f"{self.step.name} was stopped: since step {attempt.begun[0] + since} the loss is no number. "
                f"{self._kept()} Train it anew with a lower --lr{self._alone()}, or look for a broken file with "
                "`wanwrap check`."
            )
        if self.wish == "now" or (kept and self.wish == "epoch"):
            raise Stopped(f"{self.step.name} was stopped, as you asked. {self._kept()}")
        if kept:
            self._check_disk()
        if self.looked - self.noted > NOTE:
            self._note()

    def now(self) -> dict[str, Any]:
        """How far it has come, at this moment."""
        return {**self.record, **(self.attempt.now() if self.attempt and not self.over else {})}

    def _note(self) -> None:
        """Put that on record; a disk that is full for a while stops no training."""
        self.noted = time.monotonic()
        with suppress(OSError):
            self.progress.note(**{**self.now(), "updated": now()})

    def _kept(self) -> str:
        """What there is to go on from."""
        return f"The state after epoch {self._epoch()} is kept." if self.record["resume"] else "No state was saved yet."

    def _alone(self) -> str:
        """The options that begin this expert anew, and leave the other one's training as it is."""
        return f" (--noise_level {self.key} --restart)" if self.key != "dit" else " (--restart)"

    def _epoch(self) -> int:
        return int(self.record["resume"]["epoch"]) if self.record["resume"] else 0

    def _keep(self, attempt: Attempt) -> bool:
        """Whether there is another whole state to go on from: it is put on record, and LoRAs up to it in their place.

        It is an earlier one where the loss has shown that the last is no good.
        """
        found = sorted(attempt.places(), key=lambda place: int(place["epoch"]))
        last = found[-1] if found else attempt.origin
        if not last or last == self.record["resume"] or not (folder := self._home / last["folder"]).is_dir():
            return False
        if last["epoch"] < self._epoch() and not attempt.broken[0]:
            return False
        states.settle(folder)
        attempt.follow()  # up to here, or the next attempt would have a gap
        self._take(attempt.collector(), last["epoch"], folder.stat().st_mtime)
        self.record["bytes"]["state"] = states.size(folder)
        self.progress.note(**{**self.now(), "updated": now(), "resume": last})  # before any other state goes
        for path in self._left():
            if path != attempt.folder and len(found) > 1:  # an attempt's first state may turn out to be no good
                states.remove(path)
        return True

    def _take(self, collector: Collector, most: int | None = None, before: float = float("inf")) -> None:
        """LoRAs up to an epoch, and samples up to a time, into their places."""
        for made in collector.take(most):
            self.record["bytes"]["lora"] = made.stat().st_size
            self.say(f"{self.key}: saved {made.name}")
        self.record["files"] = progress.made(self.plan, self.step)  # also what came before a kill
        collector.samples(before)

    def _check_disk(self) -> None:
        """Before upstream writes again: no interval is trained for a save that will fail. Raises RoomError."""
        sizes = self.record["bytes"]
        need = sizes.get("state", 0) + 2 * sizes.get("lora", 0)
        if why := disk.lacking(self.plan.folder, need, what="needed for the next state and LoRA"):
            raise RoomError(f"{self.step.name} was stopped: {why} {self._kept()}")

    # ---- the end

    def _fail(self, error: WanwrapError) -> None:
        """End the attempt for a reason."""
        assert self.attempt
        self.error = self.error or error
        self.attempt.child.stop()

    def _end(self, error: WanwrapError) -> None:
        """It can't even begin."""
        self.error, self.over = error, True
        with suppress(OSError):
            self.progress.note(state="failed", reason=first_line(error))

    def _ended(self, attempt: Attempt) -> None:
        """The attempt is over, well or not."""
        attempt.child.end()
        status, tail = attempt.child.status(), attempt.log.end()
        attempt.follow()
        if not self.error and not status:
            self._done(attempt)
            return
        if not self.error:
            self._keep(attempt)  # what it has just made
            self._explain(status, tail)
        why = first_line(self.error)
        if self.kind == "gpu memory" and self._more():
            again = f"{why} Trying again with {self.blocks} blocks swapped."
            self._close("retrying", again)
            self.say(again)
            self.begin(self.children)
            return
        self._close("stopped" if isinstance(self.error, Stopped) else "failed", why)
        self.over = True

    def _explain(self, status: int, tail: str) -> None:
        found = failure(status, tail)
        self.kind = found.kind
        text = f"{self.step.name} {found.text} {self._kept()}\n{tail}\nThe whole log: {self.log}"
        self.error = found.error(text)

    def interrupted(self) -> None:
        """The user has ended all."""
        if self.attempt and self.record["state"] != "done":  # Ctrl-C may come at any moment
            self.attempt.log.end()
            with suppress(OSError, WanwrapError):
                self._keep(self.attempt)  # what it has just made
            self._close("interrupted", "")

    def _close(self, state: str, reason: str) -> None:
        with suppress(OSError):
            self.progress.note(**self._closed(state, reason))

    def _closed(self, state: str, reason: str) -> dict[str, Any]:
        """What there is to record of an attempt that has ended."""
        assert self.attempt
        self.attempt.log.close()
        *before, last = self.record["attempts"]
        last = {**last, "ended": now(), "exit": self.attempt.child.status(), "how": reason}
        return {**self.now(), "updated": now(), "state": state, "reason": reason, "attempts": [*before, last]}

    def _done(self, attempt: Attempt) -> None:
        """All steps are done: the last LoRA takes its place, and what was needed to go on goes.

        Raises:
            WeightsError, StepError: upstream ended well, and its LoRA is not whole, or not there.
        """
        self._take(attempt.collector())
        if self.step.makes and self.step.makes.name not in self.record["files"]:
            raise StepError(
                f"{self.step.name} ended well, and {attempt.folder} holds no LoRA of it: please report this."
            )
        self.progress.note(**{**self._closed("done", ""), "resume": None})  # or nothing goes
        self.over = True
        states.clear(self._home, self.key)

    # ---- blocks to swap

    def _asked(self) -> int:
        return whole(self.training.options, "blocks_to_swap", 0)

    def _blocks(self) -> int:
        """The number that worked before, unless the user has asked for another one since."""
        kept = self.record.get("blocks_to_swap") or 0
        return kept if kept and self.record.get("asked_blocks") == self._asked() else self._asked()

    def _more(self) -> bool:
        """Whether more can be swapped; they will be."""
        most = self.plan.preset.blocks - 1
        if not self.retry or self.blocks >= most:
            return False
        self.blocks, self.more = min(most, self.blocks + BLOCKS), True
        return True
