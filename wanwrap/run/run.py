"""Carry a plan out: write its files, run its steps, keep log and ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanwrap.cli.report import heading
from wanwrap.cli.status_report import going, trained
from wanwrap.data.caches import forget, missing, stamps, strangers
from wanwrap.errors import OutputError, RoomError, StepError, WanwrapError, first_line, listing
from wanwrap.plan.plan import Plan, Step
from wanwrap.plan.script import native, script
from wanwrap.run.ledger import Ledger, now
from wanwrap.run.progress import is_done
from wanwrap.run.status import NOW, STOP, together
from wanwrap.run.training import Stopped, Training, Wish
from wanwrap.system import header
from wanwrap.system.failures import also_others, failure
from wanwrap.system.files import write_whole
from wanwrap.system.log import Log
from wanwrap.system.process import Listener, check_interrupted, stream, supervised
from wanwrap.upstream import states

PAUSE = 0.2  # seconds

Say = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class How:
    """How trainings are carried out: `show` is given a line for each; `gpus` are for one expert each, side by side."""

    show: Callable[[Sequence[str]], object] = lambda _: None
    retry: bool = True
    gpus: tuple[str, ...] = ()


def write_files(plan: Plan) -> None:
    """The plan's folder and files, and the script that does by hand what `run` does."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    shell = native()
    suffix, encoding = (".sh", "utf-8") if shell == "bash" else (".ps1", "utf-8-sig")
    (plan.folder / f"{plan.record}{suffix}").write_text(script(plan, shell, heading(plan)), encoding=encoding)
    for path, text in plan.files.items():
        write_whole(path, text)


def run(plan: Plan, ledger: Ledger, screen: Listener, say: Say, how: How | None = None) -> None:
    """All steps in order; those that an earlier run has ended are not done again.

    Raises:
        StepError and others: one failed; the ledger says which.
        Stopped: `wanwrap stop` has ended it.
        KeyboardInterrupt: the user stopped it; nothing is left running.
    """
    (plan.folder / STOP).unlink(missing_ok=True)
    try:
        _Run(plan, ledger, screen, say, how or How()).all()
    except BaseException as error:
        ends = {KeyboardInterrupt: "interrupted", Stopped: "stopped"}
        with suppress(OSError):  # the reason must come through, on a full disk too
            ledger.ended(ends.get(type(error), "failed"), str(error))
        raise
    finally:
        with suppress(OSError):
            (plan.folder / STOP).unlink(missing_ok=True)
    ledger.ended("done")


@dataclass
class _Run:
    plan: Plan
    ledger: Ledger
    screen: Listener
    say: Say
    how: How
    trainings: list[Training] = field(default_factory=list)

    def all(self) -> None:
        plan = self.plan
        before, numbered = stamps(plan.dataset.entries), [*enumerate(plan.steps)]
        done = [index for index, step in numbered if step.training and is_done(plan, step)]
        for index in done:
            self._skip(index)
        read = {step.training.options["dit"] for index, step in numbered if step.training and index not in done}
        for index, step in numbered:
            if step.reads and str(step.makes) not in read:
                self.ledger.step(index, state="not needed")
            elif not step.training:
                self._prepare(index, before)
        self.ledger.note(parallel=bool(self.how.gpus))
        todo = [step for index, step in numbered if step.training and index not in done]
        self.trainings = [self._training(step, number) for number, step in enumerate(todo)]
        self._train()

    # ---- merging and caching

    def _prepare(self, index: int, before: Mapping[Path, list[int]]) -> None:
        plan, step = self.plan, self.plan.steps[index]
        self._announce(index)
        if step.fills and not missing(plan.dataset.entries, plan.caches, step.fills):
            self.say("all of it is cached: nothing to encode")
            self.ledger.step(index, state="not needed")
            return
        self.ledger.step(index, state="running", started=now())
        self._step(index)
        if step.fills:
            _check_cached(plan, step, before)
        self.ledger.step(index, state="done", ended=now())

    def _announce(self, index: int) -> None:
        self.say(f"\n{self.plan.steps[index].name} ({index + 1} of {len(self.plan.steps)})")

    def _step(self, index: int) -> None:
        """One step; what it prints goes to the screen and to the log."""
        plan, step = self.plan, self.plan.steps[index]
        log = plan.folder / f"{plan.record}.log"
        status, tail = logged(step.name, step.argv, plan.folder, plan.env, log, self.screen, self._now, self.say)
        self.ledger.step(index, exit=status)
        if self._now() or (self._wish() and not status):
            raise Stopped(f"{plan.name} was stopped in {step.name}, as you asked; the same command goes on.")
        if status:
            why = failure(status, tail)
            raise why.error(f"{step.name} {why.text}\n{tail}\nThe whole log: {log}")
        if step.makes:
            header.read(step.makes)  # it is there, and as long as it says
            self.ledger.step(index, bytes=step.makes.stat().st_size)

    # ---- training

    def _skip(self, index: int) -> None:
        """An expert that is trained already; what a power cut has left of it goes."""
        training = self.plan.steps[index].training
        assert training
        states.clear(self.plan.folder / "training", training.key)
        self.ledger.step(index, state="not needed")

    def _training(self, step: Step, number: int) -> Training:
        plan, gpus = self.plan, self.how.gpus
        assert step.training
        name = f"{plan.record}-{step.training.key}" if gpus else plan.record
        found = Training(plan, step, plan.folder / f"{name}.log", self.say, self.how.retry)
        if gpus:
            found.env = {"CUDA_VISIBLE_DEVICES": gpus[number]}
        return found

    def _train(self) -> None:
        """Side by side, or one after the other: one that fails doesn't take the others down unless it must."""
        groups = [self.trainings] if self.how.gpus else [[each] for each in self.trainings]
        errors = list[WanwrapError]()
        for group in groups:
            if self._wish():
                raise Stopped(f"{self.plan.name} was stopped before {group[0].step.name}, as you asked.")
            self._group(group)
            errors += [each.error for each in group if each.error]
            if any(hits_all(each) for each in group):
                break
        if errors:
            others = "".join(f"\n\n{error}" for error in errors[1:])
            raise type(errors[0])(f"{errors[0]}{others}")

    def _group(self, group: Sequence[Training]) -> None:
        try:
            with supervised(self.say) as children:
                for each in group:
                    self._announce(self.plan.steps.index(each.step))
                    self._note(each, state="running", started=now())
                    each.blocks = max([each.blocks, *(other.blocks for other in self.trainings if other.more)])
                    each.begin(children)
                    if each.over:
                        self._over(each)
                while not all(each.over for each in group):
                    self._watch(group)
                    time.sleep(PAUSE)
                    check_interrupted()
        except BaseException:
            for each in group:
                each.interrupted()
                self._note(each)
            raise
        finally:
            self.how.show([])

    def _watch(self, group: Sequence[Training]) -> None:
        wish = self._wish()
        for each in group:
            if not each.over:
                each.wish = wish
                each.tick()
                if each.over:
                    self._over(each)
        records = together({each.key: each.now() for each in self.trainings})
        shown = {each.key for each in group if not each.over}
        self.how.show([*going(records, shown, parallel=bool(self.how.gpus))])

    def _over(self, training: Training) -> None:
        """Tell at once how an expert's training has ended: the other one may take until the morning."""
        error = training.error
        state = "stopped" if isinstance(error, Stopped) else "failed" if error else "done"
        self._note(training, state=state, ended=now())
        if error and len(self.trainings) > 1:
            self.say(f"{training.key}: {first_line(error)}")
        elif not error:
            self.say(trained(*together({training.key: training.record})))

    def _note(self, training: Training, **changes: object) -> None:
        """What the run's own record tells of an expert, if the disk takes it; more stands in its progress."""
        row: dict[str, Any] = {"optimizer_steps_done": training.record["steps_done"]}
        if training.attempt:
            row["loss"] = training.attempt.watch.loss
        with suppress(OSError):
            if training.step.makes and training.step.makes.is_file():
                row["bytes"] = training.step.makes.stat().st_size
            self.ledger.step(self.plan.steps.index(training.step), **row, **changes)

    def _wish(self) -> Wish:
        path = self.plan.folder / STOP
        if not path.exists():
            return ""
        return "now" if path.read_text(encoding="utf-8").strip() == NOW else "epoch"

    def _now(self) -> bool:
        """Whether a step that trains nothing is to end; without hurry it is the last one."""
        return self._wish() == "now"


def hits_all(training: Training) -> bool:
    """Whether what has ended one expert's training would end the other's too."""
    ours = isinstance(training.error, Stopped | RoomError | OutputError)
    return ours or (training.error is not None and also_others(training.kind))


def logged(
    name: str,
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    path: Path,
    listen: Listener,
    unwanted: Callable[[], bool],
    say: Say,
) -> tuple[int, str]:
    """`process.stream`, with all that is printed in the log too: the exit status, and where it is not 0 the last lines."""
    with path.open("ab", buffering=0) as file:
        log = Log(file)
        log.begin(name, argv)

        def both(chunk: bytes) -> None:
            log.write(chunk)
            listen(chunk)

        try:
            status = stream(argv, cwd, env, both, unwanted, say)
        finally:
            tail = log.end()
        return status, tail if status else ""


def _check_cached(plan: Plan, step: Step, before: Mapping[Path, list[int]]) -> None:
    """Raises StepError: something else was cached than what was planned, which would be trained."""
    assert step.fills
    entries, caches = plan.dataset.entries, plan.caches
    again = "start again, and only that is cached anew"
    if changed := forget(entries, caches, before):
        raise StepError(f"{listing(sorted(changed))}: changed while the data set was cached; {again}.")
    if extra := strangers(entries, caches):
        raise StepError(f"{listing(extra)}: cached of files that came while the data set was cached; {again}.")
    if lacking := missing(entries, caches, step.fills):
        names = listing(path.name for path in lacking)
        raise StepError(
            f"{step.name} ended well, and {len(lacking)} file(s) that it should have made are not there ({names}): "
            f"please report this with {plan.folder}."
        )
