"""The verb that looks at runs from another terminal."""

from __future__ import annotations

import time
from pathlib import Path

import click

from wanwrap.cli.options import BASE_DIR, Verb, json_option, option
from wanwrap.cli.run_words import detail, going, line, run_json
from wanwrap.cli.terminal import hanging, indented, show_json
from wanwrap.cli.words import duration
from wanwrap.paths import absolute
from wanwrap.run.status import Run, find, look, runs
from wanwrap.system import console

OFTEN = 1  # seconds


@click.command(
    cls=Verb,
    epilog="Example: wanwrap status cats-t2v-vanilla --follow",
)
@click.argument("run", required=False)
@option("--follow", is_flag=True, help="Lines that are renewed until the run ends; Ctrl-C leaves it alone.")
@BASE_DIR
@json_option("As JSON: of RUN an object, of all runs a list.")
def status(run: str | None, follow: bool, base_dir: Path, as_json: bool) -> None:
    """Tell what a RUN is doing: the name of a folder in BASE_DIR/outputs, or a path to one (default: all runs).

    Reads what the run writes down, and changes nothing. Rehearsals are among them.
    """
    base = absolute(base_dir)
    if run is None and not follow:
        _list(runs(base), base, as_json)
        return
    one = find(run, base)
    one = follow_run(one) if follow else one
    if as_json:
        show_json(run_json(one))
    else:
        _show(one)


def _list(found: list[Run], base: Path, as_json: bool) -> None:
    """All runs; in full the one that goes on."""
    if as_json:
        show_json([run_json(run) for run in found])
        return
    if not found:
        click.echo(f"nothing has run yet in {base}")
    width = max((len(run.name) for run in found), default=0)
    for run in found:
        left = [f"{duration(run.seconds_left)} left"] if len(run.running) > 1 and run.seconds_left else []
        words = [*(["rehearsal"] if run.rehearsal else []), *map(line, run.experts), *left]
        click.echo(hanging(f"{run.name:<{width}}  ", "; ".join(words)))
    if len(running := [run for run in found if run.running]) == 1:
        click.echo("")
        _show(running[0])


def _show(run: Run) -> None:
    for text in detail(run):
        click.echo(
            text if text.strip().startswith(("curves", "again")) else indented(text)
        )  # commands are to be copied


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
