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
from wanwrap.plan.plan import Plan
from wanwrap.run import record as records
from wanwrap.system.safetensors import read_header

ROOT = Path(__file__).resolve().parent.parent
MARK = "TORTURE_RUN"  # in the environment of all that a start has started
PATIENCE = {"gone": 5, "signal": 45, "run": 300}  # seconds: after wanwrap has gone, for a signal's answer, for all
POLL = 0.02
SECONDS = 30  # that a run takes about
CHANGES = 120  # of files and folders that wanwrap makes for an expert, about
FILES = {  # what is made on the way, by its name
    "DiT": r"/merged_dits/.",
    "latents": r"_wan\.safetensors$",
    "text": r"_wan_te\.safetensors$",
    "LoRA": r"-\d{6}\.safetensors$",
    "state": r"(-\d{6}-state|/state-\d{6})$",
    "save": r"-\d{6}(-state|\.safetensors)(/.*)?$",
    "end": r"toy-(high|low)(-state|\.safetensors)$",
}


class Moment(NamedTuple):
    """When to kill: `delay` seconds after the start, or after the nth new file of such a name.

    Or just before wanwrap itself makes its nth `change` of a file or folder.
    """

    what: str
    delay: float = 0.0
    name: str = ""
    nth: int = 0
    change: int = 0

    def come(self, new: set[str]) -> bool:
        """Whether the delay begins now."""
        return not self.change and sum(bool(re.search(self.name, path)) for path in new) >= self.nth


def draw(rng: random.Random, plan: Plan, warm: bool) -> list[Moment]:
    """One to four moments. What is there from the start is not waited for."""
    files = [*FILES][3 if warm else 0 if plan.rewrites else 1 :]
    return [_moment(rng, rng.choice(["time", *files, *["change"] * 4]), plan) for _ in range(rng.randint(1, 4))]


def _moment(rng: random.Random, kind: str, plan: Plan) -> Moment:
    if kind == "change":
        return Moment("change", change=rng.randint(1, CHANGES * len(plan.trainings)))
    if kind == "time":
        return Moment("any time", delay=rng.uniform(0, SECONDS))
    return Moment(kind, rng.choice((0.1, 1.0)) * rng.random(), FILES[kind], rng.randint(1, 3))


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
        before, began, fatal = {*self._paths()}, time.monotonic(), self._fatal()
        new, due = set[str](), dict[Moment, float]()
        with Path(self.case.folder, self.log).open("ab") as log:
            process = self.begin(marker, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while process.poll() is None and not self.stop.is_set():
            now, new = time.monotonic(), new | {*self._paths()} - before
            self._check_caches()
            due |= {each: now + each.delay for each in self.moments if each not in due and each.come(new)}
            if moment := next((each for each in due if now >= due[each]), None):
                self.moments.remove(moment)
                return self._kill(process, f"{self._running()}: {moment.what}")
            if now > began + PATIENCE["run"]:
                self.problems.append(f"it hung in {self._running()} for {PATIENCE['run']} s")
                break
            time.sleep(POLL)
        process.kill() if process.poll() is None else None
        if process.wait() in (130, -self.signal) and fatal and not self.stop.is_set():
            self.moments.remove(fatal)
            self.killed(f"{self._running()}: {fatal.what}", kept_epochs(self.plan))
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

    def _running(self) -> str:
        """The name of the step that runs, or ran when it was killed."""
        found = [record.doing for train in self.plan.trainings if (record := records.read(train.folder))]
        return next(filter(None, found), "between")

    def _check_caches(self) -> None:
        """What has been encoded whole is never encoded again."""
        for path in (path for cache in self.plan.caches for path in cache.glob("*.safetensors")):
            with suppress(OSError, WeightsError):
                mark = path.stat().st_ino, path.stat().st_mtime_ns
                if path not in self.cached:
                    read_header(path)
                if self.cached.setdefault(path, mark) != mark:
                    self.cached[path] = mark
                    self.problems.append(f"{path.name} was encoded again")

    def _paths(self) -> Iterator[str]:
        """All files and folders that the run has made."""
        for top in (self.plan.folder, *self.plan.caches, Path(self.case.folder) / "merged_dits"):
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
