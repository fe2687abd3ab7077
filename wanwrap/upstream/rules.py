"""Training settings that upstream would refuse late, ignore, or take for something else."""

from __future__ import annotations

import ast
from collections.abc import Collection

from wanwrap.errors import OptionError, closest
from wanwrap.preset import Preset
from wanwrap.upstream.options import REFUSED, Options, number, whole
from wanwrap.upstream.schedule import free_of_schedule
from wanwrap.upstream.timesteps import check_timesteps

LEAST = {
    "max_train_epochs": 1,
    "max_train_steps": 1,
    "gradient_accumulation_steps": 1,
    "network_dim": 1,
    "save_every_n_epochs": 1,
    "max_data_loader_n_workers": 0,
    "save_last_n_epochs": 1,
    "sample_every_n_epochs": 1,
    "sample_every_n_steps": 1,
}
SAMPLING = ("sample_every_n_epochs", "sample_every_n_steps", "sample_at_first")
STATES = ("save_every_n_steps", "save_last_n_steps", "save_last_n_steps_state", "save_last_n_epochs_state")
ABOVE_0 = ("learning_rate", "network_alpha", "discrete_flow_shift", "sigmoid_scale")
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


def check(options: Options, given: Options, preset: Preset, dtype: str) -> None:
    """Raises OptionError: what upstream finds only after the caching, or never.

    `given` is what the user set of the `options`; `dtype` is the DiT's.
    """
    _check_types(options, dtype)
    swap, blocks = whole(options, "blocks_to_swap", 0), preset.blocks
    if not 0 <= swap < blocks:
        raise OptionError(
            f"--blocks_to_swap {swap}: this model has {blocks} blocks, of which {blocks - 1} at most can be swapped."
        )
    for name, least in LEAST.items():
        if whole(options, name, least) < least:
            raise OptionError(f"--{name} {options[name]}: it must be {least} at least.")
    for name in STATES:
        if options.get(name):
            raise OptionError(f"--{name}: {REFUSED[name]}.")
    for name in ABOVE_0:
        if number(options, name, 1.0) <= 0:
            raise OptionError(f"--{name} {options[name]}: it must be above 0.")
    if not 0 <= whole(options, "seed", 0) < 2**32:
        raise OptionError(f"--seed {options['seed']}: it must be from 0 to {2**32 - 1}.")
    for name in PAIRS:
        for pair in options.get(name) or ():  # type: ignore[union-attr]
            _check_pair(name, str(pair), NETWORK_ARGS if str(options["network_module"]).endswith("lora_wan") else None)
    _check_given(options, given)
    _check_together(options, preset)
    check_timesteps(options)


def _check_types(options: Options, dtype: str) -> None:
    """An optimizer, and the precisions that upstream can train such a DiT in."""
    if not options["optimizer_type"]:
        raise OptionError("--optimizer is empty; adamw8bit and adamw are the presets' own.")
    allowed = {dtype} if dtype in ("fp16", "bf16") else {"fp16", "bf16"}
    if options["mixed_precision"] not in allowed:
        names = " or ".join(sorted(allowed))
        raise OptionError(
            f"--mixed_precision must be {names} for a DiT in {dtype}; with others upstream fails (--precision casts the DiT)."
        )


def _check_given(options: Options, given: Options) -> None:
    """Settings of the learning rate that would have no effect."""
    scheduler = options.get("lr_scheduler_type") or options.get("lr_scheduler")
    if "lr_scheduler_power" in given and scheduler != "polynomial":
        raise OptionError(f"--power goes with --scheduler polynomial; {scheduler} takes none.")
    if free_of_schedule(options) and (mine := [name for name in given if name.startswith("lr_")]):
        raise OptionError(f"upstream ignores --{mine[0]} with {options['optimizer_type']}, which has no schedule.")


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
