"""Runs that are killed at random moments and started again until they are done: is anything lost, or trained twice?

    python scripts/torture.py --musubi_dir UPSTREAM --python PYTHON [--runs 60] [--jobs 2] [--signal KILL]

The real upstream trains toy weights, as in a rehearsal but 3 to 6 epochs long. Each run's wanwrap is killed up to four
times: while it merges, caches or trains, just after a LoRA or a state appears, just before wanwrap itself changes
something on disk, or at any time; the same command then goes on. What must hold at the end stands in torture_checks.py. Ends with 1 if anything does not. For Linux; 60 runs take two
CPU cores about 40 minutes. The folders of runs that failed stay, with all that they printed in out.log.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
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
from wanwrap.plan.request import order
from wanwrap.rehearsal.stage import furnish

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
        preflight.check_answer(answer, asked.places, any_upstream=True, gpus=0)
        (work / "answer.json").write_text(json.dumps(answer))

    def new(self, name: str, **changes: Any) -> tuple[Case, Plan]:
        """A folder with the data and the toy weights of the preset; it may be a drive of its own."""
        case = replace(self.case, folder=str(self.work / name), **changes)
        asked, plan = case.staged()
        furnish(Path(case.folder), asked.data(whole=True), plan)
        with self._locks[case.preset]:
            toys = self.work / f"toys-{case.preset}"
            if not toys.is_dir():
                subprocess.run(plan.steps[0].argv, env={**os.environ, **plan.env}, check=True, capture_output=True)
                (Path(case.folder) / "models").rename(toys)
        shutil.copytree(toys, f"{case.folder}/models", dirs_exist_ok=True)
        return case, plan

    def reference(self, preset: str, epochs: int) -> Run:
        """The run of that length without a kill, checked as the others are."""
        with self._locks[preset, epochs]:
            if (preset, epochs) not in self._references:
                name = f"{preset}-{epochs}"
                case, plan = self.new(name, preset=preset, epochs=epochs, save_every=2)
                old = next((run for run in self._references.values() if run.case.preset == preset), None)
                run = Run(case, plan, name, [], signal.SIGKILL, self.stop, bool(old))
                if old:
                    lend_caches(run, old)
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
        case, plan = self.new(name, preset=preset, epochs=epochs, save_every=save_every, state_steps=state_steps)
        how, saves = getattr(signal, f"SIG{self.args.signal}"), (epochs - 1) // save_every
        run = Run(case, plan, name, draw(rng, plan, saves, warm), how, self.stop, warm)
        if warm:
            lend_caches(run, reference)
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
    sys.exit(main())
