"""The verb that lists the presets."""

from __future__ import annotations

import click

from wanwrap.cli.options import Verb, json_option
from wanwrap.cli.terminal import show_json
from wanwrap.preset import load, shipped


@click.command(cls=Verb, epilog="Example: wanwrap presets")
@json_option("As a JSON list.")
def presets(as_json: bool) -> None:
    """List the presets."""
    found = [load(name) for name in shipped()]
    if as_json:
        show_json([{"name": p.name, "task": p.task, "summary": p.summary} for p in found])
        return
    width = max(len(preset.name) for preset in found)
    for preset in found:
        click.echo(f"{preset.name:<{width}}  {preset.summary}")
