"""The verb that looks at runs from another terminal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wanwrap.cli.options import BASE_DIR, Verb, json_option, option
from wanwrap.cli.terminal import hanging, indented, show_json
from wanwrap.system import console

if TYPE_CHECKING:
    from wanwrap.run.status import Run

OFTEN = 1  # seconds


@click.command(
    cls=Verb,
    short_help="What runs, how far it is, how long it will take.",
    epilog="Example: wanwrap status cats-t2v-vanilla --follow",
)
@click.argument("run", required=False)
@option("--follow", is_flag=True, help="A line that is renewed until the run ends; Ctrl-C leaves it alone.")
@BASE_DIR
@json_option("As JSON: of RUN an object, of all runs a list.")
def status(run: str | None, follow: bool, base_dir: Path, as_json: bool) -> None:
    """Tell what a RUN is doing: the name of a folder in BASE_DIR/outputs, or a path to one (default: all runs).

    Reads what the run writes down, and changes nothing. Rehearsals are among them.
    """
    from wanwrap.cli.words import run_json
    from wanwrap.paths import absolute
    from wanwrap.run.status import runs

    base = absolute(base_dir)
    if run is None and not follow:
        _list(runs(base), base, as_json)
        return
    one = wanted(run, base)
    one = follow_run(one) if follow else one
    if as_json:
        show_json(run_json(one))
    else:
        _show(one)


def wanted(name: str | None, base: Path) -> Run:
    """The run of that name, or the one that goes on. Raises OutputError: there is none, or several."""
    from wanwrap.run.status import find, the_one

    return the_one(base) if name is None else find(name, base)


def _list(found: list[Run], base: Path, as_json: bool) -> None:
    """All runs; in full the one that goes on."""
    from wanwrap.cli.words import line, run_json

    if as_json:
        show_json([run_json(run) for run in found])
        return
    if not found:
        click.echo(f"nothing has run yet in {base}")
    width = max((len(run.name) for run in found), default=0)
    for run in found:
        click.echo(hanging(f"{run.name:<{width}}  ", line(run)))
    if len(going := [run for run in found if run.running]) == 1:
        click.echo("")
        _show(going[0])


def _show(run: Run) -> None:
    from wanwrap.cli.words import detail

    for text in detail(run):
        click.echo(
            text if text.strip().startswith(("curves", "again")) else indented(text)
        )  # commands are to be copied


def follow_run(run: Run, said: str = "goes on; the watching alone has ended") -> Run:
    """The run when it has ended; `said` is what it does where Ctrl-C ends the watching."""
    from wanwrap.cli.words import brief
    from wanwrap.run.status import look

    try:
        while run.running:
            console.show([f"{run.name}: {brief(run)}"])
            time.sleep(OFTEN)
            run = look(run.folder)
    except KeyboardInterrupt:
        console.say(f"{run.name} {said}")
        raise
    finally:
        console.show([])
    return run
