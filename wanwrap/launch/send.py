"""What an engine is given, carried out: its files written, its commands run one after the other, and what began put down."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from wanwrap.errors import LaunchError
from wanwrap.launch.engines import ENGINES
from wanwrap.launch.job import Job, Rendered
from wanwrap.launch.launched import FOLDER, Launched, read
from wanwrap.plan.script import command
from wanwrap.run.status import FETCHED
from wanwrap.system import console
from wanwrap.system.files import remove_tree, write_atomic
from wanwrap.system.process import Command, run
from wanwrap.system.shell import joined, native


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
    if not rendered.start:
        return
    yield "# ---- commands"
    yield f"cd {joined([str(job.folder / FOLDER)])}"
    yield from (command(words, native()) for words in (*rendered.before, *rendered.start))
    for what, several in rendered.later.items():
        yield from (f"# {what}: {joined(words)}" for words in several)


def send(engine: str, job: Job, rendered: Rendered) -> Launched:
    """Upload and start. What was started before stays on record. Raises LaunchError: a command failed; OSError: a file
    can't be written.
    """
    place, before = write(job, rendered), read(job.folder)
    for words in rendered.before:
        _carry_out(words, place)
    ids = [*before.ids] if before and before.engine == engine else []
    launched = _launched(engine, job, rendered, ids)
    launched.write(job.folder)
    for words in rendered.start:
        try:  # it is on record already: what fails may have rented a machine all the same
            ids += filter(None, [_id(rendered.id_pattern, _carry_out(words, place))])
        except (LaunchError, KeyboardInterrupt):
            stops = [joined(each) for each in launched.later.get("stop", [])]
            console.say(
                "It may have begun all the same, and cost: look there.", *(f"To end it: {stop}" for stop in stops)
            )
            raise
        launched = _launched(engine, job, rendered, ids)
        launched.write(job.folder)
    return launched


def _launched(engine: str, job: Job, rendered: Rendered, ids: list[str]) -> Launched:
    return Launched(
        engine=engine,
        name=job.name,
        ids=ids,
        experts=["high", "low"] if job.experts == ("both",) else [*job.experts],
        later={what: [[*words] for words in with_ids(several, ids)] for what, several in rendered.later.items()},
        results=rendered.results,
        gpu=job.gpu,
        hours=job.hours,
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


def look_after(folder: Path, launched: Launched, what: str) -> str:
    """Run what looks after a job (status, follow, fetch, stop): what its commands printed.

    Raises:
        LaunchError: one failed; the others have been run.
    """
    printed, failed = "", list[str]()
    for words in launched.later.get(what, ()):
        try:
            printed += _carry_out(words, folder / FOLDER)
        except LaunchError as error:
            failed.append(str(error))
    if failed:
        raise LaunchError("\n".join(failed))
    return printed


def fetch(folder: Path, launched: Launched) -> None:
    """Bring the run's folder home. Raises LaunchError: there is no way, or a part failed; what has come stays."""
    if ENGINES[launched.engine].shared_files:
        return  # it is here
    if "fetch" not in launched.later:
        raise LaunchError(
            f"nothing is fetched from a machine of your own; the top of {folder / FOLDER}/start.sh says how."
        )
    try:
        look_after(folder, launched, "fetch")
    finally:
        (folder / FETCHED).touch()
        if launched.results and (results := folder / FOLDER / launched.results).is_dir():
            shutil.copytree(results, folder, dirs_exist_ok=True)
            remove_tree(results)
