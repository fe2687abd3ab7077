"""The verb that makes this machine ready."""

from __future__ import annotations

import sys
from typing import Any

import click

from wanwrap.cli import setup_report as report
from wanwrap.cli.options import (
    NOISE_LEVEL,
    PACKAGE,
    PATH,
    PLACES,
    WEIGHTS,
    Verb,
    environment,
    json_option,
    option,
    with_options,
)
from wanwrap.cli.terminal import show_json, show_result
from wanwrap.machine import setup as work
from wanwrap.machine.request import read
from wanwrap.machine.survey import survey
from wanwrap.preset import DEFAULT
from wanwrap.system import console

TORCH = click.Choice(["cu124", "cu128", "cu130", "cpu"])


@click.command(
    cls=Verb,
    epilog="Example: wanwrap setup t2v-vanilla --noise_level low --comfyui_dir ~/ComfyUI --dry_run",
)
@click.argument("presets", nargs=-1)
@option("--comfyui_dir", type=PATH, multiple=True, help="A ComfyUI to use weights of, where they lie; may be repeated.")
@NOISE_LEVEL
@option(
    "--include_i2v", is_flag=True, help="The weights of i2v-vanilla too; with t2v-lightning those of i2v-lightning."
)
@option("--dry_run", is_flag=True, help="Only show what is needed, what was found and what would be done.")
@option("--list", "only_list", is_flag=True, help="Only list the files with repository, size and sha256.")
@option("--weights_only", is_flag=True, help="Leave musubi-tuner and packages alone.")
@with_options([*WEIGHTS, *PLACES])
@environment("--torch", type=TORCH, help="Build of PyTorch (default: the newest that the driver runs).")
@PACKAGE
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
    """Make this machine ready to train PRESETS (default: t2v-vanilla).

    Weights are looked for in the workspace, in ComfyUI (--comfyui_dir) and in the Hugging Face cache, and used
    where they lie: nothing in those folders is changed. The rest is downloaded, resumed if it broke off, and
    verified by its sha256. The same command goes on from where it was stopped.
    """
    names = presets or (DEFAULT,)
    i2v = "i2v-lightning" if "t2v-lightning" in names else "i2v-vanilla"
    request = read((*names, i2v) if include_i2v else names, **options)
    if only_list:
        show_result(as_json, lambda: report.listed_json(request), report.listed(request))
        return
    ask = None if as_json or dry_run else _ask
    found = survey(request, torch=torch, weights_only=weights_only, dry_run=dry_run, ask=ask)
    if dry_run or not as_json:
        show_result(as_json, lambda: report.as_json(found), report.surveyed(found))
    work.check(found)
    if not dry_run:
        _carry_out(found, as_json)


def _ask(question: str) -> bool:
    """Ask on a terminal; where there is none the answer is no."""
    return sys.stdin.isatty() and sys.stderr.isatty() and click.confirm(question, err=True)


def _carry_out(found: work.Setup, as_json: bool) -> None:
    """All that is left to do; with `as_json` the state comes out however it ends."""
    with work.alone(found.request):
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
