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
from typing import Any

import psutil
from torture_checks import Floor, keep_states, kept_epochs
from torture_child import DIE, Case

from wanwrap.plan.plan import Plan, Step

ROOT = Path(__file__).resolve().parent.parent
MARK = "TORTURE_RUN"  # in the environment of all that a start has started
KINDS = ("time", "step", "LoRA", "state", "state", "end", "save", "save", "change", "change", "change", "change")
PATIENCE = {"gone": 5, "signal": 45, "run": 300}  # seconds: after wanwrap has gone, for a signal's answer, for all
POLL = 0.02
SECONDS = {"merge": 3.0, "check": 0.5, "cache": 7.0, "train": 11.0}  # what a step takes about


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When to kill: `delay` seconds after a step began, or after the nth new file of such a name (neither: the start).

    Or just before wanwrap itself makes its nth `change` of a file or folder.
    """

    what: str
    delay: float = 0.0
    step: str | None = None
    name: re.Pattern[str] | None = None
    nth: int = 1
    change: int = 0

    def come(self, running: str, new: set[str]) -> bool:
        """Whether the delay begins now."""
        if self.change:
            return False  # it ends itself
        if self.name:
            return sum(bool(self.name.search(path)) for path in new) >= self.nth
        return self.step in (None, running)


def draw(rng: random.Random, plan: Plan, saves: int, warm: bool) -> list[Moment]:
    """One to four moments. What is there from the start is not waited for; each expert saves so often on its way."""
    steps = [step for step in plan.steps[1:] if step.recipe or not warm]
    weights = [4 if step.recipe else 1 for step in steps]
    return [_moment(rng, step, saves) for step in rng.choices(steps, weights, k=rng.randint(1, 4))]


def _moment(rng: random.Random, step: Step, saves: int) -> Moment:
    kind = rng.choice(KINDS if step.makes else ("step",))
    if kind == "change":
        return Moment(what="change", change=rng.randint(1, 270))  # so many there are of a run without a kill
    if kind == "time":
        return Moment(what="any time", delay=rng.uniform(0, 25))
    if kind == "step" or not step.makes:
        return Moment(what="", step=step.name, delay=rng.uniform(0, SECONDS[step.name.split()[0]]))
    if not step.recipe:
        return Moment(what="DiT", name=re.compile(rf"/{re.escape(step.makes.name)}"), delay=rng.uniform(0, 1))
    kind = kind if saves else "end"
    names = {"LoRA": r"-\d{6}\.safetensors$", "state": r"-\d{6}-state$", "end": r"(-state|\.safetensors)$"}
    name = re.compile(rf"/{re.escape(step.makes.stem)}" + names.get(kind, r"-\d{6}(-state|\.safetensors)(/.*)?$"))
    return Moment(
        what=kind,
        name=name,
        delay=rng.uniform(0, 0.1 if kind == "save" else 1.0),
        nth=rng.randint(1, 2 if kind == "end" else min(3, saves)),
    )


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
    kills: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    seconds: float = 0.0

    def go(self, rng: random.Random) -> None:
        """Start it again after each kill, now and then at once, until it ends by itself."""
        began, waiting = time.monotonic(), list[threading.Thread]()
        for number in itertools.count():
            marker, kills = f"{self.name}.{number}", len(self.kills)
            status = self._start(marker)
            thread = threading.Thread(target=self.gone, args=(marker,))
            thread.start()
            waiting.append(thread)
            if len(self.kills) == kills or self.stop.is_set():  # it was not killed
                break
            if rng.random() < 0.7:
                thread.join()
        for thread in waiting:
            thread.join()
        self.seconds = time.monotonic() - began
        if status:
            lines = Path(self.case.folder, "out.log").read_text(errors="replace").split("\n")
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
        return next((each for each in self.moments if each.change), None)

    def _start(self, marker: str) -> int:
        """One process, until it ends or one of the moments has come: its exit status."""
        before, began, due, fatal = set(self._paths()), time.monotonic(), dict[Moment, float](), self._fatal()
        with Path(self.case.folder, "out.log").open("ab") as log:
            process = self.begin(marker, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while process.poll() is None and not self.stop.is_set():
            now, running, new = time.monotonic(), self._running(), set(self._paths()) - before
            due |= {each: now + each.delay for each in self.moments if each not in due and each.come(running, new)}
            if moment := next((each for each in due if now >= due[each]), None):
                self.moments.remove(moment)
                return self._kill(process, moment)
            if now > began + PATIENCE["run"]:
                self.problems.append(f"it hung in {running} for {PATIENCE['run']} s")
                break
            time.sleep(POLL)
        process.kill() if process.poll() is None else None
        if process.wait() in (130, -self.signal) and fatal and not self.stop.is_set():
            self.moments.remove(fatal)
            self.killed(f"{self._running()} {fatal.what}", kept_epochs(self.plan))
        return process.returncode

    def _kill(self, process: subprocess.Popen[bytes], moment: Moment) -> int:
        """Kill it, and note where, and what was there already."""
        floor = kept_epochs(self.plan)
        where = f"{self._running()} {moment.what}".strip()
        process.send_signal(self.signal)
        try:
            status = process.wait(PATIENCE["signal"])
        except subprocess.TimeoutExpired:
            self.problems.append(f"{where}: did not end {PATIENCE['signal']} s after the signal")
            process.kill()
            status = process.wait()
        if status == 0:  # it was done
            return 0
        self.killed(where, floor)
        if status not in (130, -self.signal):
            self.problems.append(f"{where}: ended with {status} after the signal")
        return status

    def killed(self, where: str, floor: Floor) -> None:
        """Remember that it was, where, and what must not be trained again."""
        self.kills.append(where)
        self.floors.append(floor)
        keep_states(self.plan, len(self.kills))

    def gone(self, marker: str) -> None:
        """All that this start has started has to be gone soon."""
        deadline = time.monotonic() + PATIENCE["gone"]
        while alive := list(_marked(marker)):
            if time.monotonic() > deadline:
                names = "; ".join(" ".join(each.info["cmdline"])[:80] for each in alive)
                self.problems.append(f"alive {PATIENCE['gone']} s after {marker} had gone: {names}")
                for each in alive:
                    each.kill()
                return
            time.sleep(0.1)

    def _running(self) -> str:
        """The name of the step that runs, by the run's record."""
        with suppress(OSError, ValueError, StopIteration):
            steps = json.loads((self.plan.folder / f"{self.plan.record}.json").read_text())["steps"]
            return str(next(row["name"] for row in steps if row["state"] not in ("planned", "done", "not needed")))
        return "between"

    def _paths(self) -> Iterator[str]:
        """All files and folders that the run has made."""
        for top in (self.plan.folder, Path(self.case.folder) / "merged_dits"):
            for folder, folders, files in os.walk(top):
                yield from (f"{folder}/{name}" for name in (*folders, *files))

    def row(self) -> str:
        """Its line of the table."""
        verdict = "; ".join(self.problems) if self.problems else "ok"
        what = f"{self.case.preset:<13} {self.case.epochs}/{self.case.save_every} {'warm' if self.warm else 'cold'}"
        return f"{self.name:<20} {what} {len(self.kills)} kills {self.seconds:4.0f} s  {', '.join(self.kills):<60} {verdict}"


def _marked(marker: str) -> Iterator[Any]:
    for each in psutil.process_iter(["environ", "cmdline", "status"]):
        if (each.info["environ"] or {}).get(MARK) == marker and each.info["status"] != psutil.STATUS_ZOMBIE:
            yield each
