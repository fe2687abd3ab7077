"""Preset + what the user gave -> upstream's training options for one expert, all that matters written out."""

from __future__ import annotations

import ast
from collections.abc import Collection
from dataclasses import dataclass

from wanwrap.dataset import Dataset
from wanwrap.errors import OptionError, closest
from wanwrap.options import Options, Value, number, overlay, whole
from wanwrap.preset import Expert, Preset
from wanwrap.schedule import free_of_schedule, rewrite
from wanwrap.timesteps import check_timesteps
from wanwrap.weights.locate import Located

# What upstream wants for a DiT of each type. It refuses the other one for fp16 and bf16; fp8 and fp32 take both.
PRECISION = {"fp16": "fp16", "bf16": "bf16", "fp32": "bf16", "fp8": "bf16"}

# Written out for every run because upstream's own defaults are traps, or because they belong together.
BASE: Options = {
    "network_module": "musubi_tuner.networks.lora_wan",  # a bare `networks` may be sd-scripts' folder
    "gradient_checkpointing": True,
    "gradient_accumulation_steps": 1,
    "max_grad_norm": 1.0,
    "max_data_loader_n_workers": 2,
    "persistent_data_loader_workers": True,
    "log_with": "tensorboard",
}

LEAST = {
    "max_train_epochs": 1,
    "max_train_steps": 1,
    "gradient_accumulation_steps": 1,
    "network_dim": 1,
    "save_every_n_epochs": 1,
    "max_data_loader_n_workers": 0,
    "save_every_n_steps": 1,
    "save_last_n_epochs": 1,
    "save_last_n_steps": 1,
    "sample_every_n_epochs": 1,
    "sample_every_n_steps": 1,
}
SAMPLING = ("sample_every_n_epochs", "sample_every_n_steps", "sample_at_first")
ABOVE_0 = ("learning_rate", "network_alpha", "discrete_flow_shift", "sigmoid_scale")
RATE = 0.01
# All that upstream's LoRA for Wan reads (networks/lora.py); others it passes over without a word.
NETWORK_ARGS = {
    "conv_dim",
    "conv_alpha",
    "rank_dropout",
    "module_dropout",
    "verbose",
    "exclude_patterns",
    "include_patterns",
    "loraplus_lr_ratio",
}
PAIRS = ("optimizer_args", "lr_scheduler_args", "network_args")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Upstream's options but its paths; `steps` is the number that upstream will announce."""

    options: Options
    steps: int
    notes: tuple[str, ...] = ()


def recipe(preset: Preset, expert: Expert, dataset: Dataset, dit: Located, given: Options) -> Recipe:
    """The options of one expert's training.

    Raises:
        OptionError: a setting that upstream would refuse, ignore or misread.
    """
    precision = PRECISION[dit.dtype]
    declared: Options = {
        "task": preset.task,
        "mixed_precision": precision,
        "save_precision": precision,
        **BASE,
        **preset.train,
        **expert.train,
    }
    options, notes = _settled(declared, given, dit)
    if not options["optimizer_type"]:
        raise OptionError("--optimizer is empty; adamw8bit and adamw are the presets' own.")
    allowed = {precision} if dit.dtype in ("fp16", "bf16") else {"fp16", "bf16"}
    if options["mixed_precision"] not in allowed:
        names = " or ".join(sorted(allowed))
        raise OptionError(f"--mixed_precision must be {names} for a DiT in {dit.dtype}; with others upstream fails.")
    check(options, preset)
    steps = _steps(options, dataset)
    return Recipe(options=rewrite(options, steps), steps=steps, notes=tuple(notes))


def _settled(declared: Options, given: Options, dit: Located) -> tuple[dict[str, Value], list[str]]:
    """`given` over `declared`, with what hangs on it, and what is to be said of that."""
    options, notes = overlay(declared, given), list[str]()
    if "network_dim" in given and "network_alpha" not in given:
        options["network_alpha"] = given["network_dim"]
        notes.append(f"--alpha follows --dim: {given['network_dim']}.")
    if "optimizer_args" not in given and not _related(options["optimizer_type"], declared["optimizer_type"]):
        options["optimizer_args"] = None
        notes.append(f"{declared['optimizer_type']}'s optimizer_args are not used for {options['optimizer_type']}.")
    scheduler = options.get("lr_scheduler_type") or options.get("lr_scheduler")
    if "lr_scheduler_power" in given and scheduler != "polynomial":
        raise OptionError(f"--power goes with --scheduler polynomial; {scheduler} takes none.")
    if free_of_schedule(options) and (mine := [name for name in given if name.startswith("lr_")]):
        raise OptionError(f"upstream ignores --{mine[0]} with {options['optimizer_type']}, which has no schedule.")
    if whole(options, "save_every_n_epochs", 1) > whole(options, "max_train_epochs", 10**9):
        notes.append("--save_every is longer than the run: only its end is saved.")
    if number(options, "learning_rate", 0.0) > RATE and "prodigy" not in str(options["optimizer_type"]).lower():
        notes.append(f"--lr {options['learning_rate']} is far above what any recipe uses (1e-5 to 1e-3).")
    if dit.dtype == "fp8" and options.get("fp8_scaled"):
        options["fp8_scaled"] = None
        notes.append(f"{dit.path.name} is fp8 already: upstream trains it with --fp8_base alone.")
    if not whole(options, "max_data_loader_n_workers", 0):
        options["persistent_data_loader_workers"] = None  # torch refuses it without workers
    if options.get("timestep_sampling") != "shift" and "discrete_flow_shift" not in given:
        options["discrete_flow_shift"] = None
    return options, notes


def _related(one: Value, other: Value) -> bool:
    """Whether an optimizer takes the other's arguments: all AdamWs do."""
    return one == other or all("adamw" in str(name).lower() for name in (one, other))


def _steps(options: Options, dataset: Dataset) -> int:
    if options.get("max_train_epochs") is None:
        return whole(options, "max_train_steps", 0)
    return dataset.steps(whole(options, "max_train_epochs", 0), whole(options, "gradient_accumulation_steps", 1))


def check(options: Options, preset: Preset) -> None:
    """Raises OptionError: what upstream finds only after the caching, or never."""
    swap, blocks = whole(options, "blocks_to_swap", 0), preset.blocks
    if not 0 <= swap < blocks:
        raise OptionError(
            f"--blocks_to_swap {swap}: this model has {blocks} blocks, of which {blocks - 1} at most can be swapped."
        )
    for name, least in LEAST.items():
        if whole(options, name, least) < least:
            raise OptionError(f"--{name} {options[name]}: it must be {least} at least.")
    for name in ABOVE_0:
        if number(options, name, 1.0) <= 0:
            raise OptionError(f"--{name} {options[name]}: it must be above 0.")
    if not 0 <= whole(options, "seed", 0) < 2**32:
        raise OptionError(f"--seed {options['seed']}: it must be from 0 to {2**32 - 1}.")
    for name in PAIRS:
        for pair in options.get(name) or ():  # type: ignore[union-attr]
            _check_pair(name, str(pair), NETWORK_ARGS if str(options["network_module"]).endswith("lora_wan") else None)
    _check_together(options, preset)
    check_timesteps(options)


def _check_pair(option: str, pair: str, network_args: Collection[str] | None) -> None:
    """name=value, the value of an optimizer's or scheduler's argument as Python writes it."""
    name, _, value = pair.partition("=")
    if not name.isidentifier() or "=" in value:
        raise OptionError(f"--{option} takes name=value pairs with a single =; not {pair!r}.")
    if option == "network_args":
        if network_args and name not in network_args:
            raise OptionError(f"upstream ignores --network_args {name}.{closest(name, network_args)}")
        return
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError) as error:
        raise OptionError(f"--{option} {pair}: {value!r} is no value; quote texts, as in {name}=\"'x'\".") from error


def _check_together(options: Options, preset: Preset) -> None:
    """Options that contradict each other, or of which one needs the other."""
    if options.get("fp8_scaled") and not options.get("fp8_base"):
        raise OptionError("--fp8_scaled needs --fp8_base beside it.")
    if options.get("max_train_epochs") is not None and options.get("max_train_steps") is not None:
        raise OptionError("upstream ignores --max_train_steps beside --max_train_epochs (--epochs); give one of them.")
    if options.get("discrete_flow_shift") is not None and options.get("timestep_sampling") != "shift":
        raise OptionError(f"upstream ignores --flow_shift with timestep_sampling {options.get('timestep_sampling')}.")
    sampled = [name for name in SAMPLING if options.get(name)]
    if bool(sampled) != bool(preset.sample_prompts or options.get("sample_prompts")):
        raise OptionError("samples need both --sample_prompts FILE and how often: --sample_every_n_epochs 5.")
    arguments = [str(pair) for pair in options.get("optimizer_args") or ()]  # type: ignore[union-attr]
    adafactor = str(options["optimizer_type"]).rpartition(".")[2].lower() == "adafactor"
    if adafactor and ("relative_step=False" not in arguments or "warmup_init=True" in arguments):
        raise OptionError(
            "adafactor takes no notice of --lr and --scheduler unless it is told to: add "
            "-- --optimizer_args relative_step=False scale_parameter=False warmup_init=False."
        )
