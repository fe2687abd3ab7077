"""The verb that looks at this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from wanwrap.cli.options import NOISE_LEVEL, PLACES, Verb, json_option, with_options
from wanwrap.cli.terminal import indented, show_result
from wanwrap.machine import doctor as work
from wanwrap.machine.doctor import Line
from wanwrap.machine.request import SetupRequest, read
from wanwrap.preset import DEFAULT, shipped


@click.command(cls=Verb, epilog="Example: wanwrap doctor t2v-vanilla")
@click.argument("presets", nargs=-1)
@NOISE_LEVEL
@with_options(PLACES)
@json_option("As a JSON list.")
@click.pass_context
def doctor(ctx: click.Context, /, presets: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Look at all that training PRESETS needs (default: those that were set up), and say what to do.

    The exit code is 0 where all is fine, else that of the first thing that a run would stop at.
    """
    request = read(presets, **options, default=(DEFAULT,))
    lines = [*work.examine(request)]
    rows = [{**vars(line), "ok": not line.code} for line in lines]
    show_result(as_json, lambda: rows, map(indented, _told(lines, request)))
    ctx.exit(next((line.code for line in lines if line.code), 0))


def _told(lines: Sequence[Line], request: SetupRequest) -> Iterator[str]:
    width = max(len(line.name) for line in lines)
    for line in lines:
        yield f"{'TO DO ' if line.code else '  note' if line.note else '  fine'}  {line.name:<{width}}  {line.text}"
    names = [run.preset.name for run in request.runs]
    others = [name for name in shipped() if name not in names]
    yield f"Looked at {', '.join(names)}; name others to see theirs: {', '.join(others)}"
