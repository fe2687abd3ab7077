"""What runs are doing and how far they are, read from their folders: by another process, while they run or after it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wanwrap.errors import OutputError, closest, listing
from wanwrap.paths import absolute
from wanwrap.run import record as records
from wanwrap.run import version_1
from wanwrap.run.record import FILE, Record
from wanwrap.run.training import NOW, STOP, stop_asked
from wanwrap.system.files import is_locked, write_atomic

EXPERTS = ("high", "low", "dit")
BY_0_1 = "0.1.0"


@dataclass(frozen=True)
class Expert:
    """One expert's training at one moment.

    `record` is None where it can't be read, or is 0.1.0's (`version`); `running`: None where the drive has no locks.
    """

    name: str
    folder: Path
    record: Record | None
    running: bool | None
    stopping: str | None = None  # asked to stop: after the next state (""), or NOW
    version: str = ""
    pace: float | None = None  # seconds a step: its own, or the other expert's where it has none yet

    @property
    def state(self) -> str:
        """As its record says; `killed` where that says it runs and nobody holds its lock: a kill writes nothing."""
        if self.version:
            return "done" if version_1.is_done(self.folder.parent, self.name) else "begun"
        if self.record is None:
            return "unreadable"
        if self.record.state != "done" and not self.running and (self.folder.parent / self.record.lora).is_file():
            return "done"  # and the disk took no record of it
        unfinished = self.record.state in ("running", "retrying") or self.record.doing
        return "killed" if unfinished and self.running is False else self.record.state

    @property
    def training(self) -> bool:
        """Whether upstream trains it right now."""
        return bool(self.running) and self.state in ("running", "retrying")

    @property
    def seconds_left(self) -> float | None:
        """Until all its steps are done; None where nobody knows."""
        if self.state in ("done", "failed"):  # nobody trains that one any more
            return 0.0
        if self.record is None or self.pace is None:
            return None
        return max(self.record.steps_planned - self.record.steps_done, 0) * self.pace

    def stops_after(self) -> tuple[int, float | None]:
        """The epoch after which it ends when asked to, whose state is saved; and in how many seconds that is."""
        assert self.record
        record = self.record
        every = max(record.state_every, 1)
        epoch = min((record.epochs_done // every + 1) * every, max(record.epochs_planned, 1))
        left = max(epoch * record.steps_per_epoch - record.steps_done, 0)
        return epoch, None if self.pace is None else left * self.pace


@dataclass(frozen=True)
class Run:
    """A run's folder at one moment, with the experts that have been trained or begun there."""

    folder: Path
    experts: tuple[Expert, ...]
    rehearsal: bool = False
    written: float = 0.0  # when anything of it was, in seconds since 1970: for their order only

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    @property
    def running(self) -> tuple[Expert, ...]:
        """Those at which somebody is at work."""
        return tuple(each for each in self.experts if each.running)

    @property
    def seconds_left(self) -> float | None:
        """Until all that runs is done, one after the other or side by side; None where nobody knows."""
        return all_left(self.running)


def all_left(experts: Sequence[Expert]) -> float | None:
    """Seconds until all are done; None where nobody knows."""
    left = [each.seconds_left for each in experts]
    known = [seconds for seconds in left if seconds is not None]
    if not left or len(known) < len(left):
        return None
    side_by_side = sum(each.training for each in experts) > 1
    return max(known) if side_by_side else sum(known)


def together(experts: Sequence[Expert]) -> tuple[Expert, ...]:
    """Where one knows no pace of its own, the other's is as good a guess as any."""
    paces = {each.name: each.record.seconds_per_step if each.record else None for each in experts}
    other = next((pace for pace in reversed(paces.values()) if pace), None)
    return tuple(replace(each, pace=paces[each.name] or other) for each in experts)


def look(folder: Path) -> Run:
    """The run in that folder, as it is now."""
    found = [each for name in EXPERTS if (each := _expert(folder, name))]
    times = [_written(place) for each in found for place in (each.folder, each.folder / FILE)]
    rehearsal = folder.parent.parent.parent.name == "rehearsal"
    return Run(folder, together(found), rehearsal, max(times, default=_written(folder)))


def _expert(folder: Path, name: str) -> Expert | None:
    own = folder / name
    alive = is_locked(own)  # before its files: what ends meanwhile has written all of them
    with suppress(OSError):
        if (own / FILE).exists() or alive:
            return Expert(name, own, records.read(own), alive, stop_asked(own))
        if version_1.is_there(folder, name):
            return Expert(name, own, None, False, version=BY_0_1)
        return None
    return Expert(name, own, None, alive)


def runs(base_dir: Path) -> list[Run]:
    """All runs and rehearsals of a workspace: those that go on, then the latest."""
    places = [base_dir / "outputs", *sorted((base_dir / "rehearsal").glob("*/outputs"))]
    folders = [path for place in places if place.is_dir() for path in place.iterdir()]
    found = [look(path) for path in folders if is_run(path)]
    return sorted(found, key=lambda run: (not run.running, -run.written, run.name))


def is_run(folder: Path) -> bool:
    """Whether a run has left its marks there."""
    with suppress(OSError):  # a name that can't be one
        return folder.is_dir() and any(_expert(folder, name) for name in EXPERTS)
    return False


def find(wanted: str, base_dir: Path) -> Run:
    """A run by its name in the workspace or by its folder's path. Raises OutputError: there is none."""
    for folder in (base_dir / "outputs" / wanted, absolute(wanted)):
        if is_run(folder):
            return look(folder)
    there = runs(base_dir)
    for run in there:  # a rehearsal's
        if run.name == wanted:
            return run
    names = [run.name for run in there]
    have = f"there are {listing(names)}" if names else "nothing has run there yet"
    raise OutputError(f"no run {wanted} in {base_dir}: {have}; give a name, or a path.{closest(wanted, names)}")


def the_one(base_dir: Path) -> Run:
    """The run that goes on. Raises OutputError: there is none, or several."""
    found = [run for run in runs(base_dir) if run.running]
    if len(found) > 1:
        raise OutputError(f"several runs go on in {base_dir}: {listing(run.name for run in found)}; name one of them.")
    if not found:
        raise OutputError(f"nothing is running in {base_dir}; for another workspace give --base_dir.")
    return found[0]


def stop(experts: Sequence[Expert], *, now: bool) -> None:
    """Ask trainings to stop: after the state that is saved next, or `now`. They look every second.

    Raises:
        OutputError: none of them runs; nothing is left there for the next one to see.
    """
    for each in experts:
        if each.running and (now or each.stopping != NOW):  # once asked to end at once it does
            write_atomic(each.folder / STOP, NOW if now else "")
    if not any(is_locked(each.folder) for each in experts):
        for each in experts:
            with suppress(OSError):
                (each.folder / STOP).unlink()
        raise OutputError("it is not running.")


def _written(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
