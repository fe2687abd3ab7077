"""The verb that prints a preset."""

from __future__ import annotations

import click

from wanwrap.cli.options import Verb, json_option, option
from wanwrap.cli.terminal import show_json
from wanwrap.cli.words import described, heading, plan_json
from wanwrap.plan.build import SAMPLE, build
from wanwrap.plan.request import read
from wanwrap.plan.script import native, script
from wanwrap.preset import path_of


@click.command(cls=Verb, epilog="Example: wanwrap show t2v-vanilla --source > mine.py, edit, wanwrap run ./mine.py")
@click.argument("preset")
@option("--source", is_flag=True, help="The preset's Python module, as a start for your own.")
@option("--script", "as_script", is_flag=True, help="The commands that it runs, on wanwrap's sample data set.")
@json_option()
def show(preset: str, source: bool, as_script: bool, as_json: bool) -> None:
    """Print a preset in full: what it is for, where its numbers come from, every option."""
    if source:
        click.echo(path_of(preset).read_text(encoding="utf-8"), nl=False)
        return
    plan = build(read(preset=preset, dataset=SAMPLE))
    if as_json:
        show_json(plan_json(plan))
    elif as_script:
        click.echo(script(plan, native(), heading(plan)), nl=False)
    else:
        click.echo("\n".join(described(plan)))
        click.echo(
            f"\nIts commands: wanwrap show {preset} --script; with your data: wanwrap run {preset} DATASET --dry_run"
        )
