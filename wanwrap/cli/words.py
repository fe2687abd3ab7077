"""What a plan is, in words and as JSON; numbers and times in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from wanwrap import __version__
from wanwrap.plan.fit import Fit, seconds
from wanwrap.plan.fit_words import as_json, line
from wanwrap.plan.plan import Plan, Train


def count(number: int, what: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {what}{'' if number == 1 else 'es' if what == 'batch' else 's'}"


def duration(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3 h 05 min`, `4 days`."""
    if seconds is None:
        return "unknown"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    if seconds > 100 * 3600:
        return f"{seconds / 86400:.0f} days"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


# ---- a plan


def heading(plan: Plan) -> Iterator[str]:
    """What will be trained, in a few lines."""
    data, request = plan.dataset, plan.request
    without = " without Lightning" if request.skip_lightning else ""
    items = f"{count(data.train_items, 'item')}, {count(data.batches, 'batch')} an epoch"
    yield f"wanwrap {__version__}: {request.preset.name}{without} on {data.name}: {items}"
    for train in plan.trainings:
        epochs = f" in {count(train.epochs, 'epoch')}" if train.options.get("max_train_epochs") else ""
        yield f"{train.name}: {count(train.steps, 'step')}{epochs}, rank {train.options['network_dim']}"
        yield from (f"  {line(fit)}{expected(fit)}" for fit in plan.fits if fit.train.expert == train.expert)
    yield f"folder: {plan.folder}"


def expected(fit: Fit) -> str:
    """`, 5 h to 9 h (a guess)`: how long it takes, where that can be told beforehand."""
    if fit.seconds is None:
        return ""
    least, most = (duration(seconds * fit.train.steps) for seconds in fit.seconds)
    return f", {least} to {most} (a guess)"


def lacking(missing: Sequence[str]) -> list[str]:
    """What a run still needs, a line each."""
    return ["missing before this can run:", *(f"  {thing}" for thing in missing)] if missing else []


def finished(plan: Plan, placed: Sequence[str] = ()) -> Iterator[str]:
    """Where the LoRAs are and how to use them; `placed` is what was put into ComfyUI."""
    yield "done:"
    for train in plan.trainings:
        there = train.lora.is_file()
        size = f"{train.lora.stat().st_size / 1e6:.1f} MB" if there else "no longer there"
        yield f"  {train.lora} ({size})"
    yield from placed or ["Copy them to ComfyUI's models/loras (--to_comfyui does that)."]
    if len(plan.trainings) > 1:
        yield "Load each on its own model: -high on the high-noise model, -low on the low-noise model."
    yield at_inference(plan)


def at_inference(plan: Plan) -> str:
    """How its LoRAs are used."""
    request, each = plan.request, "each at 1.0" if len(plan.trainings) > 1 else "your LoRA at 1.0"
    if request.lightning:
        each = f"on each model its Lightning LoRA ({request.lightning.release}) at {request.lightning.strength:g}, then yours"
    width, height = request.inference.size
    return f"At inference: {request.inference.words()}, {width}x{height}; {each}."


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan for other programs."""
    steps = list[dict[str, Any]]()
    for step in plan.steps:
        steps.append({"name": step.name, "argv": list(step.argv)})
        if isinstance(step, Train):
            steps[-1] |= {"makes": step.lora, "loras": step.loras, "optimizer_steps": step.steps}
    return {
        "preset": plan.request.preset.name,
        "name": plan.name,
        "folder": plan.folder,
        "items": plan.dataset.train_items,
        "batches_per_epoch": plan.dataset.batches,
        "files": {str(path): text for path, text in plan.files.items()},
        "env": dict(plan.env),
        "steps": steps,
        "weights": [{"path": weight.path, "exists": weight.exists} for weight in plan.weights.values()],
        "notes": list(plan.notes),
        "memory": [as_json(fit) for fit in plan.fits],
        "time": seconds(plan),
    }
