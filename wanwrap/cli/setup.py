"""The verb that makes this machine ready."""

from __future__ import annotations

import sys
from typing import Any

import click

from wanwrap.cli import setup_report as report
from wanwrap.cli.options import (
    BASE_DIR,
    MUSUBI_DIR,
    NOISE_LEVEL,
    PATH,
    PYTHON,
    WEIGHTS,
    Verb,
    json_option,
    option,
    with_options,
)
from wanwrap.cli.terminal import indented, show_json
from wanwrap.machine import setup as work
from wanwrap.machine.survey import survey
from wanwrap.machine.wish import wish as asked_for
from wanwrap.system import console

DEFAULT = ("t2v-lightning",)
INCLUDED = ("i2v-lightning",)  # what --include_i2v adds


@click.command(
    cls=Verb,
    epilog="Example: wanwrap setup t2v-vanilla --noise_level low --comfyui_dir ~/ComfyUI --dry_run",
)
@click.argument("presets", nargs=-1)
@option(
    "--comfyui_dir", type=PATH, multiple=True, help="A ComfyUI whose weights are used where they lie; may be repeated."
)
@NOISE_LEVEL
@option("--include_i2v", is_flag=True, help="i2v-lightning's weights too.")
@option("--dry_run", is_flag=True, help="Only show what is needed, what was found and what would be done.")
@option("--list", "only_list", is_flag=True, help="Only list the files with repository, size and sha256.")
@option("--weights_only", is_flag=True, help="Leave musubi-tuner and packages alone.")
@with_options(WEIGHTS)
@BASE_DIR
@PYTHON
@MUSUBI_DIR
@option(
    "--torch",
    type=click.Choice(["cu124", "cu128", "cu130", "cpu"]),
    help="Build of PyTorch (default: the newest that the driver runs).",
    group="Environment",
)
@json_option()
def setup(
    presets: tuple[str, ...],
    include_i2v: bool,
    torch: str | None,
    weights_only: bool,
    only_list: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make this machine ready to train PRESETS (default: t2v-lightning).

    Weights are looked for in the workspace, in ComfyUI (--comfyui_dir) and in the Hugging Face cache, and used
    where they lie: nothing in those folders is changed. The rest is downloaded, resumed if it broke off, and
    verified by its sha256. The same command goes on from where it was stopped.
    """
    names = (*(presets or DEFAULT), *(INCLUDED if include_i2v else ()))
    wish = asked_for(tuple(dict.fromkeys(names)), **options)
    if only_list:
        if as_json:
            show_json(report.listed_json(wish))
        else:
            click.echo("\n".join(report.listed(wish)))
        return
    ask = None if as_json or dry_run else _ask
    found = survey(wish, torch=torch, weights_only=weights_only, dry_run=dry_run, ask=ask)
    if not as_json or not dry_run:
        for line in report.surveyed(found):
            click.echo(indented(line), err=as_json)
        for line in report.training(found):  # commands, to be copied as they stand
            click.echo(line, err=as_json)
    if dry_run and as_json:
        show_json(report.as_json(found))
    work.check(found)
    if not dry_run:
        _carry_out(found, as_json)


def _ask(question: str) -> bool:
    """Ask on a terminal; where there is none the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm(question, err=True)


def _carry_out(found: work.Setup, as_json: bool) -> None:
    """All that is left to do; with `as_json` the state comes out however it ends."""
    with work.alone(found.wish):
        try:
            work.install(found)
            work.fetch_all(found)
        except KeyboardInterrupt:
            console.say("\nwhat has come is kept; the same command goes on from here")
            raise
        finally:
            if as_json:
                show_json(report.as_json(found))
    if not as_json:
        click.echo("\n".join(report.ready(found)))
