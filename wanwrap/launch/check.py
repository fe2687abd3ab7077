"""What keeps a run from being launched: nothing that is made, or being made, is written over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from wanwrap.errors import LaunchError, OutputError
from wanwrap.launch.job import Engine, Job, Rendered
from wanwrap.launch.launched import FILE, Launched, all_of, read
from wanwrap.plan.plan import Plan
from wanwrap.run.folders import check_folder
from wanwrap.run.status import Run, look


def check_engine(engine: Engine) -> None:
    """Raises LaunchError: the engine is not installed here, or knows no account."""
    if engine.program and not shutil.which(engine.program):
        raise LaunchError(f"there is no {engine.program} in PATH. {engine.install}")
    if complaint := engine.complaint(os.environ, Path.home()):
        raise LaunchError(complaint)


def check_first(engine: Engine, job: Job) -> None:
    """Raises LaunchError: the run was launched before. OutputError: it was made here."""
    before = read(job.folder)
    if before and before.later:
        raise LaunchError(
            f"{job.name} was launched before, by {before.engine}; `wanwrap status {job.name} --launched` tells what it does, "
            "and --again starts it once more."
        )
    if not before and not engine.shared_files and look(job.folder).experts:
        raise OutputError(
            f"{job.folder} holds a run that was made here, which `wanwrap fetch` would write over; give another "
            "--output_name."
        )


def check_volume(engine: Engine, job: Job, volume: str, base_dir: Path) -> None:
    """Raises LaunchError: another run may be at work on the volume."""
    for folder, other in all_of(base_dir) if volume else ():
        mine = (other.engine, other.volume) == (engine.word, volume) and other.name != job.name
        if mine and not _ended(look(folder), other):
            raise LaunchError(
                f"{other.name} was launched on the volume {volume}, and two runs at once would write the same files there: "
                f"take another --volume. If it has ended, `wanwrap fetch {other.name}` first; where nothing can be fetched, "
                f"delete {folder / FILE}."
            )


def _ended(run: Run, launched: Launched) -> bool:
    """Whether all was done, or one has failed or been ended, by what was fetched."""
    states = {each.name: each.state for each in run.experts}
    ended = {"failed", "interrupted", "stopped"} & {*states.values()}
    return bool(ended) or all(states.get(name) == "done" for name in launched.experts)


def check_again(engine: Engine, job: Job, rendered: Rendered, plan: Plan) -> None:
    """Raises LaunchError: what was launched before would be forgotten. OutputError: it was trained otherwise, so that it can't
    go on.
    """
    before, fetch = read(job.folder), [[*words] for words in rendered.later.get("fetch", ())]
    if before and before.later and (before.engine, before.later.get("fetch", [])) != (engine.word, fetch):
        raise LaunchError(
            f"{job.name} was launched by {before.engine}, on other machines or another volume than this would be; give "
            "another --output_name."
        )
    try:
        for train in plan.trainings:
            check_folder(plan, train)
    except OutputError as error:
        raise OutputError(f"{error} On another machine it can only go on: give another --output_name.") from error
