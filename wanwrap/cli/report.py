"""What a plan is and what it has made, in words and as JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from wanwrap import __version__
from wanwrap.plan.plan import Plan, Step


def heading(plan: Plan) -> Iterator[str]:
    """What will be trained, in a few lines."""
    data = plan.dataset
    without = " without Lightning" if plan.without_lightning else ""
    yield f"wanwrap {__version__}: {plan.preset.name}{without} on {data.name}: {data.train_items} items, {data.batches} batches an epoch"
    for step in plan.trainings:
        yield f"{step.name}: {_length(step)}"
    yield f"folder: {plan.folder}"


def _length(step: Step) -> str:
    assert step.recipe
    options = step.recipe.options
    epochs = options.get("max_train_epochs")
    length = f" in {epochs} epoch{'' if epochs == 1 else 's'}" if epochs else ""
    return f"{step.recipe.steps} steps{length}, rank {options['network_dim']}"


def lacking(missing: Sequence[str]) -> list[str]:
    """What a run still needs, a line each."""
    return ["missing before this can run:", *(f"  {thing}" for thing in missing)] if missing else []


def interrupted(plan: Plan, record: Mapping[str, Any]) -> str:
    """Where a run was stopped, and what is left of it."""
    from wanwrap.cli.status_report import again
    from wanwrap.run.status import look

    steps = [row["name"] for row in record["steps"] if row["state"] in ("interrupted", "stopped")]
    where = f" in {' and '.join(steps)}" if steps else ""
    begun = [again(each) for each in look(plan.folder).planned if each.state not in ("done", "waiting")]
    return " ".join([f"stopped{where}; the same command goes on.", *begun])


def finished(plan: Plan, placed: Sequence[str] = ()) -> Iterator[str]:
    """Where the LoRAs are and how to use them; `placed` is what was put into ComfyUI."""
    yield "done:"
    for step in plan.trainings:
        assert step.makes
        size = f"{step.makes.stat().st_size / 1e6:.1f} MB" if step.makes.is_file() else "no longer there"
        yield f"  {step.makes} ({size})"
    yield from placed or ["Copy them to ComfyUI's models/loras (--to_comfyui does that)."]
    if len(plan.trainings) > 1:
        yield "Load each on its own model: -high on the high-noise model, -low on the low-noise model."
    if plan.without_lightning:
        yield "At inference: as for any LoRA of the base model; it was trained without Lightning."
    else:
        yield f"At inference: {plan.preset.inference}"


def rehearsed(plan: Plan, missing: Sequence[str]) -> Iterator[str]:
    """That all steps work, and what is still to be had before the real run."""
    yield f"rehearsed: upstream carried out all {len(plan.steps)} steps and made"
    for step in plan.trainings:
        yield f"  {step.makes}"
    yield "These are toys and train nothing; the folder can be deleted."
    yield from lacking(missing)
    if not missing:
        yield "The real run: the same command with `run`."


def described(plan: Plan) -> Iterator[str]:
    """A preset in full, per expert."""
    preset = plan.preset
    yield f"{preset.name}: {preset.summary}"
    yield ""
    yield preset.doc
    yield ""
    yield f"Weights: {', '.join(weight.path.name for weight in plan.weights)}"
    if preset.lightning:
        yield f"Lightning: release {preset.lightning.release}, strength {preset.lightning.strength:g}"
    tables = [dict(_spelled(step)) for step in plan.trainings]
    common = dict(set(tables[0].items()).intersection(*(table.items() for table in tables[1:])))
    yield "\nOptions (steps and total_iters here for the sample data set):"
    yield from _rows(tables[0], common.keys())
    for step, table in zip(plan.trainings, tables, strict=True):
        if len(tables) > 1:
            yield f"{step.name}:"
            yield from _rows(table, table.keys() - common.keys())
    yield "\nCommands, here for the sample data set; `wanwrap run NAME --dry_run` prints yours:"


def _spelled(step: Step) -> Iterator[tuple[str, str]]:
    assert step.recipe
    for name, value in step.recipe.options.items():
        if value is not None and value is not False:
            yield name, " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _rows(table: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    return (f"  {name:<32} {value}" for name, value in table.items() if name in names)


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan for other programs."""
    return {
        "preset": plan.preset.name,
        "name": plan.name,
        "folder": str(plan.folder),
        "items": plan.dataset.train_items,
        "batches_per_epoch": plan.dataset.batches,
        "files": {str(path): text for path, text in plan.files.items()},
        "env": dict(plan.env),
        "steps": [_step(step) for step in plan.steps],
        "weights": [{"path": str(weight.path), "exists": weight.exists} for weight in plan.weights],
        "notes": list(plan.notes),
    }


def _step(step: Step) -> dict[str, Any]:
    extra = {"optimizer_steps": step.recipe.steps} if step.recipe else {}
    return {
        "name": step.name,
        "argv": list(step.argv),
        "makes": str(step.makes) if step.makes else None,
        **extra,
    }
