"""Preset + what the user gave -> upstream's training options for one expert, all that matters written out."""

from __future__ import annotations

from dataclasses import dataclass

from wanwrap.dataset import Dataset
from wanwrap.errors import OptionError
from wanwrap.options import Options, overlay, whole
from wanwrap.preset import Expert, Preset
from wanwrap.schedule import rewrite
from wanwrap.timesteps import check_timesteps
from wanwrap.weights.locate import Located

# What upstream must be told for a DiT of each type: it refuses every other precision (fp8 and fp32 take both).
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

COUNTS = (
    "max_train_epochs",
    "max_train_steps",
    "gradient_accumulation_steps",
    "network_dim",
    "save_every_n_epochs",
)


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
    precision, notes = PRECISION[dit.dtype], []
    types = {"task": preset.task, "mixed_precision": precision, "save_precision": precision}
    if "network_dim" in given and "network_alpha" not in given:
        given = {**given, "network_alpha": given["network_dim"]}
        notes.append(f"--alpha follows --dim: {given['network_dim']}.")
    options = overlay({**types, **BASE, **preset.train, **expert.train}, given)
    if dit.dtype == "fp8" and options.get("fp8_scaled"):
        options["fp8_scaled"] = None
        notes.append(f"{dit.path.name} is fp8 already: upstream trains it with --fp8_base alone.")
    if options.get("timestep_sampling") != "shift":
        if "discrete_flow_shift" in given:
            raise OptionError(
                f"upstream ignores --flow_shift with timestep_sampling {options.get('timestep_sampling')}."
            )
        options["discrete_flow_shift"] = None
    check(options, preset, precision)
    steps = _steps(options, dataset)
    return Recipe(options=rewrite(options, steps), steps=steps, notes=tuple(notes))


def _steps(options: Options, dataset: Dataset) -> int:
    if options.get("max_train_epochs") is None:
        return whole(options, "max_train_steps", 0)
    return dataset.steps(whole(options, "max_train_epochs", 0), whole(options, "gradient_accumulation_steps", 1))


def check(options: Options, preset: Preset, precision: str) -> None:
    """Raises OptionError: what upstream finds only after the caching, or never."""
    swap, blocks = whole(options, "blocks_to_swap", 0), preset.blocks
    if not 0 <= swap < blocks:
        raise OptionError(
            f"--blocks_to_swap {swap}: this model has {blocks} blocks, of which {blocks - 1} at most can be swapped."
        )
    if options["mixed_precision"] != precision:
        raise OptionError(
            f"--mixed_precision must be {precision}, the type of the DiT file; upstream refuses {options['mixed_precision']}."
        )
    for name in COUNTS:
        if whole(options, name, 1) < 1:
            raise OptionError(f"--{name} {options[name]}: it must be 1 at least.")
    check_timesteps(options)
    for name in ("optimizer_args", "lr_scheduler_args", "network_args"):
        for pair in options.get(name) or ():  # type: ignore[union-attr]
            if str(pair).count("=") != 1:
                raise OptionError(f"--{name} takes name=value pairs with a single =; not {pair!r}.")
