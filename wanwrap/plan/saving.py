"""How much disk the LoRAs and states of a plan will take: as they are reckoned before, or as they have been since."""

from __future__ import annotations

import math

from wanwrap.plan.plan import Plan, Step
from wanwrap.run import progress
from wanwrap.upstream import network

WIDTHS = {"fp16": 2, "bf16": 2}  # bytes a number, by --save_precision; else fp32
MOMENTS = {"adamw8bit": 2, "adafactor": 1}  # bytes a number that an optimizer keeps; AdamW's two in fp32 are 8
STATES = 3  # that lie there while the third is being written


def bytes_left(plan: Plan) -> int:
    """What the trainings that are not done yet will have written at most, beside what is there."""
    return sum(_left(plan, step) for step in plan.trainings if not progress.is_done(plan, step))


def _left(plan: Plan, step: Step) -> int:
    assert step.recipe and step.training
    training, before = step.training, progress.read(plan.folder, step.training.key)
    lora, state = _sizes(plan, step)
    known, resume = before.get("bytes", {}), before.get("resume")
    lora, state = known.get("lora", lora), known.get("state", state)
    begun = resume["epoch"] if resume else 0
    every = training.save_every or step.recipe.epochs
    kept = (step.recipe.epochs - 1) // every - begun // every
    kept = min(kept, training.keep_last) if training.keep_last else kept
    return int(lora * (kept + 2) + state * (STATES - (1 if resume else 0)))  # with the last LoRA, and one in the making


def _sizes(plan: Plan, step: Step) -> tuple[int, int]:
    """Bytes of a LoRA and of a state; 0 for a network whose tensors nobody knows."""
    assert step.recipe
    options = step.recipe.options
    tensors = network.tensors(network.matrices(plan, step), options) or {}
    count = sum(math.prod(shape) for shape in tensors.values())
    optimizer = str(options["optimizer_type"]).rpartition(".")[2].lower()
    return count * WIDTHS.get(str(options.get("save_precision")), 4), count * (4 + MOMENTS.get(optimizer, 8))
