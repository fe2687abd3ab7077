"""The verb that lists the presets."""

from __future__ import annotations

import click

from wanwrap.cli.options import Verb, json_option
from wanwrap.cli.terminal import show_result
from wanwrap.preset import load, shipped


@click.command(cls=Verb, epilog="Example: wanwrap presets")
@json_option("As a JSON list.")
def presets(as_json: bool) -> None:
    """List the presets."""
    found = [load(name) for name in shipped()]
    rows = [{"name": preset.name, "task": preset.task, "summary": preset.summary} for preset in found]
    width = max(len(preset.name) for preset in found)
    show_result(as_json, lambda: rows, (f"{preset.name:<{width}}  {preset.summary}" for preset in found))
