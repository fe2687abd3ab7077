"""What an engine is given, carried out: its files written, its commands run one after the other, and what began put down."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from wanwrap.errors import LaunchError, OutputError
from wanwrap.launch.engines import ENGINES
from wanwrap.launch.job import Engine, Job, Rendered
from wanwrap.launch.launched import FOLDER, Launched, read
from wanwrap.plan.script import command
from wanwrap.run.status import FETCHED, look
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


def send(engine: Engine, job: Job, rendered: Rendered) -> Launched:
    """Upload and start. What was started before stays on record. Raises LaunchError: a command failed; OSError: a file
    can't be written.
    """
    place, before, ids = write(job, rendered), read(job.folder), list[str]()
    for words in rendered.before:
        _carry_out(words, place)

    def put_down() -> Launched:
        launched = _launched(engine.word, job, rendered, [*ids, *(before.ids if before else ())])
        launched.write(job.folder)
        return launched

    launched = None if engine.shared_files else put_down()  # what fails may have rented a machine all the same
    for words in rendered.start:
        try:
            ids += filter(None, [_id(rendered.id_pattern, _carry_out(words, place))])
        except (LaunchError, KeyboardInterrupt):
            if not engine.shared_files:
                _warn(rendered)
            raise
        launched = put_down()
    return launched or put_down()


def _warn(rendered: Rendered) -> None:
    """Of what may cost."""
    stops = [joined(words) for words in rendered.later.get("stop", ()) if not any("{id}" in word for word in words)]
    console.say(
        "It may have begun all the same, and cost: look there with the engine's own program.",
        *(f"To end it: {stop}" for stop in stops),
    )


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


def look_after(folder: Path, launched: Launched, what: str) -> tuple[str, list[str]]:
    """Run what looks after a job (status, follow, fetch, stop): what its commands printed, and which of them failed."""
    printed, failed = "", list[str]()
    for words in launched.later.get(what, ()):
        try:
            printed += _carry_out(words, folder / FOLDER)
        except LaunchError as error:
            failed.append(str(error))
    return printed, failed


def fetch(folder: Path, launched: Launched) -> None:
    """Bring the run's folder home.

    Raises:
        LaunchError: there is no way, or a part failed; what has come stays.
        OutputError: a run of this machine would be written over.
    """
    if ENGINES[launched.engine].shared_files:
        return  # it is here
    if "fetch" not in launched.later:
        scripts = ", ".join(path.name for path in sorted((folder / FOLDER).glob("start*.sh")))
        raise LaunchError(
            f"nothing is fetched from a machine of your own; the top of {scripts} in {folder / FOLDER} says how."
        )
    if not (folder / FETCHED).is_file() and look(folder).experts:
        raise OutputError(f"{folder} holds a run that was made, or gone on with, here; move it away, then fetch.")
    (folder / FETCHED).touch()
    _, failed = look_after(folder, launched, "fetch")
    if launched.results and (results := folder / FOLDER / launched.results).is_dir():
        shutil.copytree(results, folder, dirs_exist_ok=True)
        remove_tree(results)
    if failed:
        raise LaunchError("\n".join(failed))
