"""Preset + what the user gave -> upstream's training options for one expert, all that matters written out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wanwrap.data.dataset import Dataset
from wanwrap.errors import OptionError
from wanwrap.preset import Expert, Preset
from wanwrap.upstream.options import Options, Value, number, overlay, whole
from wanwrap.upstream.rules import check
from wanwrap.upstream.schedule import rewrite
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

STATE_STEPS = 200  # a quarter of an hour at 5 s a step, and 1 GB to write for a 14B's rank 16
RATE = 0.01  # ten times the highest that any published recipe uses


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Upstream's options but its paths; `steps` is the number that upstream will announce."""

    options: Options
    steps: int
    per_epoch: int
    notes: tuple[str, ...] = ()

    @property
    def epochs(self) -> int:
        """The epochs that are begun; of a run that is counted in steps the last may be cut."""
        return math.ceil(self.steps / self.per_epoch)


def recipe(
    preset: Preset,
    expert: Expert,
    dataset: Dataset,
    dit: Located,
    given: Options,
    wanted: str | None = None,
    gpus: int = 1,
) -> Recipe:
    """The options of one expert's training, in the precision that is wanted, else in the DiT's own.

    Raises:
        OptionError: a setting that upstream would refuse, ignore or misread.
    """
    precision = wanted or PRECISION[dit.dtype]
    kind: Options = {"task": preset.task, "mixed_precision": precision, "save_precision": precision}
    declared: Options = {**kind, **_declared(preset, expert)}
    options, notes = _settled(declared, given, dit)
    check(options, given, preset, dit.dtype)
    if gpus > 1 and options.get("seed") is None:
        raise OptionError(f"with --gpus {gpus} each GPU would draw a seed, and batches, of its own; give --seed.")
    steps = _steps(options, dataset, gpus)
    per_epoch = dataset.steps(1, whole(options, "gradient_accumulation_steps", 1), gpus)
    return Recipe(
        options=rewrite(options, steps, gpus), steps=steps, per_epoch=per_epoch, notes=(*notes, *_remarks(options))
    )


def cadence(found: Recipe) -> tuple[Options, int | None, int | None]:
    """How often upstream saves LoRA and state, and which LoRAs are kept: every so many epochs, the last so many.

    A state is what a run goes on from; without one in sight for a long time it is saved more often than the LoRAs
    that are wanted, in a part of their epochs.
    """
    save_every = whole(found.options, "save_every_n_epochs", 0) or None
    keep_last = whole(found.options, "save_last_n_epochs", 0) or None
    most = max(1, STATE_STEPS // found.per_epoch)
    parts = [n for n in range(1, min(most, save_every or most) + 1) if not (save_every or n) % n]
    saving: Options = {
        "save_every_n_epochs": max(parts),
        "save_last_n_epochs": None,  # wanwrap's own business: what upstream would remove has been moved
        "save_state": True,
        "save_last_n_epochs_state": 2,  # the younger one may be half
    }
    return saving, save_every, keep_last


def length(preset: Preset, expert: Expert, dataset: Dataset) -> tuple[int | None, int]:
    """Epochs (None where the preset counts in steps) and steps, as the preset has them."""
    options = _declared(preset, expert)
    epochs = whole(options, "max_train_epochs", 0) if options.get("max_train_epochs") is not None else None
    return epochs, _steps(options, dataset)


def _declared(preset: Preset, expert: Expert) -> Options:
    return {**BASE, **preset.train, **expert.train}


def _settled(declared: Options, given: Options, dit: Located) -> tuple[dict[str, Value], list[str]]:
    """`given` over `declared`, with what hangs on it, and what is to be said of that."""
    options, notes = overlay(declared, given), list[str]()
    if "network_dim" in given and "network_alpha" not in given:
        options["network_alpha"] = given["network_dim"]
        notes.append(f"--alpha follows --dim: {given['network_dim']}.")
    if "optimizer_args" not in given and not _related(options["optimizer_type"], declared["optimizer_type"]):
        options["optimizer_args"] = None
        notes.append(f"{declared['optimizer_type']}'s optimizer_args are not used for {options['optimizer_type']}.")
    if dit.dtype == "fp8" and options.get("fp8_scaled"):
        options["fp8_scaled"] = None
        notes.append(f"{dit.path.name} is fp8 already: upstream trains it with --fp8_base alone.")
    if not whole(options, "max_data_loader_n_workers", 0):
        options["persistent_data_loader_workers"] = None  # torch refuses it without workers
    if options.get("timestep_sampling") != "shift" and "discrete_flow_shift" not in given:
        options["discrete_flow_shift"] = None
    return options, notes


def _remarks(options: Options) -> list[str]:
    """What is allowed and may not be meant."""
    remarks = []
    if whole(options, "save_every_n_epochs", 1) > whole(options, "max_train_epochs", 10**9):
        remarks.append("--save_every is longer than the run: only its end is saved.")
    if number(options, "learning_rate", 0.0) > RATE and "prodigy" not in str(options["optimizer_type"]).lower():
        remarks.append(f"--lr {options['learning_rate']} is far above what any recipe uses (1e-5 to 1e-3).")
    if options.get("no_metadata"):
        remarks.append("--no_metadata: the LoRA won't tell what it was trained on, not to wanwrap either.")
    return remarks


def _related(one: Value, other: Value) -> bool:
    """Whether an optimizer takes the other's arguments: all AdamWs do."""
    return one == other or all("adamw" in str(name).lower() for name in (one, other))


def _steps(options: Options, dataset: Dataset, gpus: int = 1) -> int:
    if options.get("max_train_epochs") is None:
        return whole(options, "max_train_steps", 0)
    accumulation = whole(options, "gradient_accumulation_steps", 1)
    return dataset.steps(whole(options, "max_train_epochs", 0), accumulation, gpus)
