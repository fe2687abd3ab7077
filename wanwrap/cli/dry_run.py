"""What `run --dry_run` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wanwrap.cli.terminal import show_json
from wanwrap.cli.words import heading, lacking, plan_json
from wanwrap.plan.plan import Plan
from wanwrap.plan.preflight import missing
from wanwrap.plan.script import Shell, native, script
from wanwrap.system import console

if TYPE_CHECKING:
    from wanwrap.run.comfyui import LoraFolder


def show_plan(plan: Plan, shell: Shell | None, as_json: bool, target: LoraFolder | None) -> None:
    """The plan on stdout; what is missing for it, and how `run` differs where it has begun, on stderr."""
    needed = missing(plan)
    if as_json:
        show_json({**plan_json(plan), "missing": needed})
    else:
        click.echo(script(plan, shell or native(), heading(plan)), nl=False)
    for note in plan.notes:
        console.say(f"note: {note}")
    if plan.folder.is_dir():
        from wanwrap.run.record import standing  # which most dry runs need not wait for

        for words in filter(None, map(standing, plan.trainings)):
            console.say(f"note: {words}; that is what `run` does, and this script begins anew.")
    if target:
        console.say(f"note: `run` then copies the LoRAs to {target.folder}; the script leaves that to you.")
    for line in lacking(needed):
        console.say(line)
