"""Options that several verbs share, as the guides spell them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click


class _Place(click.Path):
    """A path that was meant: an unset variable of a shell's is not the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty one."""
        return super().convert(value, param, ctx) if value != "" else self.fail("it is empty.", param, ctx)


PATH = _Place(path_type=Path)


def sha256(_: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A sha256 in small letters, as they are compared. An empty one is a mistake, not a wish."""
    if value is not None and not re.fullmatch("[0-9a-f]{64}", value.lower()):
        raise click.BadParameter("it must have 64 hex digits.", param=param)
    return value and value.lower()


PRECISION = click.Choice(["fp16", "bf16"], case_sensitive=False)
PYTHON = click.option("--python", help="The Python that trains, with torch (default: the one that runs wanwrap).")
BASE_DIR = click.option(
    "--base_dir", type=PATH, default=Path("local_training"), show_default=True, help="The workspace."
)
NOISE_LEVEL = click.option(
    "--noise_level", type=click.Choice(["high", "low", "both"]), help="Which expert of Wan 2.2 (default: both)."
)
MUSUBI_DIR = click.option(
    "--musubi_dir",
    type=PATH,
    envvar="WANWRAP_MUSUBI_DIR",
    help="Checkout of musubi-tuner (default: BASE_DIR/musubi-tuner, else the installed package).",
)
FILES = [
    click.option("--dit", type=PATH, help="DiT of a one-expert run."),
    click.option("--dit_high", type=PATH, help="DiT of the high-noise expert."),
    click.option("--dit_low", type=PATH, help="DiT of the low-noise expert."),
    click.option("--lightning_high", type=PATH, help="Lightning's high-noise LoRA, if you have it elsewhere."),
    click.option("--lightning_low", type=PATH, help="Lightning's low-noise LoRA."),
    click.option("--vae", type=PATH, help="VAE (Wan 2.1's, for both versions)."),
    click.option("--t5", type=PATH, help="UMT5-XXL text encoder, in Wan's key names."),
    click.option("--clip", type=PATH, help="CLIP, for Wan 2.1 I2V."),
]
RUN_OPTIONS = [
    click.argument("preset"),
    click.argument("upstream_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- UPSTREAM OPTIONS]"),
    click.option(
        "--dataset", type=_Place(), help="A folder, or the name of one in BASE_DIR/datasets; `sample` is wanwrap's own."
    ),
    click.option("--dataset_config", type=PATH, help="Your own data set TOML, checked and used as it is."),
    click.option("--skip_bad", is_flag=True, help="Leave out files that can't be trained, instead of stopping."),
    NOISE_LEVEL,
    BASE_DIR,
    click.option("--output_name", help="What the LoRAs are called (default: data set and preset)."),
    click.option("--lr", type=float, help="Learning rate."),
    click.option("--scheduler", help="polynomial, cosine, constant, linear, cosine_with_min_lr, rex ..."),
    click.option("--power", type=float, help="Power of the polynomial scheduler."),
    click.option("--min_lr", type=float, help="Lowest rate, as a part of --lr (0.01 is 1 %)."),
    click.option("--optimizer", help="adamw8bit, adamw, adafactor, or the whole path of a class."),
    click.option("--dim", type=int, help="Rank of the LoRA; --alpha follows it."),
    click.option("--alpha", type=float, help="Alpha of the LoRA."),
    click.option("--epochs", type=int, help="How often the data set is seen."),
    click.option("--save_every", type=int, help="Epochs between two saved LoRAs."),
    click.option("--seed", type=int, help="Seed."),
    click.option("--flow_shift", type=float, help="Shift of the timestep sampling."),
    click.option("--blocks_to_swap", type=int, help="Blocks kept in RAM: 39 at most for 14B, 29 for 1.3B."),
    click.option("--attention", type=click.Choice(["sdpa", "xformers", "flash_attn", "flash3"]), help="Attention."),
    click.option("--network_args", multiple=True, help="name=value for the LoRA network; several may follow."),
    click.option("--resume_from", type=PATH, help="Start from this LoRA's weights (the schedule starts anew)."),
    click.option("--skip_lightning", is_flag=True, help="Train on the DiT without merging Lightning into it."),
    click.option("--precision", type=PRECISION, help="Train in this type; a DiT in another one is cast first."),
    click.option(
        "--gpus",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="GPUs that train together; each holds a whole DiT.",
    ),
    *FILES,
    PYTHON,
    MUSUBI_DIR,
    click.option("--any_upstream", is_flag=True, help="Accept another commit of musubi-tuner."),
]

TO_COMFYUI = [
    click.option("--to_comfyui", is_flag=True, help="Copy the finished LoRAs into ComfyUI's models/loras."),
    click.option("--comfyui_dir", type=PATH, help="Which ComfyUI (default: the one that setup was given)."),
]


def to_comfyui(command: Callable[..., None]) -> Callable[..., None]:
    """The options of `run` alone."""
    return _with(TO_COMFYUI, command)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that `run` and `rehearse` share, in the order of their help."""
    return _with(RUN_OPTIONS, command)


def files(command: Callable[..., None]) -> Callable[..., None]:
    """The options that name weights."""
    return _with(FILES, command)


def _with(options: Sequence[Callable[..., Any]], command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command
