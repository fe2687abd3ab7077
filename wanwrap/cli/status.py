"""The verb that looks at runs from another terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from wanwrap.cli.options import BASE_DIR, Verb, json_option, option
from wanwrap.cli.run_words import detail, going, line, moment, run_json, time_left
from wanwrap.cli.terminal import indented, show_result
from wanwrap.errors import LaunchError
from wanwrap.launch.launched import Launched, all_of
from wanwrap.launch.send import look_after
from wanwrap.run.status import Run, find, look, runs
from wanwrap.system import console

OFTEN = 1  # seconds


@click.command(cls=Verb, epilog="Example: wanwrap status cats-t2v-vanilla --follow")
@click.argument("run", required=False)
@option("--launched", is_flag=True, help="What was launched elsewhere, as the engines tell.")
@option("--follow", is_flag=True, help="Lines that are renewed until the run ends; Ctrl-C leaves it alone.")
@BASE_DIR
@json_option("As JSON: of RUN an object, of all runs a list.")
def status(run: str | None, launched: bool, follow: bool, base_dir: Path, as_json: bool) -> None:
    """Tell what a RUN is doing: the name of a folder in BASE_DIR/outputs, or a path to one (default: all runs).

    Reads what the run writes down, and changes nothing. Rehearsals are among them.
    """
    if launched:
        there = [(folder, each) for folder, each in all_of(base_dir) if run in (None, each.name)]
        if run and not there:
            raise LaunchError(
                f"no run {run} was launched from {base_dir}; `wanwrap status --launched` lists those that were."
            )
        what = "follow" if follow else "status"
        rows = [{**vars(each), "says": _says(folder, each, what)} for folder, each in there]
        lines = [_launched(each) for _, each in there] or [f"nothing was launched from {base_dir}"]
        show_result(as_json, lambda: rows, lines)
        return
    if run is None and not follow:
        found = runs(base_dir)
        none = f"nothing has run yet in {base_dir}"
        show_result(as_json, lambda: [run_json(each) for each in found], _listed(found) if found else [none])
        return
    one = find(run, base_dir)
    one = follow_run(one) if follow else one
    show_result(as_json, lambda: run_json(one), detail(one))


def _says(folder: Path, each: Launched, what: str) -> str:
    """What the engine tells of it; of one that it has forgotten, that it can't."""
    told, failed = look_after(folder, each, what)
    if failed and not told:
        console.say(f"{each.name}: {each.engine} tells nothing of it; it may have ended long ago ({failed[0]})")
    return told or "\n".join(failed)


def _launched(each: Launched) -> str:
    """`cats-t2v-vanilla: modal (ap-1), A100-80GB, launched 2026-11-22 17:00:00 (3 min ago), ends after 12 hours`."""
    ids = f" ({', '.join(each.ids)})" if each.ids else ""
    what = "launched" if each.later else "written"
    return (
        f"{each.name}: {each.engine}{ids}, {each.gpu}, {what} {moment(each.started)}, ends after {each.hours:g} hours"
    )


def _listed(found: Sequence[Run]) -> Iterator[str]:
    """A line each; the one that goes on in full."""
    width = max(len(run.name) for run in found)
    for run in found:
        words = [*(["rehearsal"] if run.rehearsal else []), *map(line, run.experts), *time_left(run)]
        yield indented(f"{run.name:<{width}}  {'; '.join(words)}")
    running = [run for run in found if run.running]
    if len(running) == 1:
        yield ""
        yield from detail(running[0])


def follow_run(run: Run, said: str = "goes on; the watching alone has ended") -> Run:
    """The run when it has ended; `said` is what it does where Ctrl-C ends the watching."""
    try:
        while run.running:
            console.show([f"{run.name}:", *(f"  {text}" for text in going(run))])
            time.sleep(OFTEN)
            run = look(run.folder)
    except KeyboardInterrupt:
        console.say(f"{run.name} {said}")
        raise
    finally:
        console.show([])
    return run
