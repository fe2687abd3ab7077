"""Preset + what the user gave -> upstream's training options for one expert, all that matters written out."""

from __future__ import annotations

from dataclasses import dataclass

from wanwrap.data.dataset import Dataset
from wanwrap.errors import OptionError
from wanwrap.plan.request import Request
from wanwrap.preset import Expert
from wanwrap.upstream import rules, schedule
from wanwrap.upstream.options import Options, Value, overlay, whole
from wanwrap.weights.locate import Located

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


@dataclass(frozen=True, kw_only=True)
class ExpertOptions:
    """Upstream's options but its paths, the optimizer steps of an epoch and of all, and what is to be said of them."""

    options: Options
    steps: int
    per_epoch: int
    notes: tuple[str, ...] = ()


def expert_options(request: Request, expert: Expert, dataset: Dataset, dit: Located) -> ExpertOptions:
    """The options of one expert's training, in the precision that is asked for, else in the DiT's own.

    Raises:
        OptionError: a setting that upstream would refuse, ignore or misread.
    """
    preset, gpus = request.preset, request.gpus
    precision = request.precision or rules.PRECISION[dit.dtype]
    kind: Options = {"task": preset.task, "mixed_precision": precision, "save_precision": precision}
    declared: Options = {**kind, **BASE, **preset.train, **expert.train}
    options, notes = _settled(declared, request.given, dit)
    rules.check(options, dit.dtype, samples=bool(preset.sample_prompts))
    if gpus > 1 and options.get("seed") is None:
        raise OptionError(f"with --gpus {gpus} each GPU would draw a seed, and batches, of its own; give --seed.")
    if expert.noise_level:
        remark = rules.compare_windows(preset.window(expert), rules.window(options), expert.noise_level)
        notes += [remark] if remark else []
    steps = count_steps(options, dataset, gpus)
    return ExpertOptions(
        options=schedule.rewrite(options, request.given, steps, gpus),
        steps=steps,
        per_epoch=dataset.steps(1, whole(options, "gradient_accumulation_steps", 1), gpus),
        notes=(*notes, *rules.remarks(options, gpus)),
    )


def count_steps(options: Options, dataset: Dataset, gpus: int = 1) -> int:
    """Optimizer steps in all, as upstream will announce them."""
    if options.get("max_train_epochs") is None:
        return whole(options, "max_train_steps", 0)
    accumulation = whole(options, "gradient_accumulation_steps", 1)
    return dataset.steps(whole(options, "max_train_epochs", 0), accumulation, gpus)


def length(request: Request, expert: Expert, dataset: Dataset) -> tuple[int | None, int]:
    """Epochs (None where the preset counts in steps) and steps, as the preset has them."""
    options: Options = {**BASE, **request.preset.train, **expert.train}
    epochs = whole(options, "max_train_epochs", 0) if options.get("max_train_epochs") is not None else None
    return epochs, count_steps(options, dataset)


def state_interval(save_every: int | None, per_epoch: int) -> int:
    """Epochs between two states: every STATE_STEPS steps at most, in a part of the epochs of which LoRAs are kept.

    A state is what a training goes on from.
    """
    most = max(1, STATE_STEPS // per_epoch)
    return max(n for n in range(1, min(most, save_every or most) + 1) if not (save_every or n) % n)


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


def _related(one: Value, other: Value) -> bool:
    """Whether an optimizer takes the other's arguments: all AdamWs do."""
    return one == other or all("adamw" in str(name).lower() for name in (one, other))
