"""What runs are doing and how far they are, read from their folders: by another process, while they run or after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wanwrap.errors import OutputError, closest, listing
from wanwrap.paths import absolute
from wanwrap.run import record as records
from wanwrap.run.record import Record
from wanwrap.run.training import NOW, STOP, stop_asked
from wanwrap.system.files import is_locked, remove, write_atomic

EXPERTS = ("high", "low", "dit")
FETCHED = "launch/fetched"  # in the folder of a run that was brought from another machine, which holds its locks


@dataclass(frozen=True)
class Expert:
    """One expert's training at one moment.

    `running` is None where nobody knows: the drive has no locks, or it is trained `elsewhere`; `stop` as stop_asked has it; `pace` in seconds a step, the other
    expert's where it has none of its own yet.
    """

    folder: Path
    record: Record
    running: bool | None
    stop: str | None = None
    pace: float | None = None
    elsewhere: bool = False

    @property
    def name(self) -> str:
        """The folder's; `?` where nobody may look which ones there are."""
        return self.folder.name

    @property
    def state(self) -> str:
        """As its record says; `killed` where that says it is at work and nobody holds its lock: a kill writes nothing."""
        return "killed" if self._at_work and self.running is False else self.record.state

    @property
    def _at_work(self) -> bool:
        """By its record alone."""
        return self.record.state == "running" or bool(self.record.doing)

    @property
    def live(self) -> bool:
        """Whether somebody here is at work on it, as far as can be told: on a drive without locks its record says so."""
        return self._at_work and not self.elsewhere if self.running is None else self.running

    @property
    def training(self) -> bool:
        """Whether upstream trains it right now."""
        return self.live and self.state == "running"

    @property
    def rehearsal(self) -> bool:
        """Whether a toy is trained there."""
        return self.folder.parent.parent.parent.parent.name == "rehearsal"

    @property
    def seconds_left(self) -> float | None:
        """Until all its steps are done; None where nobody knows."""
        if self.state in ("done", "failed"):  # nobody trains that one any more
            return 0.0
        if self.pace is None or not self.record.steps_planned:
            return None
        return max(self.record.steps_planned - self.record.steps_done, 0) * self.pace

    def stops_after(self) -> tuple[int, float | None]:
        """The epoch after which it ends when asked to, whose state is saved; and in how many seconds that is."""
        record, begun = self.record, (self.record.attempts or [{}])[-1].get("epoch", 0)
        every = records.saved_every(record.state_every, begun)
        epoch = min((record.epochs_done // every + 1) * every, max(record.epochs_planned, 1))
        left = max(epoch * record.steps_per_epoch - record.steps_done, 0)
        return epoch, None if self.pace is None else left * self.pace


@dataclass(frozen=True)
class Run:
    """A run's folder at one moment, with the experts that have been trained or begun there."""

    folder: Path
    experts: tuple[Expert, ...]

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    @property
    def updated(self) -> str:
        """When it was last written of, in ISO format."""
        return max((each.record.updated for each in self.experts), default="")

    @property
    def rehearsal(self) -> bool:
        """Whether toys are trained there."""
        return any(each.rehearsal for each in self.experts)

    @property
    def elsewhere(self) -> bool:
        """Whether it was fetched from another machine, and not gone on with here."""
        return any(each.elsewhere for each in self.experts)

    @property
    def running(self) -> tuple[Expert, ...]:
        """Those at which somebody is at work."""
        return tuple(each for each in self.experts if each.running)

    @property
    def seconds_left(self) -> float | None:
        """Until all that runs is done, one after the other or side by side; None where nobody knows."""
        left = [each.seconds_left for each in self.running]
        known = [seconds for seconds in left if seconds is not None]
        if not left or len(known) < len(left):
            return None
        return max(known) if sum(each.training for each in self.running) > 1 else sum(known)


def look(folder: Path) -> Run:
    """The run in that folder, as it is now; one without experts is none. Of one that can't be read nobody knows them."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        return Run(folder, (Expert(folder / "?", records.unknown(folder), None),))
    experts = [expert for name in EXPERTS if (expert := _expert(folder / name))]
    other = next((pace for expert in reversed(experts) if (pace := expert.record.seconds_per_step)), None)
    return Run(folder, tuple(replace(each, pace=each.record.seconds_per_step or other) for each in experts))


def _expert(folder: Path) -> Expert | None:
    elsewhere = (folder.parent / FETCHED).is_file()
    running = None if elsewhere else is_locked(folder)  # before its files: what ends meanwhile has written all of them
    try:
        record = records.read(folder) or (records.unknown(folder) if running else None)
    except OSError:
        record = records.unknown(folder)
    if running and record and record.state == "done":
        running = False  # its run has the other expert still to train, or has just ended
    return Expert(folder, record, running, stop_asked(folder), elsewhere=elsewhere) if record else None


def runs(base_dir: Path) -> list[Run]:
    """All runs and rehearsals of a workspace: those that go on, then the latest."""
    places = [base_dir / "outputs", *sorted((base_dir / "rehearsal").glob("*/outputs"))]
    found = [look(path) for place in places if place.is_dir() for path in place.iterdir() if path.is_dir()]
    return sorted((run for run in found if run.experts), key=lambda run: (bool(run.running), run.updated), reverse=True)


def find(wanted: str | None, base_dir: Path) -> Run:
    """A run by its name in the workspace or by its folder's path; None: the one that goes on.

    Raises:
        OutputError: there is none, or several go on.
    """
    there = runs(base_dir)
    if wanted is not None:
        named = [run for run in there if run.name == wanted]
        named += [run for run in [look(absolute(wanted))] if run.experts]
        if named:
            return named[0]
        names = [run.name for run in there]
        have = f"there are {listing(names)}" if names else "nothing has run there yet"
        raise OutputError(f"no run {wanted} in {base_dir}: {have}; give a name, or a path.{closest(wanted, names)}")
    going = [run for run in there if run.running]
    if len(going) > 1:
        raise OutputError(f"several runs go on in {base_dir}: {listing(run.name for run in going)}; name one of them.")
    if not going:
        raise OutputError(f"nothing is running in {base_dir}; for another workspace give --base_dir.")
    return going[0]


def stop(experts: Sequence[Expert], *, now: bool) -> None:
    """Ask trainings to stop: after the state that is saved next, or `now`. They look every second.

    Raises:
        OutputError: none of them runs; nothing is left there for the next one to see.
    """
    for each in experts:
        if each.live and (now or each.stop != NOW):  # once asked to end at once it does
            write_atomic(each.folder / STOP, NOW if now else "")
    if not any(each.live and is_locked(each.folder) is not False for each in experts):
        for each in experts:
            with suppress(OSError):
                remove(each.folder / STOP)
        raise OutputError("it is not running.")
