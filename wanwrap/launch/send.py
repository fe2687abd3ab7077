"""What an engine is given, carried out: its files written, its commands run one after the other, and what began put down."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType

from wanwrap.errors import LaunchError
from wanwrap.launch.job import Job, Rendered
from wanwrap.launch.launched import FOLDER, Launched
from wanwrap.plan.script import command
from wanwrap.system import console
from wanwrap.system.files import remove_tree, write_atomic
from wanwrap.system.process import Command, run
from wanwrap.system.shell import joined, native


def check(engine: ModuleType) -> None:
    """Raises LaunchError: the engine is not installed here, or knows no account."""
    if engine.PROGRAM and not shutil.which(engine.PROGRAM):
        raise LaunchError(f"there is no {engine.PROGRAM} in PATH. {engine.INSTALL}")
    told = engine.complaint(os.environ, Path.home()) if hasattr(engine, "complaint") else None
    if told:
        raise LaunchError(told)


def write(job: Job, rendered: Rendered) -> Path:
    """The files in the run's folder; where."""
    place = job.folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    for name, text in rendered.files.items():
        write_atomic(place / name, text)
    return place


def script(job: Job, rendered: Rendered) -> Iterator[str]:
    """The files, and the commands that would be run in their folder."""
    for name, text in rendered.files.items():
        yield from (f"# ---- {job.folder / FOLDER / name}", text.rstrip(), "")
    yield "# ---- commands"
    yield f"cd {joined([str(job.folder / FOLDER)])}"
    yield from (command(words, native()) for words in (*rendered.before, *rendered.start))
    for what, several in rendered.later.items():
        yield from (f"# {what}: {joined(words)}" for words in several)


def send(engine: str, job: Job, rendered: Rendered) -> Launched:
    """Upload and start. Raises LaunchError: a command failed; OSError: a file can't be written."""
    place = write(job, rendered)
    for words in rendered.before:
        _carry_out(words, place)
    ids, launched = list[str](), _launched(engine, job, rendered, [], place)
    for words in rendered.start:
        launched.write(job.folder)  # before: what fails may have rented a machine all the same
        try:
            ids += filter(None, [_id(rendered.id_pattern, _carry_out(words, place))])
        except (LaunchError, KeyboardInterrupt):
            stops = [joined(each) for each in launched.later.get("stop", [])]
            console.say(
                "It may have begun all the same, and cost: look there.", *(f"To end it: {stop}" for stop in stops)
            )
            raise
        launched = _launched(engine, job, rendered, ids, place)
        launched.write(job.folder)
    return launched


def _launched(engine: str, job: Job, rendered: Rendered, ids: list[str], place: Path) -> Launched:
    return Launched(
        engine=engine,
        name=job.name,
        ids=ids,
        experts=["high", "low"] if job.experts == ("both",) else [*job.experts],
        later={what: [[*words] for words in with_ids(several, ids)] for what, several in rendered.later.items()},
        cwd=str(place),
        results=str(rendered.results) if rendered.results else None,
        gpu=job.gpu,
        gpus=job.gpus * len(job.runs),
        hours=job.hours,
        price=job.price,
        volume=rendered.volume,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def with_ids(several: Sequence[Sequence[str]], ids: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Commands with the ids of what was started in the place of {id}: once for each where they name one."""
    for words in several:
        named = any("{id}" in word for word in words)
        for each in ids if named else [""]:
            yield tuple(word.replace("{id}", each) for word in words)


def _id(pattern: str, answer: str) -> str:
    """Raises LaunchError: it was started, and nobody knows as what."""
    if not pattern:
        return ""
    if found := re.search(pattern, answer):
        return found[1]
    raise LaunchError(f"it was started, but its answer names no id that wanwrap knows; look there yourself:\n{answer}")


def _carry_out(words: Sequence[str], place: Path) -> str:
    """Run one command, which is shown; what it prints, which goes to the screen too. Raises LaunchError: it failed."""
    console.say(f"+ {joined(words)}")
    printed = bytearray()

    def listen(chunk: bytes) -> None:
        printed.extend(chunk)
        console.write(chunk)

    status = run(Command(words, place), listen)
    if status:
        raise LaunchError(f"{words[0]} ended with {status}; what it says stands above.")
    return printed.decode("utf-8", "replace")


def look_after(launched: Launched, what: str) -> str:
    """Run what looks after a job (status, follow, fetch, stop): what its commands printed.

    Raises:
        LaunchError: one failed.
    """
    return "".join(_carry_out(words, Path(launched.cwd)) for words in launched.later.get(what, ()))


def fetch(folder: Path, launched: Launched) -> None:
    """Bring the run's folder home. Raises LaunchError: there is no way, or it failed; what was fetched before stays."""
    if "fetch" not in launched.later:
        if launched.engine == "slurm":
            return  # it is here
        raise LaunchError(f"{launched.engine} fetches nothing by itself; {folder / FOLDER} says what to do.")
    look_after(launched, "fetch")
    if launched.results and (results := Path(launched.results)).is_dir():
        shutil.copytree(results, folder, dirs_exist_ok=True)
        remove_tree(results)
