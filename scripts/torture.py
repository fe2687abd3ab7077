"""Runs that are killed at random moments and started again until they are done: is anything lost, or trained twice?

    python scripts/torture.py --musubi_dir UPSTREAM --python PYTHON [--runs 60] [--jobs 2] [--signal KILL]

The real upstream trains toy weights, as in a rehearsal but 3 to 6 epochs long. Each run's wanwrap is killed up to four
times: while it merges, caches or trains, just after a LoRA or a state appears, just before wanwrap itself changes
something on disk, or at any time; the same command then goes on. Every third run is two processes that train an expert
each at the same time, each killed and started again by itself. What must hold at the end stands in torture_checks.py.
Ends with 1 if anything does not. For Linux; 60 runs take two CPU cores about 40 minutes. The folders of runs that
failed stay, with all that they printed in *.log.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from torture_checks import check, read
from torture_child import Case
from torture_run import Run, draw

from wanwrap.plan import preflight
from wanwrap.plan.plan import Plan
from wanwrap.plan.request import read as read_request

PRESETS = ("t2v-vanilla", "t2v-lightning")


def lend_caches(new: Run, old: Run) -> None:
    """Give a run the caches and the merged DiTs of another: they take a third of its time."""
    pairs = [*zip(old.plan.caches, new.plan.caches, strict=True)]
    pairs += [(Path(old.case.folder) / "merged_dits", Path(new.case.folder) / "merged_dits")]
    for source, place in (pair for pair in pairs if pair[0].is_dir()):
        shutil.copytree(source, place)


class Bench:
    """Toy weights, runs without a kill to compare with, and the runs."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work, self.stop = args, work, threading.Event()
        self._references, self._lock = dict[object, Run](), threading.RLock()
        media = work / "cats"
        media.mkdir(parents=True, exist_ok=True)
        for number in range(2):
            Image.new("RGB", (640, 384), (90, 90 * number, 160)).save(media / f"{number}.png")
            (media / f"{number}.txt").write_text(f"number {number}")
        request = read_request(preset=PRESETS[0], musubi_dir=args.musubi_dir, python=args.python)
        modules = ["musubi_tuner", "torch", "accelerate"]
        answer, _ = preflight.checked(request.python, request.upstream, modules, any_upstream=True)
        machine = {name: answer[name] for name in ("python", "packages", "gpus")}
        places = {"folder": "", "media": str(media), "musubi_dir": str(args.musubi_dir), "python": args.python}
        self.case = Case(preset=PRESETS[0], machine=machine, **places)

    def new(self, name: str, **changes: Any) -> tuple[Case, Plan]:
        """A folder with the data and the toy weights of the preset; it may be a drive of its own."""
        case = replace(self.case, folder=str(self.work / name), **changes)
        plan = case.staged()
        (Path(case.folder) / "models").mkdir(parents=True)
        with self._lock:
            toys = self.work / f"toys-{case.preset}"
            if not toys.is_dir():
                subprocess.run(plan.steps[0].argv, env={**os.environ, **plan.env}, check=True, capture_output=True)
                (Path(case.folder) / "models").rename(toys)
        shutil.copytree(toys, f"{case.folder}/models", dirs_exist_ok=True)
        return case, plan

    def reference(self, preset: str, epochs: int) -> Run:
        """The run of that length without a kill, checked as the others are."""
        with self._lock:
            if (preset, epochs) not in self._references:
                name = f"{preset}-{epochs}"
                case, plan = self.new(name, preset=preset, epochs=epochs, save_every=2)
                old = next((run for run in self._references.values() if run.case.preset == preset), None)
                run = Run(case, plan, name, [], signal.Signals["SIGKILL"], self.stop, bool(old))
                if old:
                    lend_caches(run, old)
                run.go(random.Random())
                run.problems += run.problems or check(plan, [], None, self.args.python)
                self._references[preset, epochs] = run
                print(run.row(), file=sys.stderr, flush=True)
            return self._references[preset, epochs]

    def run(self, number: int) -> list[Run]:
        """One run, drawn, killed and checked; or one of each expert at the same time."""
        rng, name = random.Random(f"{self.args.seed} {number}"), f"run-{number}"
        preset, epochs, save_every = self.args.preset or rng.choice(PRESETS), rng.randint(3, 6), rng.randint(1, 3)
        how = {"state_steps": rng.choice((2, 200)), "keep_last": rng.choice((None, None, 1, 2))}
        warm, together = rng.random() < 0.6, rng.random() < 1 / 3 or self.args.together
        kill, runs = getattr(signal, f"SIG{self.args.signal}"), list[Run]()
        reference = self.reference(preset, epochs)
        whole, plan = self.new(name, preset=preset, epochs=epochs, save_every=save_every, **how)
        for level in ("high", "low") if together else (None,):
            case = replace(whole, noise_level=level)
            own, row, log = case.staged(), f"{name}-{level}" if level else name, f"{level or 'out'}.log"
            runs.append(Run(case, own, row, draw(rng, own, warm), kill, self.stop, warm, log))
        if warm:
            lend_caches(runs[0], reference)
        with ThreadPoolExecutor(len(runs)) as pool:
            [*pool.map(lambda run: run.go(random.Random(f"{self.args.seed} {run.name}")), runs)]
        if not (any(run.problems for run in runs) or self.stop.is_set()):
            floors = [floor for run in runs for floor in run.floors]
            curves = None if reference.problems else read(reference.plan)
            runs[0].problems += check(plan, floors, curves, self.args.python)
        print("\n".join(run.row() for run in runs), file=sys.stderr, flush=True)
        if not (any(run.problems for run in runs) or self.args.keep):
            shutil.rmtree(whole.folder)
        return runs

    def all(self) -> list[Run]:
        """As many as were asked for, and those that they were compared with."""
        with ThreadPoolExecutor(self.args.jobs) as pool:
            try:
                runs = [run for runs in pool.map(self.run, range(1, self.args.runs + 1)) for run in runs]
            finally:
                self.stop.set()
        return [*self._references.values(), *runs]


def main() -> int:
    """Run, print the table; 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--musubi_dir", type=Path, default=os.environ.get("WANWRAP_MUSUBI_DIR"))
    parser.add_argument("--python", default=os.environ.get("WANWRAP_PYTHON", sys.executable), help="that trains")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1, help="draws the same runs and moments again")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--preset", help=f"default: {' and '.join(PRESETS)}")
    parser.add_argument("--together", action="store_true", help="both experts at the same time, in every run")
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
    sys.exit(main())
