"""The verb that merges a LoRA into a DiT."""

from __future__ import annotations

from typing import Any

import click

from wanwrap.cli.options import PATH, PRECISION, PYTHON, Verb, json_option, option, sha256
from wanwrap.cli.terminal import show_result
from wanwrap.plan.request import training_python
from wanwrap.rewrite.start import Made, run_merge
from wanwrap.system import console

MARK = "Stop if the sha256 of the {} is another one."


@click.command(
    cls=Verb,
    epilog="Example: wanwrap merge --dit wan2.2_t2v_low_noise_14B_fp16.safetensors \\\n"
    "  --lora wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors --out merged.safetensors",
)
@option("--dit", type=PATH, required=True, help="The DiT, in fp16, bf16 or fp32; of shards any one.")
@option("--lora", type=PATH, required=True, help="The LoRA, as upstream, ComfyUI, diffusers or peft name its keys.")
@option("--out", type=PATH, required=True, help="The new file.")
@option("--strength", type=float, default=1.0, show_default=True, help="How much of it.")
@option("--precision", type=PRECISION, help="Cast the result (default: the DiT's own type).")
@option("--allow_partial", is_flag=True, help="Leave out keys whose tensors the DiT lacks; they are listed.")
@option("--dit_sha256", callback=sha256, help=MARK.format("DiT"))
@option("--lora_sha256", callback=sha256, help=MARK.format("LoRA"))
@PYTHON
@json_option("What was made, as JSON.")
def merge(as_json: bool, python: str | None, **options: Any) -> None:
    """Merge a LoRA into a DiT: W + strength * alpha / rank * up @ down, in fp32 with one rounding.

    Any size in 1 GB of memory; on the GPU where there is one. Every key of the LoRA is merged, or none is.
    A file that is there is never written over.
    """
    show_made(run_merge(python=training_python(python), **options), as_json)


def show_made(made: Made, as_json: bool) -> None:
    """What was made, and what was left out of it."""
    if left := made.made.get("left"):
        console.say(f"left out, since the DiT has no such tensors: {left}")
    figures = made.json()
    told = f"made {made.out} ({figures['bytes'] / 1e9:.2f} GB in {made.seconds:.0f} s, on the {made.device})"
    there = f"{made.out} is there already, made of the same files: nothing to do."
    show_result(as_json, lambda: figures, [there if made.reused else told])
