"""The verb that makes this machine ready."""

from __future__ import annotations

import sys
from typing import Any

import click

from wanwrap.cli import setup_report as report
from wanwrap.cli.options import NOISE_LEVEL, PATH, PLACES, WEIGHTS, Verb, environment, json_option, option, with_options
from wanwrap.cli.terminal import show_json, show_result
from wanwrap.errors import GpuError, PackageError, UpstreamError
from wanwrap.machine import setup as work
from wanwrap.machine.install import Trainer, install_all
from wanwrap.machine.install import trainer as trainer_of
from wanwrap.machine.setup import Survey
from wanwrap.machine.wish import wish as asked_for
from wanwrap.system import console
from wanwrap.weights import marks

DEFAULT = ("t2v-lightning",)
INCLUDED = ("i2v-lightning",)  # what --include_i2v adds
TORCH = click.Choice(["cu124", "cu128", "cu130", "cpu"])


@click.command(
    cls=Verb,
    epilog="Example: wanwrap setup t2v-vanilla --noise_level low --comfyui_dir ~/ComfyUI --dry_run",
)
@click.argument("presets", nargs=-1)
@option("--comfyui_dir", type=PATH, multiple=True, help="A ComfyUI to use weights of, where they lie; may be repeated.")
@NOISE_LEVEL
@option("--include_i2v", is_flag=True, help="i2v-lightning's weights too.")
@option("--dry_run", is_flag=True, help="Only show what is needed, what was found and what would be done.")
@option("--list", "only_list", is_flag=True, help="Only list the files with repository, size and sha256.")
@option("--weights_only", is_flag=True, help="Leave musubi-tuner and packages alone.")
@with_options([*WEIGHTS, *PLACES])
@environment("--torch", type=TORCH, help="Build of PyTorch (default: the newest that the driver runs).")
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
        show_result(as_json, report.listed_json(wish), report.listed(wish))
        return
    trainer = None if weights_only else trainer_of(wish, torch)
    if trainer and trainer.problem and not dry_run:
        raise trainer.problem  # before minutes of hashing
    # a dry run computes no sha256 of 28 GB files; what it says of them is by their names then
    sha256 = marks.quick if dry_run else marks.thorough
    found = work.survey(wish, sha256, None if as_json or dry_run else _ask)
    if dry_run or not as_json:
        show_result(as_json, report.as_json(found, trainer), report.surveyed(found, trainer))
    work.check(found)
    if not dry_run:
        _carry_out(found, trainer, as_json)


def _ask(question: str) -> bool:
    """Ask on a terminal; where there is none the answer is no."""
    return sys.stdin.isatty() and sys.stderr.isatty() and click.confirm(question, err=True)


def _carry_out(found: Survey, trainer: Trainer | None, as_json: bool) -> None:
    """All that is left to do; with `as_json` the state comes out however it ends."""
    with work.alone(found.wish):
        progress = work.Progress(found.wish)
        try:
            if trainer:
                progress.upstream = install_all(found.wish, trainer)
                progress.write()
                console.say(*progress.upstream.remarks())
            work.fetch_all(found, progress)
        except KeyboardInterrupt:
            console.say("\nwhat has come is kept; the same command goes on from here")
            raise
        except (UpstreamError, PackageError, GpuError) as error:
            progress.failed.setdefault("musubi-tuner", error)
            raise
        finally:
            if as_json:
                show_json(report.as_json(found, trainer, progress))
    if not as_json:
        click.echo("\n".join(report.ready(found, trainer)))
