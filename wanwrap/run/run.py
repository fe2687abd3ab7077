"""A plan carried out: its DiTs made, its caches filled, each expert trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wanwrap import errors
from wanwrap.data.cache_lock import changing, check_unused, in_turn, reading
from wanwrap.data.caches import WHAT, Survey, changed, forget, survey
from wanwrap.errors import StepError, WanwrapError, first_line, listing
from wanwrap.plan.fit import with_fits
from wanwrap.plan.plan import Cache, MakeToys, Plan, Prune, Rewrite, Sample, Step, Train
from wanwrap.plan.planner import make_plan
from wanwrap.plan.preflight import Machine, saving_bytes
from wanwrap.plan.script import encoded, script
from wanwrap.run import record as records
from wanwrap.run.folders import check_folder, hold
from wanwrap.run.training import LOG, NOW, STOP, Stopped, Training, stop_asked
from wanwrap.system import console
from wanwrap.system.failures import failure
from wanwrap.system.files import remove, write_atomic
from wanwrap.system.log import run_logged
from wanwrap.system.process import Command, check_interrupted, interruptible
from wanwrap.system.safetensors import read_header
from wanwrap.system.shell import native

Heading = Callable[[Plan], Iterator[str]]
# what would hit the other expert's training too; its own size, data or luck would not
SHARED = (errors.DownloadError, errors.GpuError, errors.OutputError, errors.PackageError, errors.RoomError)


def remaining(plan: Plan) -> Plan | None:
    """The plan without experts that are trained to their end, of whom goes what a kill has left; None where all are."""
    left = []
    for train in plan.trainings:
        record = records.read(train.folder)
        if record is None or record.state != "done":
            left.append(train)
        elif record.lora:  # what 0.1.0 has made stays as it is
            with hold(train):
                if not record.ended:
                    Training(plan, train, record).finish()
    if len(left) in (0, len(plan.trainings)):
        return plan if left else None
    return alone(plan, left[0])


def alone(plan: Plan, train: Train) -> Plan:
    """The plan of one of its experts."""
    if len(plan.trainings) == 1:
        return plan
    level = None if train.expert == "dit" else train.expert
    made = make_plan(replace(plan.request, noise_level=level), plan.dataset, plan.weights)
    fits = [each for each in plan.fits if each.train.expert == train.expert]
    return with_fits(made, fits) if fits else made


def bytes_to_save(plan: Plan, *, restart: bool) -> int:
    """What the trainings will have written at most, beside what is there."""
    total = 0
    for train in plan.trainings:
        found = None if restart else records.read(train.folder)
        total += saving_bytes(train, found.saved_epoch, found.bytes) if found else saving_bytes(train)
    return total


def carry_out(
    plan: Plan, machine: Machine, heading: Heading, *, show: Callable[[], object] = bool, retry: bool = True
) -> None:
    """Everything of a plan, from where earlier runs of it have come.

    `heading` opens its script; `show` is called when there may be news to show.

    Raises:
        Stopped: `wanwrap stop` has ended it. KeyboardInterrupt: Ctrl-C; nothing is left running.
        WanwrapError: it failed; the records say at what.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        trainings = []
        for train in plan.trainings:
            if not locks.enter_context(hold(train)):
                console.say(f"note: the drive of {plan.folder} has no locks: start no two runs there at once.")
            check_folder(plan, train)  # again: another may have trained there since
            train.folder.mkdir(exist_ok=True)
            _forget_stop(train)
            locks.callback(_forget_stop, train)
            trainings.append(Training(plan, train, records.begin(plan, train, machine), retry, show))
        _write_files(plan, heading)
        run = _Run(plan, trainings)
        with interruptible():
            run.prepare(locks)
            run.train()


def sample(plan: Plan) -> None:
    """Samples, where the plan has that step; all is trained. Raises StepError and others: what `wanwrap sample` says."""
    for step in plan.steps:
        if isinstance(step, Sample):
            console.say(f"\n{step.name}")
            command, log = Command(step.argv, plan.folder, plan.env), plan.trainings[0].folder / LOG
            status, tail = run_logged(step.name, command, log)
            if status:
                raise failure(status, tail).error(f"all is trained, and {step.name} failed:\n{tail}")


def _forget_stop(train: Train) -> None:
    with suppress(OSError):
        remove(train.folder / STOP)


def _write_files(plan: Plan, heading: Heading) -> None:
    """Each expert's files, and the script that does by hand what is done for it here."""
    shell = native()
    name = "run.sh" if shell == "bash" else "run.ps1"
    for train in plan.trainings:
        own = alone(plan, train)
        text = script(own, shell, heading(own))
        write_atomic(train.folder / name, encoded(text, shell))
    for path, text in plan.files.items():
        write_atomic(path, text)


@dataclass
class _Run:
    plan: Plan
    trainings: list[Training]

    @property
    def folder(self) -> Path:
        """The first expert's: the log of what all share is there."""
        return self.plan.trainings[0].folder

    # ---- merging and caching

    def prepare(self, locks: ExitStack) -> None:
        """All that comes before the trainings; `locks` holds the caches from then on."""
        trained_on = {train.options["dit"] for train in self.plan.trainings}
        try:
            for step in self.plan.steps:
                if isinstance(step, MakeToys):
                    self._step(step)
                elif isinstance(step, Rewrite) and str(step.out) in trained_on:
                    self._rewrite(step)
            self._cache(locks)
        except BaseException as error:
            for training in self.trainings:
                training.end_by(error)
            raise

    def _step(self, step: Step) -> None:
        """One step; what it prints goes to the screen and to the log."""
        console.say(f"\n{step.name}")
        for training in self.trainings:
            training.note(doing=step.name)
        command = Command(step.argv, self.plan.folder, self.plan.env)
        where = f"in {step.name}"
        status, tail = run_logged(step.name, command, self.folder / LOG, lambda: self._check(where, NOW))
        if status:
            why = failure(status, tail)
            raise why.error(f"{step.name} {why.text}\n{tail}\nThe whole log: {self.folder / LOG}")
        self._check(where)

    def _check(self, where: str = "while it waited", *kinds: str) -> None:
        """Raises Stopped, KeyboardInterrupt: all trainings are asked to stop, and in one of these `kinds` (default: any).

        `train` takes note where one of two is.
        """
        check_interrupted()
        asked = {stop_asked(training.train.folder) for training in self.trainings}
        if None not in asked and asked <= {*(kinds or asked)}:
            raise Stopped(f"{self.plan.name} was stopped {where}, as you asked.")

    def _rewrite(self, step: Rewrite) -> None:
        """Where another run is making the same, wait for it: the step finds it there."""
        step.out.parent.mkdir(parents=True, exist_ok=True)
        with in_turn(step.out, f"is making {step.out}", self._check):
            self._step(step)
        read_header(step.out)  # it is there, and as long as it says

    def _cache(self, locks: ExitStack) -> None:
        """Fill the caches, alone; then train from them, beside others that do."""
        plan = self.plan
        with changing(plan.caches, self._check):
            found = self._caches()
            if all(each.complete for each in found):
                console.say("all of the data set is cached: nothing to encode")
            else:
                latents, text = (sum(len(each.missing(what)) for each in found) for what in WHAT)
                console.say(f"to encode: {latents} latents and {text} captions")
                check_unused([each.folder for each in found if not each.complete])
                self._fill(found)
            locks.enter_context(reading(plan.caches, f"{plan.name}-{self.folder.name}"))

    def _caches(self) -> list[Survey]:
        return [survey(entry, self.plan.encoders) for entry in self.plan.dataset.entries]

    def _fill(self, found: Sequence[Survey]) -> None:
        """Raises StepError: what would be, or was, cached is not what was planned."""
        for step in self.plan.steps:
            if isinstance(step, Cache) and any(each.missing(step.what) for each in found):
                self._step(step)
                self._check_cached(step, found)
            elif isinstance(step, Prune):
                # it may have changed while weights were checked and merged, or another's caching was awaited
                if other := changed(self.plan.dataset.entries):
                    files = listing(sorted({item.path.name for _, item in other}))
                    raise StepError(f"{files}: the data set has changed since it was read; start again.")
                for each in found:  # as the step does when the script is run by hand
                    each.prune()

    def _check_cached(self, step: Cache, before: Sequence[Survey]) -> None:
        """Raises StepError: something else was cached than what was planned, which would be trained.

        What was complete `before` another may train from.
        """
        entries = zip(self.plan.dataset.entries, before, strict=True)
        gone, found = forget([entry for entry, each in entries if not each.complete]), self._caches()
        if other := [*gone, *(path.name for each in found for path in each.stale)]:
            raise StepError(
                f"{listing(other)}: changed, or came, while the data set was cached; start again, and only that is "
                "cached anew."
            )
        if lacking := [name for each in found for name in each.missing(step.what)]:
            raise StepError(
                f"{step.name} ended well, and {len(lacking)} file(s) that it should have made are not there "
                f"({listing(lacking)}): please report this with {self.folder}."
            )

    # ---- training

    def train(self) -> None:
        """One expert after the other: one that fails doesn't take the other down unless it would fail alike."""
        errors = list[WanwrapError]()
        for training in self.trainings:
            training.note(doing="")
        for training in self.trainings:
            try:
                training.run()
            except WanwrapError as error:
                errors.append(error)
                if isinstance(error, SHARED):
                    break
                if training is not self.trainings[-1]:
                    console.say(f"{training.train.expert}: {first_line(error)}")
        if errors:
            first = next((error for error in errors if not isinstance(error, Stopped)), errors[0])
            raise type(first)("\n\n".join(map(str, errors))) from first
