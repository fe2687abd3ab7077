"""The verbs that look at this machine and make it ready: setup, doctor, inspect."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanwrap.cli.options import BASE_DIR, MUSUBI_DIR, NOISE_LEVEL, PATH, PYTHON, files
from wanwrap.cli.terminal import bars, counted, hanging, indented, say, screen, show_json

if TYPE_CHECKING:
    from wanwrap.machine.setup import Survey
    from wanwrap.machine.trainer import Trainer
    from wanwrap.machine.wish import Wish

DEFAULT = ("t2v-lightning",)
INCLUDED = ("i2v-lightning",)  # what --include_i2v adds


@click.command(
    short_help="Get musubi-tuner and the weights, or use those that are there.",
    epilog="Example: wanwrap setup t2v-vanilla --noise_level low --comfyui_dir ~/ComfyUI --dry_run",
)
@click.argument("presets", nargs=-1)
@click.option(
    "--comfyui_dir", type=PATH, multiple=True, help="A ComfyUI whose weights are used where they lie; may be repeated."
)
@BASE_DIR
@NOISE_LEVEL
@click.option("--include_i2v", is_flag=True, help="i2v-lightning's weights too.")
@files
@PYTHON
@MUSUBI_DIR
@click.option(
    "--torch",
    type=click.Choice(["cu124", "cu128", "cu130", "cpu"]),
    help="Build of PyTorch (default: the newest that the driver runs).",
)
@click.option("--weights_only", is_flag=True, help="Leave musubi-tuner and packages alone.")
@click.option("--list", "only_list", is_flag=True, help="Only list the files with repository, size and sha256.")
@click.option("--dry_run", is_flag=True, help="Only show what is needed, what was found and what would be done.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def setup(
    presets: tuple[str, ...],
    include_i2v: bool,
    torch: str | None,
    weights_only: bool,
    only_list: bool,
    dry_run: bool,
    as_json: bool,
    **arguments: Any,
) -> None:
    """Make this machine ready to train PRESETS (default: t2v-lightning).

    Weights are looked for in the workspace, in ComfyUI (--comfyui_dir) and in the Hugging Face cache, and used
    where they lie: nothing in those folders is changed. The rest is downloaded, resumed if it broke off, and
    verified by its sha256. The same command goes on from where it was stopped.
    """
    from wanwrap.cli import setup_report as report
    from wanwrap.machine import setup as work
    from wanwrap.machine.trainer import trainer as trainer_of
    from wanwrap.machine.wish import wish as asked_for
    from wanwrap.weights import marks

    names = (*(presets or DEFAULT), *(INCLUDED if include_i2v else ()))
    wish = asked_for(tuple(dict.fromkeys(names)), **arguments)
    if only_list:
        _listed(wish, as_json)
        return
    trainer = None if weights_only else trainer_of(wish, torch)
    if trainer and trainer.problem and not dry_run:
        raise trainer.problem  # before minutes of hashing
    with bars() as bar, counted("looking at file") as done:
        # a dry run computes no sha256 of 28 GB files; what it says of them is by their names then
        sha256 = marks.quick if dry_run else marks.thorough(bar)
        found = work.survey(wish, sha256, say, None if as_json or dry_run else _asked, done)
    if not as_json or not dry_run:
        _surveyed(found, trainer, stderr=as_json)
    if dry_run and as_json:
        show_json(report.as_json(found, trainer))
    work.check(found)
    if not dry_run:
        with bars() as bar:
            _carry_out(found, trainer, bar, as_json)


def _listed(wish: Wish, as_json: bool) -> None:
    from wanwrap.cli import setup_report as report

    if as_json:
        show_json(report.listed_json(wish))
    else:
        click.echo("\n".join(report.listed(wish)))


def _surveyed(found: Survey, trainer: Trainer | None, stderr: bool) -> None:
    from wanwrap.cli import setup_report as report

    for line in report.surveyed(found):
        click.echo(indented(line), err=stderr)
    for line in report.training(trainer) if trainer else ():  # commands, to be copied as they stand
        click.echo(line, err=stderr)


def _asked(question: str) -> bool:
    """Ask on a terminal; where there is none the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    click.echo("\r\033[K", nl=False, err=True)  # what counted files
    return click.confirm(question, err=True)


def _carry_out(found: Survey, trainer: Trainer | None, bar: Any, as_json: bool) -> None:
    """All that is left to do; with `as_json` the state comes out however it ends."""
    from wanwrap.cli import setup_report as report
    from wanwrap.errors import GpuError, PackageError, UpstreamError
    from wanwrap.machine import setup as work
    from wanwrap.machine.trainer import install_all

    with work.alone(found.wish):
        progress = work.Progress(found.wish)
        try:
            if trainer:
                progress.upstream = install_all(found.wish, trainer, screen, say)
                progress.write()
                for line in progress.upstream.remarks():
                    say(line)
            work.fetch_all(found, progress, bar, say)
        except KeyboardInterrupt:
            say("\nwhat has come is kept; the same command goes on from here")
            raise
        except (UpstreamError, PackageError, GpuError) as error:
            progress.failed.setdefault("musubi-tuner", error)
            raise
        finally:
            if as_json:
                show_json(report.as_json(found, trainer, progress))
    if not as_json:
        click.echo("\n".join(report.ready(found, trainer)))


@click.command(short_help="Is this machine ready to train?", epilog="Example: wanwrap doctor t2v-vanilla")
@click.argument("presets", nargs=-1)
@BASE_DIR
@NOISE_LEVEL
@PYTHON
@MUSUBI_DIR
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
@click.pass_context
def doctor(ctx: click.Context, /, presets: tuple[str, ...], as_json: bool, **arguments: Any) -> None:
    """Look at all that training PRESETS needs (default: those that were set up), and say what to do.

    The exit code is 0 where all is fine, else that of the first thing that a run would stop at.
    """
    from wanwrap.machine import doctor as work
    from wanwrap.machine.wish import wish as asked_for
    from wanwrap.registry import shipped

    wish = asked_for(presets, **arguments, default=DEFAULT)
    lines = work.examine(wish)
    if as_json:
        show_json([{**vars(line), "ok": not line.code} for line in lines])
    else:
        width = max(len(line.name) for line in lines)
        for line in lines:
            click.echo(hanging(f"{'  fine' if not line.code else 'TO DO '}  {line.name:<{width}}  ", line.text))
        others = [name for name in shipped() if name not in [preset.name for preset in wish.presets]]
        seen = ", ".join(preset.name for preset in wish.presets)
        click.echo(indented(f"Looked at {seen}; name others to see theirs: {', '.join(others)}"))
    ctx.exit(next((line.code for line in lines if line.code), 0))


@click.command(
    short_help="What is this file, and can it be trained with?",
    epilog="Example: wanwrap inspect ~/ComfyUI/models/diffusion_models/*.safetensors",
)
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="FILE...")
@click.option("--hash", "thorough", is_flag=True, help="Compute the sha256 of large files too, where it could tell.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
@click.pass_context
def inspect(ctx: click.Context, /, paths: tuple[Path, ...], thorough: bool, as_json: bool) -> None:
    """Tell what weight files are, by their headers: model, type, key names, and whether upstream can use them.

    Milliseconds a file, whatever its size. What headers can't tell (high or low noise, Wan's VAE or Qwen-Image's)
    is told by the sha256, of files up to 1 GB or with --hash, else by the name. The exit code is 5 where one of the
    files can't be read.
    """
    from wanwrap.cli.setup_report import inspected
    from wanwrap.errors import WeightsError
    from wanwrap.paths import absolute
    from wanwrap.weights import marks
    from wanwrap.weights.identify import look

    with bars() as bar:
        found = [look(absolute(path), marks.thorough(bar) if thorough else marks.quick) for path in paths]
    if as_json:
        show_json([each.json() for each in found])
    else:
        click.echo("\n".join(indented(line) for each in found for line in inspected(each)))
    ctx.exit(WeightsError.exit_code if any(each.broken for each in found) else 0)


VERBS = (setup, doctor, inspect)
