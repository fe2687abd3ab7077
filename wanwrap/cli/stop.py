"""The verb that ends a run from another terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from wanwrap.cli.options import BASE_DIR, NOISE_LEVEL, Verb, json_option, option
from wanwrap.cli.run_words import line, run_json, state, stopping
from wanwrap.cli.status import follow_run
from wanwrap.cli.terminal import show_result
from wanwrap.errors import OutputError
from wanwrap.launch.launched import FILE
from wanwrap.run import status as work
from wanwrap.run.status import find


@click.command(cls=Verb, epilog="Example: wanwrap stop cats-t2v-vanilla --wait && shutdown now")
@click.argument("run", required=False)
@option("--now", is_flag=True, help="At once: what came after the last whole state is trained again later.")
@option("--wait", is_flag=True, help="Come back when it has ended.")
@NOISE_LEVEL
@BASE_DIR
@json_option("The run as `status` has it, and what will happen, as JSON.")
def stop(run: str | None, now: bool, wait: bool, noise_level: str | None, base_dir: Path, as_json: bool) -> None:
    """Ask a RUN to end (default: the one that goes on) when the state of an epoch is saved next.

    It tells which epoch that is. The same `wanwrap run` command goes on from there. The exit code is 11 where nothing runs.
    """
    asked = find(run, base_dir)
    if asked.elsewhere:
        raise OutputError(
            f"{asked.name} was launched elsewhere, and fetched from there; {asked.folder / FILE} has the commands that end it."
        )
    mine = [each for each in asked.experts if noise_level in (None, "both", each.name)]
    if not mine:
        raise OutputError(f"{asked.name} trains no expert of {noise_level} noise.")
    if wait and any(each.live and each.running is None for each in mine):
        raise OutputError(f"the drive of {asked.folder} has no locks, so that nobody sees it end; leave out --wait.")
    try:
        work.stop(mine, now=now)
    except OutputError as error:
        raise OutputError(f"{asked.name} is not running: {'; '.join(map(line, mine))}.") from error
    words = [f"{asked.name}: {stopping(each, now=now)}" for each in mine if each.live]
    if wait and not as_json:
        click.echo("\n".join(words))
    ended = work.look(asked.folder)
    if wait:
        names = [each.name for each in mine]
        watched = replace(ended, experts=tuple(each for each in ended.experts if each.name in names))
        ended = follow_run(watched, "has been asked to stop, and will; the watching alone has ended")
    states = [f"{ended.name}: {each.name} {state(each)}" for each in ended.experts]
    show_result(as_json, lambda: {**run_json(ended), "what": words}, states if wait else words)
