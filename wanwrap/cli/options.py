"""Options that several verbs share, as the guides spell them, in the groups in which help shows them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import click

from wanwrap.cli import run_file
from wanwrap.errors import OptionError
from wanwrap.paths import QUOTED, absolute

F = TypeVar("F", bound=Callable[..., Any])
GROUPS = ("Options", "Training", "Data", "Weights", "Environment", "Control")


class Option(click.Option):
    """An option that help shows in its group."""

    def __init__(self, *words: Any, group: str = GROUPS[0], **attributes: Any) -> None:
        super().__init__(*words, **attributes)
        self.group = group

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """What a run file gives is nearer than the environment."""
        return None if self.name in (ctx.default_map or {}) else super().value_from_envvar(ctx)


class Verb(click.Command):
    """A verb: its options in groups, its example in one piece, its data set by one name."""

    def invoke(self, ctx: click.Context) -> Any:
        """DATASET is an argument, and an option as the guides have it."""
        run_file.prefer_typed_data(ctx)
        names = {ctx.params.pop("dataset_option", None), ctx.params.get("dataset")} - {None}
        if len(names) > 1:
            raise click.UsageError("DATASET and --dataset name two data sets; give one.", ctx)
        if "" in names:  # an unset variable of a shell's
            raise click.UsageError("DATASET is empty.", ctx)
        if names:
            ctx.params["dataset"] = names.pop()
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows, group = {name: list[tuple[str, str]]() for name in GROUPS}, GROUPS[0]
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                group = getattr(param, "group", group)  # --help comes last, and has none
                rows[group].append(record)
        for group in filter(rows.get, GROUPS):
            with formatter.section(group):
                formatter.write_dl(rows[group])

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """A command is to be copied as it stands."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}\n")


class RunVerb(Verb):
    """A verb after whose `--` options of upstream's stand: none of wanwrap's, whatever they are called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.params |= {"upstream_options": tuple(args[at + 1 :]), "own": [param.name for param in self.params]}
        try:
            return super().parse_args(ctx, _unfolded(args[:at]))
        except click.NoSuchOption as error:
            if hint := _hint(error.option_name):
                raise click.UsageError(f"No such option: {error.option_name}. {hint}", ctx) from error
            raise

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- UPSTREAM OPTIONS]"]


def _hint(option: str) -> str:
    """Where upstream's own options go; nothing for one that is none of these."""
    from wanwrap.upstream.options import ALIASES, TRAIN, table

    name = option.lstrip("-").replace("-", "_")
    for ours, theirs in ALIASES.items():
        if theirs == name:
            return f"wanwrap calls it --{ours}."
    return "It is upstream's own: put it behind `--`, at the end." if name in table(TRAIN) else ""


def _unfolded(args: Sequence[str]) -> list[str]:
    """The guides write several pairs after one --network_args."""
    found = list[str]()
    for word in args:
        if "=" in word and word[0] != "-" and found[-2:-1] in (["--network_args"], ["--network-args"]):
            found.append("--network_args")
        found.append(word)
    return found


class _Place(click.Path):
    """A whole path that was meant: an unset variable of a shell's is not the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if sys.platform == "win32" and str(value).endswith('"'):
            self.fail(f"there is no such path. {QUOTED}", param, ctx)
        return absolute(value) if value else self.fail("it is empty.", param, ctx)


PATH = _Place()
PRECISION = click.Choice(["fp16", "bf16"], case_sensitive=False)


option = partial(click.option, cls=Option)
training, data, weights, environment, control = (partial(option, group=group) for group in GROUPS[1:])


def sha256(_: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A sha256 in small letters, as they are compared. An empty one is a mistake."""
    if value is not None and not re.fullmatch("[0-9a-f]{64}", value.lower()):
        raise click.BadParameter("it must have 64 hex digits.", param=param)
    return value and value.lower()


def sizes(_: click.Context, param: click.Parameter, value: Any) -> Any:
    """GB of a card, or of several. A size that no card has is a mistake."""
    for size in value if isinstance(value, list) else [1 if value is None else value]:
        if not 1 <= size <= 1000:  # nor is nan
            raise click.BadParameter(f"{size:g} is no card's size in GB.", param=param)
    return value


def finite(_: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """A number that can be reckoned with: ranges let nan through."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value:g} is no number to reckon with.", param=param)
    return value


def package(_: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Names for pip. An empty one is an unset variable of a shell's."""
    if not all(map(str.strip, value)):
        raise click.BadParameter("it is empty.", param=param)
    return value


def trigger(_: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A word, or several, that captions are to hold. Raises OptionError: it says nothing, or is more than a line."""
    word = value and value.strip()
    if word == "":
        raise OptionError(f"{param.opts[0]} is empty; give the word, or leave the option out.")
    if word and len(word.splitlines()) > 1:
        raise OptionError(f"{param.opts[0]} must be one line.")
    return word


def json_option(what: str = "As JSON.", group: str = GROUPS[0]) -> Callable[[F], F]:
    """--json."""
    return option("--json", "as_json", is_flag=True, help=what, group=group)


# what several verbs take
PYTHON = environment(
    "--python",
    envvar="WANWRAP_PYTHON",
    show_envvar=True,
    help="The Python that trains, with torch (default: the one that runs wanwrap).",
)
BASE_DIR = environment("--base_dir", type=PATH, default="local_training", show_default=True, help="The workspace.")
NOISE_LEVEL = option(
    "--noise_level", type=click.Choice(["high", "low", "both"]), help="Which expert of Wan 2.2 (default: both)."
)
MUSUBI_DIR = environment(
    "--musubi_dir",
    type=PATH,
    envvar="WANWRAP_MUSUBI_DIR",
    show_envvar=True,
    help="Checkout of musubi-tuner (default: BASE_DIR/musubi-tuner, else the installed package).",
)
VRAM = environment(
    "--vram", type=float, callback=sizes, help="GB of the card, as nvidia-smi counts (default: this machine's)."
)
FIT = environment(
    "--fit",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="Choose what makes it fit the card and trains the same.",
)
PACKAGE = environment(
    "--package",
    multiple=True,
    callback=package,
    help="One more package, for an optimizer or logger: prodigyopt; may be repeated.",
)
PLACES = [BASE_DIR, PYTHON, MUSUBI_DIR]
ANY_UPSTREAM = environment("--any_upstream", is_flag=True, help="Accept another commit of musubi-tuner.")
PRESET = partial(click.argument, "preset", is_eager=True, callback=run_file.read)
DATASET = [
    click.argument("dataset", required=False),
    data("--dataset", "dataset_option", help="The same as DATASET."),
]
WEIGHTS = [
    weights("--dit", type=PATH, help="DiT of a one-expert run."),
    weights("--dit_high", type=PATH, help="DiT of the high-noise expert."),
    weights("--dit_low", type=PATH, help="DiT of the low-noise expert."),
    weights("--lightning_high", type=PATH, help="Lightning's high-noise LoRA, if it lies elsewhere."),
    weights("--lightning_low", type=PATH, help="Lightning's low-noise LoRA."),
    weights("--vae", type=PATH, help="VAE (Wan 2.1's, for both versions)."),
    weights("--t5", type=PATH, help="UMT5-XXL text encoder, in Wan's key names."),
    weights("--clip", type=PATH, help="CLIP, for Wan 2.1 I2V."),
]
RUN = [
    PRESET(),
    *DATASET,
    NOISE_LEVEL,
    option("--output_name", help="What the LoRAs are called (default: data set and preset)."),
    option("--epochs", type=int, help="How often the data set is seen."),
    option("--lr", type=float, help="Learning rate."),
    option("--dim", type=int, help="Rank of the LoRA; --alpha follows it."),
    option("--blocks_to_swap", type=int, help="Blocks kept in RAM: 39 at most for 14B, 29 for 1.3B."),
    training("--alpha", type=float, help="Alpha of the LoRA."),
    training("--scheduler", help="polynomial, cosine, constant, linear, cosine_with_min_lr, rex ..."),
    training("--power", type=float, help="Power of the polynomial scheduler."),
    training("--min_lr", type=float, help="Lowest rate, as a part of --lr (0.01 is 1 %)."),
    training("--optimizer", help="adamw8bit, adamw, adafactor, or the whole path of a class."),
    training("--save_every", type=int, help="Epochs between two saved LoRAs."),
    training("--seed", type=int, help="Seed."),
    training("--flow_shift", type=float, help="Shift of the timestep sampling."),
    training("--attention", type=click.Choice(["sdpa", "xformers", "flash_attn", "flash3"]), help="Attention."),
    training("--network_args", multiple=True, help="name=value for the LoRA network; several may follow."),
    training("--resume_from", type=PATH, help="Start from a LoRA's weights (the schedule starts anew)."),
    option("--sample/--no_sample", help="Make samples at the end, as `wanwrap sample` does."),
    training("--skip_lightning", is_flag=True, help="Train on the DiT without merging Lightning into it."),
    training("--sample_with_one_expert", is_flag=True, help="Wan 2.2: samples while training, by one expert alone."),
    training("--precision", type=PRECISION, help="Train in this type; a DiT in another one is cast first."),
    data("--dataset_config", type=PATH, help="Your own data set TOML, checked and used as it is."),
    data("--skip_bad", is_flag=True, help="Leave out files that can't be trained, instead of stopping."),
    *WEIGHTS,
    *PLACES,
    ANY_UPSTREAM,
    VRAM,
    FIT,
    environment(
        "--gpus",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="GPUs that train together; each holds a whole DiT.",
    ),
]


def with_options(options: Sequence[Callable[..., Any]]) -> Callable[[F], F]:
    """Options, in the order of their help."""

    def decorate(command: F) -> F:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate
