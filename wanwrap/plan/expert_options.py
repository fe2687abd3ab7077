"""Preset + what the user gave -> upstream's training options for one expert, all that matters written out.

With them the record of what a LoRA was trained on and by, which goes in as upstream's `--training_comment`: upstream
leaves out what a wrapper must know later. weights/provenance.py reads it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wanwrap import __version__
from wanwrap.data.dataset import Dataset
from wanwrap.errors import OptionError
from wanwrap.plan.request import Request
from wanwrap.preset import Expert
from wanwrap.upstream import rules, schedule
from wanwrap.upstream.options import Options, Value, overlay, whole
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.weight_file import WeightFile

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


def expert_options(
    request: Request, expert: Expert, dataset: Dataset, dit: WeightFile
) -> tuple[dict[str, Value], list[str]]:
    """One expert's options but for paths, and what is to be said of them; in the precision asked for, else the DiT's.

    Raises:
        OptionError: a setting that upstream would refuse, ignore or misread.
    """
    preset, gpus = request.preset, request.gpus
    precision = request.precision or rules.PRECISION[dit.dtype]
    kind: Options = {"task": preset.task, "mixed_precision": precision, "save_precision": precision}
    options, notes = _settled({**kind, **BASE, **preset.train, **expert.train}, request.given, dit)
    rules.check(options, dit.dtype, samples=bool(request.samples))
    if gpus > 1 and options.get("seed") is None:
        raise OptionError(f"with --gpus {gpus} each GPU would draw a seed, and batches, of its own; give --seed.")
    if expert.noise_level:
        notes += rules.compare_windows(preset.window(expert), rules.window(options), expert.noise_level)
    notes += rules.remarks(options, gpus)
    steps, _ = count_steps(options, dataset, gpus)
    return schedule.rewrite(options, request.given, steps, gpus), notes


def _settled(declared: Options, given: Options, dit: WeightFile) -> tuple[dict[str, Value], list[str]]:
    """`given` over `declared`, with what hangs on it, and what is to be said of that."""
    options, notes = overlay(declared, given), list[str]()
    if "network_dim" in given and "network_alpha" not in given:
        options["network_alpha"] = given["network_dim"]
        notes.append(f"--alpha follows --dim: {given['network_dim']}.")
    before, now = str(declared["optimizer_type"]), str(options["optimizer_type"])
    related = before == now or ("adamw" in before.lower() and "adamw" in now.lower())  # which take the same arguments
    if not related and "optimizer_args" not in given:
        options["optimizer_args"] = None
        notes.append(f"{before}'s optimizer_args are not used for {now}.")
    if dit.dtype == "fp8" and options.get("fp8_scaled"):
        options["fp8_scaled"] = None
        notes.append(f"{dit.path.name} is fp8 already: upstream trains it with --fp8_base alone.")
    if not whole(options, "max_data_loader_n_workers", 0):
        options["persistent_data_loader_workers"] = None  # torch refuses it without workers
    if options.get("timestep_sampling") != "shift" and "discrete_flow_shift" not in given:
        options["discrete_flow_shift"] = None
    return options, notes


def count_steps(options: Options, dataset: Dataset, gpus: int = 1) -> tuple[int, int]:
    """Optimizer steps in all, as upstream will announce them, and in an epoch."""
    per_epoch = dataset.steps(1, whole(options, "gradient_accumulation_steps", 1), gpus)
    epochs = whole(options, "max_train_epochs", 0)
    return epochs * per_epoch or whole(options, "max_train_steps", 0), per_epoch


def length(request: Request, expert: Expert, dataset: Dataset) -> tuple[int | None, int]:
    """Epochs (None where the preset counts in steps) and steps, as the preset has them."""
    options: Options = {**BASE, **request.preset.train, **expert.train}
    return whole(options, "max_train_epochs", 0) or None, count_steps(options, dataset)[0]


def state_interval(save_every: int | None, per_epoch: int) -> int:
    """Epochs between two states: every STATE_STEPS steps at most, in a part of the epochs of which LoRAs are kept.

    A state is what a training goes on from.
    """
    most = max(1, STATE_STEPS // per_epoch)
    return max(n for n in range(1, min(most, save_every or most) + 1) if not (save_every or n) % n)


def provenance(request: Request, expert: Expert, options: Options, weights: Mapping[str, WeightFile]) -> dict[str, Any]:
    """The record of one training; a comment of the user's is kept within."""
    lightning, preset = request.lightning, request.preset
    merged = {**_file(weights[lightning.lora(expert)]), "strength": lightning.strength} if lightning else None
    return {
        "wanwrap": __version__,
        "upstream": {"version": request.upstream.version, "commit": request.upstream.commit},
        "preset": request.called,
        "toy": bool(request.upstream.child),
        "task": preset.task,
        "expert": expert.noise_level,
        "boundary": preset.boundary,
        "timesteps": rules.window(options),
        "preserve_distribution_shape": options.get("preserve_distribution_shape"),
        "fp8": "scaled" if options.get("fp8_scaled") else "base" if options.get("fp8_base") else None,
        "base": _file(weights[expert.dit]),
        "lightning": merged,
        "comment": options.get("training_comment"),
    }


def _file(weight: WeightFile) -> dict[str, Any]:
    """A weight by its name, its size and the best mark that is known without reading all of it."""
    size = weight.size if weight.exists else CATALOGUE[weight.names[0]].size
    mark = {"sha256": weight.sha256} if weight.sha256 else {"header_sha256": weight.header_sha256}
    row = {"name": weight.path.name, "dtype": weight.dtype, "bytes": size, **mark}
    return {name: value for name, value in row.items() if value}
