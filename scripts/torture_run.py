"""One of torture.py's runs: when it is killed, and all its starts until it is done."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from torture_checks import Floor, half_files, keep_states, kept_epochs
from torture_child import DIE, Case

from wanwrap.errors import WeightsError
from wanwrap.plan.plan import Plan, Rewrite, Step, Train
from wanwrap.run import record as records
from wanwrap.system import header

ROOT = Path(__file__).resolve().parent.parent
MARK = "TORTURE_RUN"  # in the environment of all that a start has started
KINDS = ("time", "step", "LoRA", "state", "state", "end", "save", "save", "change", "change", "change", "change")
PATIENCE = {"gone": 5, "signal": 45, "run": 300}  # seconds: after wanwrap has gone, for a signal's answer, for all
POLL = 0.02
SECONDS = {"merge": 3.0, "check": 0.5, "cache": 7.0, "train": 11.0}  # what a step takes about
CHANGES = 120  # of files and folders that wanwrap makes for an expert, about


class Moment(NamedTuple):
    """When to kill: `delay` seconds after a step began, or after the nth new file of such a name (neither: the start).

    Or just before wanwrap itself makes its nth `change` of a file or folder.
    """

    what: str
    delay: float = 0.0
    step: str = ""
    name: str = ""
    nth: int = 1
    change: int = 0

    def come(self, running: str, new: set[str]) -> bool:
        """Whether the delay begins now."""
        if self.name:
            return sum(bool(re.search(self.name, path)) for path in new) >= self.nth
        return not self.change and self.step in ("", running)  # with `change` it ends itself


def draw(rng: random.Random, plan: Plan, saves: int, warm: bool) -> list[Moment]:
    """One to four moments. What is there from the start is not waited for; each expert saves so often on its way."""
    steps = [step for step in plan.steps[1:] if isinstance(step, Train) or not warm]
    weights = [4 if isinstance(step, Train) else 1 for step in steps]
    most = CHANGES * len(plan.trainings)
    return [_moment(rng, step, saves, most) for step in rng.choices(steps, weights, k=rng.randint(1, 4))]


def _moment(rng: random.Random, step: Step, saves: int, most: int) -> Moment:
    kind = rng.choice(KINDS if isinstance(step, Train | Rewrite) else ("step",))
    if kind == "change":
        return Moment("change", change=rng.randint(1, most))
    if kind == "time":
        return Moment("any time", delay=rng.uniform(0, 25))
    if isinstance(step, Rewrite) and kind != "step":
        return Moment("DiT", name=rf"/{re.escape(step.out.name)}", delay=rng.uniform(0, 1))
    if not isinstance(step, Train) or kind == "step":
        return Moment("", step=step.name, delay=rng.uniform(0, SECONDS[step.name.split()[0]]))
    kind, label = kind if saves else "end", re.escape(step.label)
    name = {
        "LoRA": rf"/{label}-\d+\.safetensors$",
        "state": rf"/({label}-\d+-state|{step.expert}/state-\d+)$",
        "end": rf"/{label}(-state|\.safetensors)$",
        "save": rf"/{label}-\d+(-state|\.safetensors)(/.*)?$",
    }[kind]
    nth, delay = rng.randint(1, 2 if kind == "end" else min(3, saves)), rng.uniform(0, 0.1 if kind == "save" else 1.0)
    return Moment(kind, name=name, delay=delay, nth=nth)


@dataclass
class Run:
    """One run, from its first start until it is done."""

    case: Case
    plan: Plan
    name: str
    moments: list[Moment]
    signal: int
    stop: threading.Event
    warm: bool = False
    log: str = "out.log"
    kills: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    cached: dict[Path, tuple[int, int]] = field(default_factory=dict)
    seconds: float = 0.0

    def go(self, rng: random.Random) -> None:
        """Start it again after each kill, now and then at once, until it ends by itself."""
        began, waiting = time.monotonic(), list[threading.Thread]()
        for number in itertools.count():
            marker, kills = f"{self.case.folder}/{self.name}.{number}", len(self.kills)
            status = self._start(marker)
            waiting.append(threading.Thread(target=self.gone, args=(marker,)))
            waiting[-1].start()
            if len(self.kills) == kills or self.stop.is_set():  # it was not killed
                break
            if rng.random() < 0.7:
                waiting[-1].join()
        for thread in waiting:
            thread.join()
        self.seconds = time.monotonic() - began
        if status:
            lines = Path(self.case.folder, self.log).read_text(errors="replace").split("\n")
            why = next((line for line in reversed(lines) if line.startswith("Error")), lines[-2] if lines[1:] else "")
            self.problems.append(f"start {number + 1} ended with {status}: {why}")

    def begin(self, marker: str, *before: str, **streams: Any) -> subprocess.Popen[bytes]:
        """One process, by way of the command `before` it where there is one."""
        env = {**os.environ, MARK: marker, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        env |= {"XDG_CACHE_HOME": f"{self.case.folder}/home"}
        env |= {DIE: f"{fatal.change} {self.signal}"} if (fatal := self._fatal()) else {}
        argv = [*before, sys.executable, str(ROOT / "scripts" / "torture_child.py"), json.dumps(vars(self.case))]
        return subprocess.Popen(argv, env=env, **streams)

    def _fatal(self) -> Moment | None:
        return next((moment for moment in self.moments if moment.change), None)

    def _start(self, marker: str) -> int:
        """One process, until it ends or one of the moments has come: its exit status."""
        before, began, fatal = {*self._paths()}, time.time(), self._fatal()
        new, due = set[str](), dict[Moment, float]()
        with Path(self.case.folder, self.log).open("ab") as log:
            process = self.begin(marker, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while process.poll() is None and not self.stop.is_set():
            now, running, new = time.time(), self._running(began), new | {*self._paths()} - before
            self._check_caches()
            due |= {each: now + each.delay for each in self.moments if each not in due and each.come(running, new)}
            if moment := next((each for each in due if now >= due[each]), None):
                self.moments.remove(moment)
                return self._kill(process, f"{running} {moment.what}".strip())
            if now > began + PATIENCE["run"]:
                self.problems.append(f"it hung in {running} for {PATIENCE['run']} s")
                break
            time.sleep(POLL)
        process.kill() if process.poll() is None else None
        if process.wait() in (130, -self.signal) and fatal and not self.stop.is_set():
            self.moments.remove(fatal)
            self.killed(f"{self._running(began)} {fatal.what}", kept_epochs(self.plan))
        return process.returncode

    def _kill(self, process: subprocess.Popen[bytes], where: str) -> int:
        """Kill it, and note where, and what was there already."""
        floor = kept_epochs(self.plan)
        process.send_signal(self.signal)
        try:
            status = process.wait(PATIENCE["signal"])
        except subprocess.TimeoutExpired:
            self.problems.append(f"{where}: did not end {PATIENCE['signal']} s after the signal")
            process.kill()
            status = process.wait()
        if status:  # else it was done
            self.killed(where, floor)
        if status not in (0, 130, -self.signal):
            self.problems.append(f"{where}: ended with {status} after the signal")
        return status

    def killed(self, where: str, floor: Floor) -> None:
        """Remember that it was, where, and what must not be trained again."""
        self.kills.append(where)
        self.floors.append(floor)
        self.problems += half_files(self.plan)
        keep_states(self.plan, len(self.kills))

    def gone(self, marker: str) -> None:
        """All that this start has started has to be gone soon."""
        deadline = time.monotonic() + PATIENCE["gone"]
        while alive := [*_marked(marker)]:
            if time.monotonic() > deadline:
                names = "; ".join(" ".join(each.info["cmdline"])[:80] for each in alive)
                self.problems.append(f"alive {PATIENCE['gone']} s after {marker} had gone: {names}")
                for each in alive:
                    each.kill()
                return
            time.sleep(0.1)

    def _running(self, began: float) -> str:
        """The name of the step that runs, by the records that have been written since."""
        for train in self.plan.trainings:
            with suppress(OSError):
                written = (train.folder / records.FILE).stat().st_mtime >= began
                if written and (record := records.read(train.folder)) and record.doing:
                    return record.doing
        return "between"

    def _check_caches(self) -> None:
        """What has been encoded whole is never encoded again."""
        for path in (path for cache in self.plan.caches for path in cache.glob("*.safetensors")):
            with suppress(OSError, WeightsError):
                mark = path.stat().st_ino, path.stat().st_mtime_ns
                if path not in self.cached:
                    header.read(path)
                if self.cached.setdefault(path, mark) != mark:
                    self.cached[path] = mark
                    self.problems.append(f"{path.name} was encoded again")

    def _paths(self) -> Iterator[str]:
        """All files and folders that the run has made."""
        for top in (self.plan.folder, Path(self.case.folder) / "merged_dits"):
            for folder, folders, files in os.walk(top):
                yield from (f"{folder}/{name}" for name in (*folders, *files))

    def row(self) -> str:
        """Its line of the table."""
        case, kills, verdict = self.case, ", ".join(self.kills), "; ".join(self.problems) or "ok"
        length = f"{case.epochs}/{case.save_every}/{case.keep_last or '-'} {'warm' if self.warm else 'cold'}"
        return f"{self.name:<15} {case.preset:<13} {length} {len(self.kills)} kills {self.seconds:4.0f} s  {kills:<50} {verdict}"


def _marked(marker: str) -> Iterator[Any]:
    for each in psutil.process_iter(["environ", "cmdline", "status"]):
        if (each.info["environ"] or {}).get(MARK) == marker and each.info["status"] != psutil.STATUS_ZOMBIE:
            yield each
