"""The verb that tells what a weight file is."""

from __future__ import annotations

from pathlib import Path

import click

from wanwrap.cli.options import PATH, Verb, json_option, option
from wanwrap.cli.setup_report import inspected
from wanwrap.cli.terminal import indented, show_json
from wanwrap.errors import WeightsError
from wanwrap.paths import absolute
from wanwrap.weights import marks
from wanwrap.weights.identify import look


@click.command(
    cls=Verb,
    epilog="Example: wanwrap inspect ~/ComfyUI/models/diffusion_models/*.safetensors",
)
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="FILE...")
@option("--hash", "thorough", is_flag=True, help="Compute the sha256 of large files too, where it could tell.")
@json_option("As a JSON list.")
@click.pass_context
def inspect(ctx: click.Context, /, paths: tuple[Path, ...], thorough: bool, as_json: bool) -> None:
    """Tell what weight files are, by their headers: model, type, key names, and whether upstream can use them.

    Milliseconds a file, whatever its size. What headers can't tell (high or low noise, Wan's VAE or Qwen-Image's)
    is told by the sha256, of files up to 1 GB or with --hash, else by the name. The exit code is 5 where one of the
    files can't be read.
    """
    found = [look(absolute(path), marks.thorough if thorough else marks.quick) for path in paths]
    if as_json:
        show_json([each.json() for each in found])
    else:
        click.echo("\n".join(indented(line) for each in found for line in inspected(each)))
    ctx.exit(WeightsError.exit_code if any(each.broken for each in found) else 0)
