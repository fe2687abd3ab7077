"""One expert's training, in as many attempts as it takes: each goes on from the last whole state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wanwrap import outlook, progress, room, states
from wanwrap.collect import Collector
from wanwrap.curves import Curves
from wanwrap.errors import FULL, OutputError, RoomError, StepError, WanwrapError
from wanwrap.ledger import now
from wanwrap.logs import Log
from wanwrap.options import Options, whole
from wanwrap.plan import Plan, Step
from wanwrap.process import Child
from wanwrap.watch import Watch
from wanwrap.words import failure

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
    """One expert. `begin` starts an attempt, `tick` is called often, until it says that all is over."""

    plan: Plan
    step: Step
    log: Path
    say: Say
    retry: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    error: WanwrapError | None = None
    kind: str = ""  # of failure, as words.py has them
    over: bool = False
    wish: Wish = ""
    child: Child | None = None
    watch: Watch = field(default_factory=lambda: Watch(None))
    looked: float = 0.0
    noted: float = 0.0

    def __post_init__(self) -> None:
        assert self.step.recipe and self.step.training
        self.recipe, self.training = self.step.recipe, self.step.training
        self.key = self.training.key
        self.progress = progress.opened(self.plan, self.step)
        self.record = self.progress.record
        self.blocks = self._blocks()

    # ---- an attempt

    def begin(self, children: list[Child]) -> None:
        """Start where the last whole state is, without one from the start; the child is put to the others."""
        self.children = children
        resume = self._resume()
        step, epoch = (resume["step"], resume["epoch"]) if resume else (0, 0)
        number = 1 + max((self._number(path) for path in self._left()), default=0)
        self.folder = self.training.folder(self.plan.folder, number)
        (self.folder / "logs").mkdir(parents=True)
        self.collector = self._collector(self.folder, step, epoch)
        self.curves = Curves(self.plan.folder / "logs" / self.key, step, epoch)
        self.origin, self.start, self.watch = resume, (step, epoch), Watch(self.recipe.steps - step)
        self.file = Log(self.log.open("ab"))
        self.error, self.kind = None, ""
        self.progress.note(
            state="running",
            reason="",
            resume=resume,
            steps_done=step,
            epochs_done=epoch,
            blocks_to_swap=self.blocks,
            asked_blocks=self._asked(),
            attempts=[*self.record["attempts"], self._attempt()],
        )
        argv = self.training.argv(self._changes(resume))
        self.file.begin(self.step.name, argv)
        self.child = Child(argv, self.plan.folder, {**self.plan.env, **self.env}, self._listen)
        children.append(self.child)

    def _attempt(self) -> dict[str, Any]:
        step, epoch = self.start
        return {"folder": str(self.folder), "from_step": step, "from_epoch": epoch, "started": now()}

    def _changes(self, resume: Mapping[str, Any] | None) -> dict[str, Any]:
        """How this attempt's options differ from the plan's."""
        changes: dict[str, Any] = {"output_dir": str(self.folder), "logging_dir": str(self.folder / "logs")}
        if self.blocks:
            changes["blocks_to_swap"] = self.blocks
        if not resume:
            return changes
        options, (step, epoch) = self.training.options, self.start
        changes |= {"resume": resume["folder"], "network_weights": None}
        if options.get("max_train_epochs") is not None:
            changes["max_train_epochs"] = self.recipe.epochs - epoch
        else:
            changes["max_train_steps"] = self.recipe.steps - step
        if options.get("seed") is not None:  # else the data set would come in the order of its first epochs again
            changes["seed"] = (whole(options, "seed", 0) + epoch) % 2**32
        return changes

    def _listen(self, chunk: bytes) -> None:
        self.watch.read(chunk)
        self.file.write(chunk)

    # ---- what earlier attempts have left

    def _left(self) -> list[Path]:
        """The folders of attempts, and those that a kill has kept from being removed."""
        return [*(self.plan.folder / "training").glob(f"{self.key}-*")]

    def _number(self, path: Path) -> int:
        number = path.name.removeprefix(f"{self.key}-")
        return int(number) if number.isdecimal() else 0

    def _resume(self) -> dict[str, Any] | None:
        """The last whole state; all else that attempts have left is taken over, or goes."""
        begun = {each["folder"]: (each["from_step"], each["from_epoch"]) for each in self.record["attempts"]}
        resume: dict[str, Any] | None = self.record["resume"]
        if resume and not self._sound(resume):
            self.say(f"{self.key}: {resume['folder']} is gone or damaged, looking for another state")
            resume = max(filter(self._sound, self._others(begun)), key=lambda place: place["epoch"], default=None)
        if resume and (held := begun.get(str(Path(resume["folder"]).parent))):  # to the last record, also after a kill
            Curves(self.plan.folder / "logs" / self.key, *held).follow(Path(resume["folder"]).parent / "logs")
        for path in self._left():
            if resume and str(path) in begun:
                self._take(self._collector(path, *begun[str(path)]), resume["epoch"])
            if not (resume and path in Path(resume["folder"]).parents):
                states.remove(path)
        return resume

    def _sound(self, place: Mapping[str, Any]) -> bool:
        return states.is_whole(Path(place["folder"]), thorough=True)

    def _others(self, begun: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, Any]]:
        """States that are on no record, since the disk was full for instance."""
        for path in self._left():
            for epoch, folder in states.saved(path, self.training.label):
                yield self._place(begun.get(str(path), (0, 0))[1] + epoch, folder)

    def _place(self, epoch: int, folder: Path) -> dict[str, Any]:
        return {"step": epoch * self.recipe.per_epoch, "epoch": epoch, "folder": str(folder)}

    # ---- while it runs

    def tick(self) -> None:
        """Look at what has been made, and whether it goes on as it should."""
        assert self.child
        try:
            if self.child.over():
                self._ended()
            elif time.monotonic() - self.looked > LOOK:
                self._look()
        except OSError as error:
            kind = RoomError if error.errno in FULL else OutputError
            what = f"{error.filename or self.plan.folder}: {error.strerror or error}"
            self._fail(kind(f"{self.step.name} was stopped: {what}; mend that, and start again. {self._kept()}"))

    def _look(self) -> None:
        self.looked = time.monotonic()
        self.curves.follow(self.folder / "logs")
        if self.watch.disagrees():
            self._fail(StepError(
                f"{self.step.name} was stopped before it began: upstream announced {self.watch.announced} steps and "
                f"wanwrap planned {self.watch.planned}, so the learning rate would have been wrong. Please report this "
                f"with {self.plan.folder}."
            ))  # fmt: skip
        elif self._broken():
            self._keep()
            self._fail(StepError(self._nan()))
        elif self.wish == "now" or (self._keep() and self.wish == "epoch"):
            self._fail(Stopped(f"{self.step.name} was stopped, as you asked, after epoch {self._epoch()}"))
        elif self.looked - self.noted > NOTE:
            self._note()

    def now(self) -> dict[str, Any]:
        """How far it has come."""
        done = self.start[0] + self.watch.done
        return {
            "steps_done": done,
            "epochs_done": min(done // self.recipe.per_epoch, self.recipe.epochs),
            "loss": float(self.watch.loss) if self.watch.loss and not self.watch.broken else None,
            "seconds_per_step": self.watch.pace or self.record["seconds_per_step"],
        }

    def _note(self, **changes: object) -> None:
        """Put that on record; a disk that is full for a while stops no training."""
        self.noted = time.monotonic()
        with suppress(OSError):
            self.progress.note(**self.now(), updated=now(), **changes)

    def _broken(self) -> bool:
        """Whether nothing will come of it: the mean stays NaN after a single one, the curves tell of each step."""
        return self.watch.broken_for >= BROKEN and (not self.curves.seen or self.curves.broken >= BROKEN)

    def _nan(self) -> str:
        return (
            f"{self.step.name} was stopped: since step {self.start[0] + (self.watch.broken or 0)} the loss is no number. "
            f"{self._kept()} Train with a lower --lr, or look for a broken file with `wanwrap check`."
        )

    def _kept(self) -> str:
        """What there is to go on from."""
        return f"The state after epoch {self._epoch()} is kept." if self.record["resume"] else "No state was saved yet."

    def _epoch(self) -> int:
        return int(self.record["resume"]["epoch"]) if self.record["resume"] else 0

    def _keep(self) -> bool:
        """Whether there is a new whole state; it is put on record, and the LoRAs of its epoch in their place.

        A state is good if the loss of the step after it is a number: where it is not, the one before is taken again.
        """
        end = self.watch.broken - 1 if self.watch.broken else self.recipe.steps
        found = [(e, path) for e, path in self._states() if e * self.recipe.per_epoch < end]
        epoch, path = max(found, default=(0, None))
        last = self._place(self.start[1] + epoch, path) if path else self.origin
        if not last or last == self.record["resume"] or (last["epoch"] < self._epoch() and not self.watch.broken):
            return False
        states.settle(Path(last["folder"]))
        self.curves.follow(self.folder / "logs")  # up to here, or the next attempt would have a gap
        self._take(self.collector, last["epoch"])
        self.record["bytes"]["state"] = states.size(Path(last["folder"]))
        self.progress.note(resume=last)  # before any other state goes
        for attempt in self._left():
            if attempt != self.folder and len(found) > 1:  # the first of an attempt may turn out to be no good
                states.remove(attempt)
        self._check_disk()
        return True

    def _states(self) -> Iterator[tuple[int, Path]]:
        return states.saved(self.folder, self.training.label)

    def _take(self, collector: Collector, most: int | None) -> None:
        """LoRAs and samples into their places."""
        for made in collector.take(most):
            self.record["bytes"]["lora"] = made.stat().st_size
            self.record["files"] = sorted({*self.record["files"], made.name})
            self.say(f"{self.key}: saved {made.name}")
        collector.samples()

    def _check_disk(self) -> None:
        """Before upstream writes again: no interval is trained for a save that will fail."""
        sizes = self.record["bytes"]
        need = sizes.get("state", 0) + 2 * sizes.get("lora", 0)
        if why := room.lacking(self.plan.folder, need, what="needed for the next state and LoRA"):
            self._fail(RoomError(f"{self.step.name} was stopped: {why} {self._kept()}"))

    # ---- the end

    def _fail(self, error: WanwrapError) -> None:
        """End the attempt for a reason."""
        assert self.child
        self.error = self.error or error
        if isinstance(error, RoomError | OutputError):
            self.kind = "disk"
        self.child.interrupt()
        self.child.gone(5 if not isinstance(error, Stopped) else 20)
        self.child.end()

    def _ended(self) -> None:
        """The attempt is over, well or not."""
        assert self.child
        self.child.end()
        status = self.child.status()
        tail = self.file.end()
        self.curves.follow(self.folder / "logs")
        if not self.error and not status:
            self._done()
            return
        if not self.error:
            self._keep()  # what it has just made
            self._explain(status, tail)
        if self.kind == "gpu memory" and self._more():
            again = f"{str(self.error).partition(chr(10))[0]} Trying again with {self.blocks} blocks swapped."
            self._close("retrying", again)
            self.say(again)
            self.begin(self.children)
            return
        self._close("stopped" if isinstance(self.error, Stopped) else "failed", str(self.error).partition("\n")[0])
        self.over = True

    def _explain(self, status: int, tail: str) -> None:
        found = failure(status, tail)
        self.kind = found.kind
        self.error = self.error or found.error(
            f"{self.step.name} {found.text} {self._kept()}\n{tail}\nThe whole log: {self.log}"
        )

    def interrupted(self) -> None:
        """The user has ended all."""
        if not self.over and self.child:
            self.file.end()
            self._close("interrupted", "")

    def _close(self, state: str, reason: str) -> None:
        last = {
            **self.record["attempts"][-1],
            "ended": now(),
            "exit": self.child and self.child.status(),
            "how": reason,
        }
        self._note(state=state, reason=reason, attempts=[*self.record["attempts"][:-1], last])

    def _done(self) -> None:
        """All steps are done: the last LoRA takes its place, and what was needed to go on goes.

        Raises:
            WeightsError: upstream ended well, and its LoRA is not whole.
        """
        self._take(self.collector, None)
        self._close("done", "")
        self.say(f"{self.key}: {outlook.line(self.record)}")
        self.progress.note(resume=None)
        for path in self._left():
            states.remove(path)
        self.over = True

    # ---- small things

    def _collector(self, folder: Path, step: int, epoch: int) -> Collector:
        told = {"ss_num_epochs": self.recipe.epochs, "ss_max_train_steps": self.recipe.steps}
        return Collector(
            source=folder,
            into=self.plan.folder,
            label=self.training.label,
            step=step,
            epoch=epoch,
            per_epoch=self.recipe.per_epoch,
            save_every=self.training.save_every,
            keep_last=self.training.keep_last,
            metadata={**{key: str(value) for key, value in told.items()}, **self._seed(self.training.options)},
        )

    @staticmethod
    def _seed(options: Options) -> dict[str, str]:
        return {"ss_seed": str(options["seed"])} if options.get("seed") is not None else {}

    def _asked(self) -> int:
        return whole(self.training.options, "blocks_to_swap", 0)

    def _blocks(self) -> int:
        """Blocks to swap: the number that worked before, unless the user has asked for another one since."""
        kept = self.record.get("blocks_to_swap") or 0
        return kept if kept and self.record.get("asked_blocks") == self._asked() else self._asked()

    def _more(self) -> bool:
        """Whether more blocks can be swapped; they will be."""
        most = self.plan.preset.blocks - 1
        if not self.retry or self.blocks >= most:
            return False
        self.blocks = min(most, self.blocks + BLOCKS)
        return True
