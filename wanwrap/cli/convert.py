"""The verb that changes a file into what upstream reads."""

from __future__ import annotations

from typing import Any

import click

from wanwrap.cli.merge import MARK, show_made
from wanwrap.cli.options import PATH, PRECISION, PYTHON, Verb, json_option, option, sha256
from wanwrap.plan.request import training_python
from wanwrap.rewrite.start import run_convert


@click.command(
    cls=Verb,
    epilog="Example: wanwrap convert umt5_xxl_fp16.safetensors --out umt5-xxl-enc-bf16.safetensors",
)
@click.argument("file", type=PATH)
@option("--out", type=PATH, required=True, help="The new file.")
@option("--precision", type=PRECISION, help="Cast to this type (a text encoder: to bf16 by default).")
@option("--sha256", callback=sha256, help=MARK.format("file"))
@PYTHON
@json_option("What was made, as JSON.")
def convert(as_json: bool, python: str | None, **options: Any) -> None:
    """Change a file into what musubi-tuner reads: what there is to do is found from its header.

    \b
    A DiT        cast to fp16 or bf16; without the prefix of repacked files (Wan 2.1 1.3B)
    Shards       one file
    UMT5         ComfyUI's key names become Wan's, its fp16 becomes bf16
    """
    show_made(run_convert(python=training_python(python), **options), as_json)
