"""What keeps a run from being launched: nothing that is made, or being made, is written over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from wanwrap.errors import LaunchError, OutputError
from wanwrap.launch.job import Engine, Job
from wanwrap.launch.launched import all_of, read
from wanwrap.plan.plan import Plan
from wanwrap.run.folders import check_folder
from wanwrap.run.status import look


def check_engine(engine: Engine) -> None:
    """Raises LaunchError: the engine is not installed here, or knows no account."""
    if engine.program and not shutil.which(engine.program):
        raise LaunchError(f"there is no {engine.program} in PATH. {engine.install}")
    if complaint := engine.complaint(os.environ, Path.home()):
        raise LaunchError(complaint)


def check_first(engine: Engine, job: Job) -> None:
    """Raises LaunchError: the run was launched before. OutputError: it was made here."""
    if before := read(job.folder):
        raise LaunchError(
            f"{job.name} was launched at {before.started} by {before.engine}; `wanwrap status --launched` tells what it "
            "does, and --again starts it once more."
        )
    if not engine.shared_files and look(job.folder).experts:
        raise OutputError(
            f"{job.folder} holds a run that was made here, which `wanwrap fetch` would write over; give another "
            "--output_name."
        )


def check_volume(engine: Engine, volume: str, base_dir: Path) -> None:
    """Raises LaunchError: another run may be at work on the volume."""
    for folder, other in all_of(base_dir) if volume else ():
        done = {each.name for each in look(folder).experts if each.state == "done"}
        if (other.engine, other.volume) == (engine.word, volume) and not done.issuperset(other.experts):
            raise LaunchError(
                f"{other.name} was launched on the volume {volume}, and two runs at once would write the same files "
                f"there. If it has ended, `wanwrap fetch {other.name}`, or add --again; else take another --volume."
            )


def check_same(plan: Plan) -> None:
    """Raises OutputError: what was fetched of the run was trained otherwise, so that it could not go on there."""
    try:
        for train in plan.trainings:
            check_folder(plan, train)
    except OutputError as error:
        raise OutputError(f"{error} On another machine it can only go on: give another --output_name.") from error
