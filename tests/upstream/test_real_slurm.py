"""The real musubi-tuner by way of a real Slurm: whatever ends its jobs, both LoRAs are made, and nothing is trained twice."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster import Submitted, cluster
from helpers import ROOT
from jobs import job
from platforms import linux, mini_slurm
from runs import until

from wanwrap.launch.slurm import render
from wanwrap.run import record as records

sys.path.insert(0, str(ROOT / "scripts"))
from torture import Bench
from torture_checks import check, kept_epochs
from torture_run import Run

pytestmark = [pytest.mark.upstream, pytest.mark.slurm, pytest.mark.slow, linux, mini_slurm]
PYTHON = os.environ.get("WANWRAP_PYTHON", sys.executable)
EPOCHS = 200  # of 2 steps for each expert: longer than the shortest limit, 2 minutes, at 7 steps a second
MINUTE = 60  # seconds
# the Python of a wanwrap that trains toys as `wanwrap run` trains; there is nothing to set up
TRAINS = """#!/bin/bash
[ "$3" = setup ] && exit
export PYTHONPATH={root} OMP_NUM_THREADS=1 XDG_CACHE_HOME={home}
exec {python} {child} {case}
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with cluster(tmp_path_factory.mktemp("slurm"), gpus=1) as env:
        yield env


@dataclass
class Night:
    """A run of both experts in jobs of Slurm's."""

    run: Run
    place: Path
    slurm: dict[str, str]

    @classmethod
    def made(cls, tmp_path: Path, slurm: dict[str, str]) -> Night:
        args = Namespace(musubi_dir=Path(os.environ["WANWRAP_MUSUBI_DIR"]), python=PYTHON)
        case, plan = Bench(args, tmp_path).new("run", epochs=EPOCHS, save_every=2, state_steps=10)
        return cls(Run(case, plan, "run", [], signal.SIGTERM, threading.Event()), tmp_path / "launch", slurm)

    def submit(self, **env: str) -> Submitted:
        self.place.mkdir(exist_ok=True)
        words = {"root": ROOT, "python": sys.executable, "case": json.dumps(vars(self.run.case))}
        words |= {"child": ROOT / "scripts" / "torture_child.py", "home": f"{self.run.case.folder}/home"}
        python = self.place / "python"
        python.write_text(TRAINS.format(**{name: shlex.quote(str(word)) for name, word in words.items()}))
        python.chmod(0o755)
        return Submitted(render(job(), python=str(python), cwd=self.place), self.place, **self.slurm, **env)

    def saved(self) -> int:
        """The epoch that the first expert would go on from."""
        record = records.read(self.run.plan.folder / "high")
        return record.saved_epoch if record else 0

    def ended(self, job: Submitted, state: str, why: str) -> None:
        """The job is in that state; what its run has kept must not be trained again."""
        ends = len(self.run.floors) + 1
        until(lambda: (job.log().count("ended with 130"), job.state()) == (ends, state), 5 * MINUTE)
        self.run.killed(why, kept_epochs(self.run.plan))

    def done(self, job: Submitted) -> str:
        """It goes on to its end, with all files, steps and curves, and nothing is trained twice: the log."""
        until(lambda: job.state() == "COMPLETED", 15 * MINUTE)
        problems = [*self.run.problems, *check(self.run.plan, self.run.floors, None, PYTHON)]
        print(said := job.log())
        assert not problems, [*problems, said[-3000:]]
        return said


def test_the_limit(tmp_path: Path, slurm: dict[str, str]) -> None:
    """2 minutes, of which the job is told 30 seconds before or up to a minute earlier; then it waits 2 minutes."""
    night = Night.made(tmp_path, slurm)
    job = night.submit(SBATCH_TIMELIMIT="2", SBATCH_SIGNAL="B:USR1@30")
    night.ended(job, "PENDING", "the limit")
    assert job.fields()["Restarts"] == "1"
    assert "requeued 1 times" in (said := night.done(job)) and "going on from" in said


def test_preempted_and_cancelled(tmp_path: Path, slurm: dict[str, str]) -> None:
    """By others who want its GPU, then by the user, who submits it again."""
    night = Night.made(tmp_path, slurm)
    job = night.submit()
    until(lambda: night.saved() > 0, 5 * MINUTE)
    job.call("scontrol", "requeue", job.id)
    night.ended(job, "PENDING", "preempted")
    before = night.saved()
    until(job.goes_on, 5 * MINUTE)
    until(lambda: night.saved() > before, 5 * MINUTE)
    job.later("stop")
    night.ended(job, "CANCELLED", "scancel")
    assert night.done(night.submit()).count("going on from") >= 2
