"""What a run is doing and how far it is, read from its folder: by another process, while it runs or after it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanwrap.errors import OutputError, closest, listing
from wanwrap.paths import absolute
from wanwrap.system.files import PART, running, write_whole

STOP = "stop"  # what the run looks for: empty, or NOW
NOW = "now"
AGAIN = "the same `wanwrap run` command goes on"
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """One expert's training, by its record in `training/`; steps and epochs are counted from the very beginning.

    `pace` is in seconds a step: its own, or the other expert's where it has none yet.
    """

    expert: str
    record: Record
    pace: float | None = None

    def number(self, name: str) -> float | None:
        """A field that is a number, and one that can be counted with."""
        return _number(self.record, name)

    @property
    def state(self) -> str:
        """As the run wrote it; `waiting` before it wrote anything."""
        return str(self.record.get("state") or "waiting")

    @property
    def seconds_left(self) -> float | None:
        """Until all its steps are done; None where nobody knows."""
        planned = self.number("steps_planned")
        if self.state in ("done", "failed"):  # nobody trains that one any more
            return 0.0
        if planned is None or self.pace is None:
            return None
        return max(planned - (self.number("steps_done") or 0), 0) * self.pace

    def stops_after(self) -> tuple[int, float | None]:
        """The epoch after which it ends when asked to, whose state is saved; and in how many seconds that is."""
        done, planned = int(self.number("epochs_done") or 0), self.number("epochs_planned")
        every = max(int(self.number("state_every") or 1), 1)
        epoch = (done // every + 1) * every
        epoch = min(epoch, max(int(planned), 1)) if planned else epoch
        length = self.number("steps_per_epoch")
        if not length or self.pace is None:
            return epoch, None
        return epoch, max(epoch * length - (self.number("steps_done") or 0), 0) * self.pace


@dataclass(frozen=True)
class Run:
    """A run's folder at one moment; `ledger` is that of the `wanwrap run` that was the last to write there."""

    folder: Path
    record: str  # `run`, or `run-low` where one expert was asked for
    ledger: Record
    trainings: tuple[Training, ...]
    running: bool
    stopping: str | None = None  # asked to stop: after an epoch (""), or NOW
    written: float = 0.0  # when anything of it was, in seconds since 1970: for their order only

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.name

    @property
    def state(self) -> str:
        """`running`, `done`, `killed`, or how else it ended. That it runs only the lock tells: a kill writes nothing."""
        said = str(self.ledger.get("state") or "")
        if self.running:
            return "running"
        return "killed" if said in ("running", "") else said

    @property
    def step(self) -> Record | None:
        """The step that is being done."""
        return next((row for row in self.steps if row.get("state") == "running"), None) if self.running else None

    @property
    def training(self) -> Training | None:
        """The expert that is being trained."""
        if not self.running:
            return None
        return next((each for each in self.trainings if each.state in ("running", "retrying")), None)

    @property
    def seconds_left(self) -> float | None:
        """For all experts of this run; None where nobody knows."""
        return all_left(self.planned, parallel=self.ledger.get("parallel") is True)

    @property
    def planned(self) -> tuple[Training, ...]:
        """The trainings that this run is about; beside them there may be that of an earlier one."""
        experts = [_expert(row) for row in self.steps if "optimizer_steps_planned" in row]
        return tuple(each for each in self.trainings if not experts or each.expert in experts)

    @property
    def steps(self) -> list[Record]:
        """The steps of the plan, as the ledger has them."""
        return _rows(self.ledger, "steps")

    @property
    def logs(self) -> Path:
        """TensorBoard's folder."""
        return self.folder / "logs"

    @property
    def log(self) -> Path:
        """What the steps printed."""
        return self.folder / f"{self.record}.log"

    def words(self) -> str:
        """What is going on, and how to go on."""
        if self.running:
            going = [str(row.get("name")) for row in self.steps if row.get("state") == "running"]
            step = " and ".join(going) or "starting or ending"
            asked = {None: "", NOW: "; asked to end at once"}.get(self.stopping, "; asked to stop")
            return f"running ({step}){asked}"
        reason = str(self.ledger.get("reason") or "").split("\n")[0]
        because = f": {reason.rstrip('.;: ')}" if reason else ""
        return {
            "done": "finished",
            "killed": f"was killed (a power cut, a crash, or ended by force); {AGAIN}",
            "interrupted": f"interrupted{because}; {AGAIN}",
            "stopped": f"stopped{because}; {AGAIN}",
            "failed": f"failed{because}; when that is mended {AGAIN}",
        }.get(self.state, self.state + because)


def look(folder: Path) -> Run:
    """The run in that folder, as it is now. Files that are no record are passed over."""
    alive = running(folder)  # before its files: what ends meanwhile has written all of them
    ledgers = [(path, record) for path in sorted(folder.glob("run*.json")) if (record := _read(path))]
    times = [_written(path) for path, _ in ledgers]
    path, ledger = max(
        ledgers,
        key=lambda each: (alive and each[1].get("state") == "running", _written(each[0])),
        default=(folder / "run.json", dict[str, Any]()),
    )
    progress = sorted((folder / "training").glob("*.json"))
    stop = folder / STOP
    asked = stop.read_text(encoding="utf-8", errors="replace").strip()[:20] if stop.is_file() else None
    return Run(
        folder,
        path.stem,
        ledger,
        _trainings(ledger, {path.stem: _read(path) for path in progress}),
        alive,
        asked,
        max([*times, *map(_written, progress)], default=_written(folder)),
    )


def runs(outputs: Path) -> list[Run]:
    """All runs of a workspace: those that go on, then the latest."""
    found = [look(path) for path in outputs.iterdir() if is_run(path)] if outputs.is_dir() else []
    return sorted(found, key=lambda run: (not run.running, -run.written, run.name))


def is_run(folder: Path) -> bool:
    """Whether a run has left its marks there."""
    with suppress(OSError):  # a name that can't be one, a folder that may not be read
        marks = ("run*.json", "training/*.json", f"run{PART}")
        return folder.is_dir() and any(next(folder.glob(mark), None) for mark in marks)
    return False


def find(wanted: str, outputs: Path) -> Path:
    """A run's folder, by its name in the workspace or by its path. Raises OutputError: there is none."""
    named, path = outputs / wanted, absolute(wanted)
    for folder in (named, path):
        if is_run(folder):
            return folder
    names = [run.name for run in runs(outputs)]
    have = f"there are {listing(names)}" if names else "nothing has run there yet"
    raise OutputError(f"no run {wanted} in {outputs}: {have}; give a name, or a path.{closest(wanted, names)}")


def the_one(outputs: Path) -> Run:
    """The run that goes on. Raises OutputError: there is none, or several."""
    found = [run for run in runs(outputs) if run.running]
    if len(found) > 1:
        raise OutputError(f"several runs go on in {outputs}: {listing(run.name for run in found)}; name one of them.")
    if not found:
        raise OutputError(f"nothing is running in {outputs}; for another workspace give --base_dir.")
    return found[0]


def stop(run: Run, *, now: bool) -> None:
    """Ask a run to stop: after the epoch whose state is saved next, or `now`. It looks every two seconds.

    Raises:
        OutputError: it does not run, or has just ended; nothing is left there for the next one to see.
    """
    file = run.folder / STOP
    if run.running and (now or run.stopping != NOW):  # once asked to end at once it does
        write_whole(file, NOW if now else "")
    if not running(run.folder):
        with suppress(FileNotFoundError):
            file.unlink()
        raise OutputError(f"{run.name} is not running: it {look(run.folder).words()}.")


def _trainings(ledger: Record, records: Mapping[str, Record]) -> tuple[Training, ...]:
    """In the order of the ledger's steps; of an expert that has no record yet what the ledger says."""
    rows = {_expert(row): row for row in _rows(ledger, "steps") if "optimizer_steps_planned" in row}
    begun = {name: {"steps_planned": row["optimizer_steps_planned"], "steps_done": 0} for name, row in rows.items()}
    return together({name: records.get(name) or begun.get(name) or {} for name in (*rows, *records) if name})


def together(records: Mapping[str, Record]) -> tuple[Training, ...]:
    """The trainings of one run: where one knows no pace of its own, the other's is as good a guess as any."""
    paces = {name: _number(record, "seconds_per_step") for name, record in records.items()}
    other = next((pace for pace in reversed(paces.values()) if pace is not None), None)
    return tuple(Training(name, record, paces[name] or other) for name, record in records.items())


def all_left(trainings: Iterable[Training], *, parallel: bool) -> float | None:
    """Seconds until all are done, one after the other or side by side; None where nobody knows."""
    left = [each.seconds_left for each in trainings]
    known = [seconds for seconds in left if seconds is not None]
    if not left or len(known) < len(left):
        return None
    return max(known) if parallel else sum(known)


def _expert(row: Record) -> str:
    """`train low` trains `low`, and `train` the only model there is."""
    return str(row.get("name", "")).removeprefix("train").strip() or "dit"


def _rows(record: Record, name: str) -> list[Record]:
    rows = record.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _number(record: Record, name: str) -> float | None:
    """A count, a time or a loss; None for what somebody's edit has made of it."""
    value = record.get(name)
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
    return value if good else None


def _read(path: Path) -> dict[str, Any]:
    """A record; empty where the file is none, or has just gone."""
    with suppress(OSError, ValueError, RecursionError):
        record = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        return record if isinstance(record, dict) else {}
    return {}


def _written(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
