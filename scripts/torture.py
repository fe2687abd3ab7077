"""Runs that are killed at random moments and started again until they are done: is anything lost, or trained twice?

    python scripts/torture.py --musubi_dir UPSTREAM --python PYTHON [--runs 60] [--jobs 2] [--signal KILL]

The real upstream trains toy weights, as in a rehearsal but 3 to 6 epochs long. Each run's wanwrap is killed up to four
times: while it merges, caches, trains, just after a LoRA or a state appears, or at any time; the same command then goes
on. What must hold at the end stands in torture_checks.py. Ends with 1 if anything does not. For Linux; 60 runs take two
CPU cores about 40 minutes. The folders of runs that failed stay, with all that they printed in out.log.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from torture_checks import Floor, check, kept_epochs, read

from wanwrap import cli, preflight, recipe
from wanwrap.errors import WanwrapError
from wanwrap.order import Order, order
from wanwrap.plan import Plan, Step
from wanwrap.rehearsal.stage import furnish, stage
from wanwrap.run import How

ROOT = Path(__file__).resolve().parent.parent
PRESETS = ("t2v-vanilla", "t2v-lightning")
MARK = "TORTURE_RUN"  # in the environment of all that a start has started
DIE, WROTE = "TORTURE_DIE", "torture: killed before "
CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
KINDS = ("time", "step", "LoRA", "state", "state", "end", "save", "save", "change", "change", "change", "change")
PATIENCE = {"gone": 5, "signal": 45, "run": 300}  # seconds: after wanwrap has gone, for a signal's answer, for all
POLL = 0.02
SECONDS = {"merge": 3.0, "check": 0.5, "cache": 7.0, "train": 11.0}  # what a step takes about


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run as its child process is told it."""

    preset: str
    folder: str
    media: str
    musubi_dir: str
    python: str
    epochs: int
    save_every: int
    state_steps: int = recipe.STATE_STEPS

    def staged(self) -> tuple[Order, Plan]:
        """The plan in small, whose first step would make the toy weights."""
        asked = order(
            preset=self.preset,
            dataset=self.media,
            base_dir=Path(self.folder),
            musubi_dir=Path(self.musubi_dir),
            python=self.python,
        )
        length = {"max_train_epochs": self.epochs, "save_every_n_epochs": self.save_every}
        gpu = bool(self.answer()["gpus"])
        data = asked.data(whole=True)
        weights, places = asked.weights(), asked.places
        plan, _ = stage(asked.preset, data, weights, places, asked.choices, gpu=gpu, length=length)
        return asked, plan

    def answer(self) -> dict[str, Any]:
        """What the training Python has said of itself: asking it takes seconds, and no part in this."""
        found: dict[str, Any] = json.loads(Path(self.media).with_name("answer.json").read_text())
        return found


def die_at(folder: str, number: int, signal_number: int) -> None:
    """Have this process killed just before it changes a file or folder for the nth time, below `folder`."""
    changes = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        path = Path(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | Path) else "")
        if (path.is_relative_to(folder) or not path.is_absolute()) and next(changes) == number:
            os.write(2, f"\n{WROTE}{event} {path.name}\n".encode())
            os.kill(os.getpid(), signal_number)

    sys.addaudithook(hook)


def child(text: str) -> int:
    """What `wanwrap run` does, once it has checked all: the process that is killed."""
    case = Case(**json.loads(text))
    recipe.STATE_STEPS = case.state_steps  # an epoch has two
    asked, plan = case.staged()
    plan = replace(plan, steps=plan.steps[1:])
    if os.environ.get(DIE):
        die_at(case.folder, *map(int, os.environ[DIE].split()))
    try:
        preflight.check_plan(plan)
        cli._carry_out(plan, asked.places.upstream, case.answer(), False, How())
    except WanwrapError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


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
    return [_moment(rng, rng.choice(steps), saves) for _ in range(rng.randint(1, 4))]


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
            marker = f"{self.name}.{number}"
            status = self._start(marker)
            thread = threading.Thread(target=self._gone, args=(marker,))
            thread.start()
            waiting.append(thread)
            if len(self.kills) <= number or self.stop.is_set():  # it was not killed
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

    def _start(self, marker: str) -> int:
        """One process, until it ends or one of the moments has come: its exit status."""
        env = {**os.environ, MARK: marker, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        env |= {"XDG_CACHE_HOME": f"{self.case.folder}/home"}
        fatal = next((each for each in self.moments if each.change), None)
        env |= {DIE: f"{fatal.change} {self.signal}"} if fatal else {}
        argv = [sys.executable, __file__, "child", json.dumps(vars(self.case))]
        before, began, due = set(self._paths()), time.monotonic(), dict[Moment, float]()
        with Path(self.case.folder, "out.log").open("ab") as log:
            process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
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
            self._killed(f"{self._running()} {fatal.what}", kept_epochs(self.plan))
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
        self._killed(where, floor)
        if status not in (130, -self.signal):
            self.problems.append(f"{where}: ended with {status} after the signal")
        return status

    def _killed(self, where: str, floor: Floor) -> None:
        self.kills.append(where)
        self.floors.append(floor)

    def _gone(self, marker: str) -> None:
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


def _warm(new: Run, old: Run) -> None:
    """Give a run the caches and the merged DiTs of another: they take a third of its time."""
    pairs = [*zip(old.plan.caches, new.plan.caches, strict=True)]
    pairs += [(Path(old.case.folder) / "merged_dits", Path(new.case.folder) / "merged_dits")]
    for source, place in (pair for pair in pairs if pair[0].is_dir()):
        shutil.copytree(source, place)


class Bench:
    """Toy weights, runs without a kill to compare with, and the runs."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work, self.stop = args, work, threading.Event()
        self._locks, self._references = defaultdict[object, threading.Lock](threading.Lock), dict[object, Run]()
        media = work / "cats"
        media.mkdir(parents=True, exist_ok=True)
        for number in range(2):
            Image.new("RGB", (640, 384), (90, 90 * number, 160)).save(media / f"{number}.png")
            (media / f"{number}.txt").write_text(f"number {number}")
        self.case = Case(
            preset=PRESETS[0],
            folder="",
            media=str(media),
            musubi_dir=str(args.musubi_dir),
            python=args.python,
            epochs=3,
            save_every=1,
        )
        asked = order(preset=PRESETS[0], musubi_dir=args.musubi_dir, python=args.python)
        answer = preflight.ask(asked.places.python, asked.places.upstream, ["musubi_tuner", "torch", "accelerate"])
        preflight.check_answer(answer, asked.places, any_upstream=True, gpu=False)
        (work / "answer.json").write_text(json.dumps(answer))

    def _new(self, name: str, **changes: Any) -> tuple[Case, Plan]:
        """A folder with the data and, linked, the toy weights of the preset."""
        case = replace(self.case, folder=str(self.work / name), **changes)
        asked, plan = case.staged()
        furnish(Path(case.folder), asked.data(whole=True), plan)
        with self._locks[case.preset]:
            toys = self.work / f"toys-{case.preset}"
            if not toys.is_dir():
                subprocess.run(plan.steps[0].argv, env={**os.environ, **plan.env}, check=True, capture_output=True)
                (Path(case.folder) / "models").rename(toys)
        shutil.copytree(toys, f"{case.folder}/models", copy_function=os.link, dirs_exist_ok=True)
        return case, plan

    def reference(self, preset: str, epochs: int) -> Run:
        """The run of that length without a kill, checked as the others are."""
        with self._locks[preset, epochs]:
            if (preset, epochs) not in self._references:
                name = f"{preset}-{epochs}"
                case, plan = self._new(name, preset=preset, epochs=epochs, save_every=2)
                old = next((run for run in self._references.values() if run.case.preset == preset), None)
                run = Run(case, plan, name, [], signal.SIGKILL, self.stop, bool(old))
                if old:
                    _warm(run, old)
                run.go(random.Random())
                run.problems += run.problems or check(plan, [], None, self.args.python)
                self._references[preset, epochs] = run
                print(run.row(), file=sys.stderr, flush=True)
            return self._references[preset, epochs]

    def _read(self, reference: Run) -> dict[str, Any] | None:
        """What a reference that went well says."""
        return None if reference.problems else read(reference.plan, self.args.python)

    def run(self, number: int) -> Run:
        """One run, drawn, killed and checked."""
        rng, name = random.Random(f"{self.args.seed} {number}"), f"run-{number}"
        preset, epochs = self.args.preset or rng.choice(PRESETS), rng.randint(3, 6)
        save_every, state_steps, warm = rng.randint(1, 3), rng.choice((2, 200)), rng.random() < 0.6
        reference = self.reference(preset, epochs)
        case, plan = self._new(name, preset=preset, epochs=epochs, save_every=save_every, state_steps=state_steps)
        how, saves = getattr(signal, f"SIG{self.args.signal}"), (epochs - 1) // save_every
        run = Run(case, plan, name, draw(rng, plan, saves, warm), how, self.stop, warm)
        if warm:
            _warm(run, reference)
        run.go(rng)
        if not (run.problems or run.stop.is_set()):
            run.problems += check(plan, run.floors, self._read(reference), self.args.python)
        print(run.row(), file=sys.stderr, flush=True)
        if not (run.problems or self.args.keep):
            shutil.rmtree(case.folder)
        return run

    def all(self) -> list[Run]:
        """As many as were asked for, or as many as fit in the time."""
        numbers, runs = itertools.count(1), list[Run]()
        until = time.monotonic() + 60 * self.args.minutes if self.args.minutes else None

        def work() -> None:
            while not self.stop.is_set() and (time.monotonic() < until if until else True):
                if (number := next(numbers)) > self.args.runs and not until:
                    return
                runs.append(self.run(number))

        with ThreadPoolExecutor(self.args.jobs) as pool:
            futures = [pool.submit(work) for _ in range(self.args.jobs)]
            try:
                for future in futures:
                    future.result()
            finally:
                self.stop.set()
        return [*self._references.values(), *runs]


def main() -> int:
    """Run, print the table; 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--musubi_dir", type=Path, default=os.environ.get("WANWRAP_MUSUBI_DIR"))
    parser.add_argument("--python", default=os.environ.get("WANWRAP_PYTHON", sys.executable), help="that trains")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--minutes", type=float, help="as many runs as fit in this time, instead")
    parser.add_argument("--seed", type=int, default=1, help="draws the same runs and moments again")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--preset", help=f"default: {' and '.join(PRESETS)}")
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT", "HUP"), default="KILL")
    parser.add_argument("--folder", type=Path, help="a new one, for all that is made (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="the folders of runs that went well, too")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    work = args.folder.absolute() if args.folder else Path(tempfile.mkdtemp(prefix="torture-"))
    runs = Bench(args, work).all()
    print("\n".join(run.row() for run in runs))
    phases, failed = Counter(kill for run in runs for kill in run.kills), sum(bool(run.problems) for run in runs)
    print("\n" + "\n".join(f"{count:4} killed in {phase}" for phase, count in sorted(phases.items())))
    print(
        f"{len(runs)} runs, {phases.total()} kills, {failed} failed" + (f"; see {work}" if failed or args.keep else "")
    )
    if not (failed or args.keep):
        shutil.rmtree(work)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(child(sys.argv[2]) if sys.argv[1:2] == ["child"] else main())
