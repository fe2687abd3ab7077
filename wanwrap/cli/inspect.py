"""The verb that tells what a weight file is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from wanwrap.cli.options import PATH, Verb, json_option, option
from wanwrap.cli.terminal import indented, show_result
from wanwrap.errors import WeightsError
from wanwrap.system.disk import large
from wanwrap.weights import marks, provenance
from wanwrap.weights.identify import look
from wanwrap.weights.weight_file import WeightFile


@click.command(cls=Verb, epilog="Example: wanwrap inspect ~/ComfyUI/models/diffusion_models/*.safetensors")
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
    found = [look(path, marks.thorough if thorough else marks.quick) for path in paths]
    lines = (indented(line) for each in found for line in _told(each))
    show_result(as_json, lambda: [each.json() for each in found], lines)
    ctx.exit(WeightsError.exit_code if any(each.broken for each in found) else 0)


def _told(found: WeightFile) -> Iterator[str]:
    """One file in a few lines."""
    yield f"{found.path}"
    facts = [found.what, found.dtype, found.keys and f"keys: {found.keys}", large(found.size) if found.size else ""]
    if any(facts):
        yield f"    {found.role}: {', '.join(fact for fact in facts if fact)}"
    if found.lora:
        yield "    " + ", ".join(f"{name} {value}" for name, value in found.lora.items() if value is not None)
    if found.trained and (told := provenance.told(found.trained)):
        yield f"    trained: {told}"
    more = " (--hash computes its sha256, which tells for sure)" if found.unchecked else ""
    yield f"    {'usable' if found.usable else 'NOT usable'}: {found.reason}{more}"
