"""Options that several verbs share, as the guides spell them, in the groups in which help shows them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from wanwrap.paths import absolute

F = TypeVar("F", bound=Callable[..., Any])
GROUPS = ("Options", "Training", "Data", "Weights", "Environment", "Control")


class Option(click.Option):
    """An option that help shows in its group."""

    def __init__(self, *words: Any, group: str = GROUPS[0], **attributes: Any) -> None:
        super().__init__(*words, **attributes)
        self.group = group


class Verb(click.Command):
    """A verb: its options in groups, its example in one piece, its data set by one name."""

    def invoke(self, ctx: click.Context) -> Any:
        if "dataset_argument" in ctx.params:
            _name_dataset(ctx)
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


def _name_dataset(ctx: click.Context) -> None:
    """DATASET, or --dataset as the guides have it; a TOML is a data set of one's own."""
    argument, name = ctx.params.pop("dataset_argument"), ctx.params.get("dataset")
    if "" in (argument, name):  # an unset variable of a shell's
        raise click.UsageError("DATASET is empty.", ctx)
    if None not in (argument, name) and argument != name:
        raise click.UsageError(f"DATASET {argument} and --dataset {name} name two data sets; give one.", ctx)
    name = name if argument is None else argument
    if name is not None and name.lower().endswith(".toml") and ctx.params.get("dataset_config") is None:
        ctx.params["dataset_config"], name = Path(name), None
    ctx.params["dataset"] = name


def path(text: str) -> Path:
    """A whole path that was meant: an unset variable of a shell's is not the current folder."""
    if not text:
        raise click.BadParameter("it is empty.")
    return absolute(text)


PATH = click.types.FuncParamType(path)
PRECISION = click.Choice(["fp16", "bf16"], case_sensitive=False)


def option(*words: Any, group: str = GROUPS[0], **attributes: Any) -> Callable[[F], F]:
    """click's option, in a group of help's."""
    return click.option(*words, cls=Option, group=group, **attributes)


def sha256(_: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A sha256 in small letters, as they are compared. An empty one is a mistake, not a wish."""
    if value is not None and not re.fullmatch("[0-9a-f]{64}", value.lower()):
        raise click.BadParameter("it must have 64 hex digits.", param=param)
    return value and value.lower()


def json_option(what: str = "As JSON.", group: str = GROUPS[0]) -> Callable[[F], F]:
    """--json."""
    return option("--json", "as_json", is_flag=True, help=what, group=group)


PYTHON = option(
    "--python",
    envvar="WANWRAP_PYTHON",
    help="The Python that trains, with torch (default: the one that runs wanwrap).",
    group="Environment",
)
BASE_DIR = option(
    "--base_dir",
    type=PATH,
    default=Path("local_training"),
    show_default=True,
    help="The workspace.",
    group="Environment",
)
NOISE_LEVEL = option(
    "--noise_level", type=click.Choice(["high", "low", "both"]), help="Which expert of Wan 2.2 (default: both)."
)
MUSUBI_DIR = option(
    "--musubi_dir",
    type=PATH,
    envvar="WANWRAP_MUSUBI_DIR",
    help="Checkout of musubi-tuner (default: BASE_DIR/musubi-tuner, else the installed package).",
    group="Environment",
)
ANY_UPSTREAM = option(
    "--any_upstream", is_flag=True, help="Accept another commit of musubi-tuner.", group="Environment"
)
DATASET = [
    click.argument("dataset_argument", required=False, metavar="[DATASET]"),
    option("--dataset", help="The same as DATASET.", group="Data"),
]
WEIGHTS = [
    option("--dit", type=PATH, help="DiT of a one-expert run.", group="Weights"),
    option("--dit_high", type=PATH, help="DiT of the high-noise expert.", group="Weights"),
    option("--dit_low", type=PATH, help="DiT of the low-noise expert.", group="Weights"),
    option("--lightning_high", type=PATH, help="Lightning's high-noise LoRA, if it lies elsewhere.", group="Weights"),
    option("--lightning_low", type=PATH, help="Lightning's low-noise LoRA.", group="Weights"),
    option("--vae", type=PATH, help="VAE (Wan 2.1's, for both versions).", group="Weights"),
    option("--t5", type=PATH, help="UMT5-XXL text encoder, in Wan's key names.", group="Weights"),
    option("--clip", type=PATH, help="CLIP, for Wan 2.1 I2V.", group="Weights"),
]
_T = "Training"
RUN = [
    click.argument("preset"),
    *DATASET,
    NOISE_LEVEL,
    option("--output_name", help="What the LoRAs are called (default: data set and preset)."),
    option("--epochs", type=int, help="How often the data set is seen."),
    option("--lr", type=float, help="Learning rate."),
    option("--dim", type=int, help="Rank of the LoRA; --alpha follows it."),
    option("--blocks_to_swap", type=int, help="Blocks kept in RAM: 39 at most for 14B, 29 for 1.3B."),
    option("--alpha", type=float, help="Alpha of the LoRA.", group=_T),
    option("--scheduler", help="polynomial, cosine, constant, linear, cosine_with_min_lr, rex ...", group=_T),
    option("--power", type=float, help="Power of the polynomial scheduler.", group=_T),
    option("--min_lr", type=float, help="Lowest rate, as a part of --lr (0.01 is 1 %).", group=_T),
    option("--optimizer", help="adamw8bit, adamw, adafactor, or the whole path of a class.", group=_T),
    option("--save_every", type=int, help="Epochs between two saved LoRAs.", group=_T),
    option("--seed", type=int, help="Seed.", group=_T),
    option("--flow_shift", type=float, help="Shift of the timestep sampling.", group=_T),
    option("--attention", type=click.Choice(["sdpa", "xformers", "flash_attn", "flash3"]), help="Attention.", group=_T),
    option("--network_args", multiple=True, help="name=value for the LoRA network; several may follow.", group=_T),
    option("--resume_from", type=PATH, help="Start from a LoRA's weights (the schedule starts anew).", group=_T),
    option("--skip_lightning", is_flag=True, help="Train on the DiT without merging Lightning into it.", group=_T),
    option("--precision", type=PRECISION, help="Train in this type; a DiT in another one is cast first.", group=_T),
    option("--dataset_config", type=PATH, help="Your own data set TOML, checked and used as it is.", group="Data"),
    option(
        "--skip_bad", is_flag=True, help="Leave out files that can't be trained, instead of stopping.", group="Data"
    ),
    *WEIGHTS,
    BASE_DIR,
    PYTHON,
    MUSUBI_DIR,
    ANY_UPSTREAM,
    option(
        "--gpus",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="GPUs that train together; each holds a whole DiT.",
        group="Environment",
    ),
]


def with_options(options: Sequence[Callable[..., Any]]) -> Callable[[F], F]:
    """Options, in the order of their help."""

    def decorate(command: F) -> F:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate
