"""The verbs that look at runs from another terminal, and stop them: status, stop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wanwrap.cli.options import BASE_DIR
from wanwrap.cli.terminal import hanging, indented, renewed, say, show_json

if TYPE_CHECKING:
    from wanwrap.run.status import Run

OFTEN = 2  # seconds, as the run itself looks
RUN = click.argument("run", required=False)


@click.command(
    short_help="What runs, how far it is, how long it will take.",
    epilog="Example: wanwrap status cats-t2v-vanilla --follow",
)
@RUN
@BASE_DIR
@click.option("--follow", is_flag=True, help="A line that is renewed until the run ends; Ctrl-C leaves it alone.")
@click.option("--json", "as_json", is_flag=True, help="As JSON: of RUN an object, of all runs a list.")
def status(run: str | None, base_dir: Path, follow: bool, as_json: bool) -> None:
    """Tell what a RUN is doing: the name of a folder in BASE_DIR/outputs, or a path to one (default: all runs).

    Reads what the run writes down, and changes nothing.
    """
    from wanwrap.cli import status_report as report
    from wanwrap.run.status import runs

    outputs = _outputs(base_dir)
    if run is None and not follow:
        _list(runs(outputs), outputs, as_json)
        return
    one = _wanted(run, outputs)
    if follow:
        one = _followed(one)
    if as_json:
        show_json(report.as_json(one))
    else:
        _show(one)


def _outputs(base_dir: Path) -> Path:
    from wanwrap.paths import absolute

    return absolute(base_dir) / "outputs"


def _wanted(run: str | None, outputs: Path) -> Run:
    from wanwrap.run.status import find, look, the_one

    return look(find(run, outputs)) if run is not None else the_one(outputs)


def _list(found: list[Run], outputs: Path, as_json: bool) -> None:
    """All runs; in full the one that goes on."""
    from wanwrap.cli import status_report as report

    if as_json:
        show_json([report.as_json(run) for run in found])
        return
    if not found:
        click.echo(f"nothing has run yet in {outputs}")
    width = max((len(run.name) for run in found), default=0)
    for run in found:
        click.echo(hanging(f"{run.name:<{width}}  ", report.line(run)))
    if len(going := [run for run in found if run.running]) == 1:
        click.echo("")
        _show(going[0])


def _show(run: Run) -> None:
    from wanwrap.cli.status_report import detail

    for line in detail(run):
        click.echo(line if "tensorboard" in line else indented(line))  # a command is to be copied as it stands


def _followed(run: Run) -> Run:
    """The run when it has ended."""
    from wanwrap.cli.status_report import brief
    from wanwrap.run.status import look

    try:
        with renewed() as show:
            while run.running:
                show(f"{run.name}: {brief(run)}")
                time.sleep(OFTEN)
                run = look(run.folder)
    except KeyboardInterrupt:
        say(f"{run.name} goes on; the watching alone has ended")
        raise
    return run


@click.command(
    short_help="End a run at its next state, with all of it saved.",
    epilog="Example: wanwrap stop cats-t2v-vanilla --wait && shutdown now",
)
@RUN
@BASE_DIR
@click.option("--now", is_flag=True, help="At once: what came after the last whole state is trained again later.")
@click.option("--wait", is_flag=True, help="Come back when it has ended.")
@click.option("--json", "as_json", is_flag=True, help="The run as `status` has it, and what will happen, as JSON.")
def stop(run: str | None, base_dir: Path, now: bool, wait: bool, as_json: bool) -> None:
    """Ask a RUN to end (default: the one that goes on) when the state of an epoch is saved next.

    It tells which epoch that is. The same `wanwrap run` command goes on from there. The exit code is 11 where nothing runs.
    """
    from wanwrap.cli import status_report as report
    from wanwrap.run import status as work

    asked = _wanted(run, _outputs(base_dir))
    work.stop(asked, now=now)
    words = report.stopping(asked, now=now)
    if not as_json:
        click.echo(words)
    ended = _followed(work.look(asked.folder)) if wait else work.look(asked.folder)
    if as_json:
        show_json({**report.as_json(ended), "asked": report.asked(asked, now=now), "what": words})
    elif wait:
        click.echo(f"{ended.name} {ended.words()}")


VERBS = (status, stop)
