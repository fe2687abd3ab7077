"""What plans, runs and trainings are, in words and as JSON."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from wanwrap import __version__
from wanwrap.plan.plan import Plan, Step, Train
from wanwrap.upstream.options import Options

if TYPE_CHECKING:
    from wanwrap.run.record import Record
    from wanwrap.run.status import Expert, Run

AGAIN = "the same `wanwrap run` command goes on"


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
    without = " without Lightning" if request.preset.lightning and not request.lightning else ""
    items = f"{count(data.train_items, 'item')}, {count(data.batches, 'batch')} an epoch"
    yield f"wanwrap {__version__}: {request.preset.name}{without} on {data.name}: {items}"
    for train in plan.trainings:
        epochs = f" in {count(train.epochs, 'epoch')}" if train.options.get("max_train_epochs") else ""
        yield f"{train.title}: {count(train.steps, 'step')}{epochs}, rank {train.options['network_dim']}"
    yield f"folder: {plan.folder}"


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
    if plan.request.preset.lightning and not plan.request.lightning:
        yield "At inference: as for any LoRA of the base model; it was trained without Lightning."
    else:
        yield f"At inference: {plan.request.preset.inference}"


def described(plan: Plan) -> Iterator[str]:
    """A preset in full, per expert."""
    preset = plan.request.preset
    yield from (f"{preset.name}: {preset.summary}", "", preset.doc, "")
    yield f"Weights: {', '.join(weight.path.name for weight in plan.weights.values())}"
    if preset.lightning:
        yield f"Lightning: release {preset.lightning.release}, strength {preset.lightning.strength:g}"
    tables = [dict(_spelled(train.options)) for train in plan.trainings]
    common = dict(set(tables[0].items()).intersection(*(table.items() for table in tables[1:])))
    yield "\nOptions (steps and total_iters here for the sample data set):"
    yield from _rows(tables[0], common.keys())
    for train, table in zip(plan.trainings, tables, strict=True):
        if len(tables) > 1:
            yield f"{train.title}:"
            yield from _rows(table, table.keys() - common.keys())


def _spelled(options: Options) -> Iterator[tuple[str, str]]:
    paths = ("dit", "dataset_config", "output_name")
    for name, value in options.items():
        if value is not None and value is not False and name not in paths:
            yield name, " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _rows(table: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    return (f"  {name:<32} {value}" for name, value in table.items() if name in names)


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan for other programs."""
    return {
        "preset": plan.request.preset.name,
        "name": plan.name,
        "folder": str(plan.folder),
        "items": plan.dataset.train_items,
        "batches_per_epoch": plan.dataset.batches,
        "files": {str(path): text for path, text in plan.files.items()},
        "env": dict(plan.env),
        "steps": [_step(step) for step in plan.steps],
        "weights": [{"path": str(weight.path), "exists": weight.exists} for weight in plan.weights.values()],
        "notes": list(plan.notes),
    }


def _step(step: Step) -> dict[str, Any]:
    row: dict[str, Any] = {"name": step.name, "argv": list(step.argv)}
    if isinstance(step, Train):
        row |= {"makes": str(step.lora), "loras": step.loras, "optimizer_steps": step.steps}
    return row


# ---- a run


def far(expert: Expert) -> str:
    """`3 h 05 min left, 23 of 50 epochs, step 1150 of 2500, loss 0.07, 5.2 s/step`: what is cut off comes last."""
    record = expert.record
    assert record
    left = "loading the model" if record.loading else f"{duration(expert.seconds_left)} left"
    words = [left] if expert.training and (record.loading or expert.seconds_left) else []
    words += [f"{record.epochs_done} of {record.epochs_planned} epochs"]
    words += [f"step {record.steps_done} of {record.steps_planned}"]
    words += [f"loss {record.loss:.4g}"] if record.loss is not None else []
    words += [f"{record.seconds_per_step:.3g} s/step"] if record.seconds_per_step else []
    return ", ".join(words)


def state(expert: Expert) -> str:
    """What an expert's training is doing, and how to go on."""
    record, asked = expert.record, ""
    if expert.running:
        if expert.stop is not None:
            asked = "; asked to end at once" if expert.stop == "now" else "; asked to stop"
        doing = "training" if expert.training else (record and record.doing) or "waiting"
        return f"running ({doing}){asked}"
    because = f": {record.reason.splitlines()[0].rstrip('.;: ')}" if record and record.reason else ""
    return {
        "done": "finished",
        "begun by 0.1.0": "begun by wanwrap 0.1.0: end it with that version, or begin anew with --restart",
        "unreadable": "its record can't be read",
        "waiting": "not begun yet",
        "killed": f"was killed (a power cut, a crash, or ended by force); {AGAIN}",
        "interrupted": f"interrupted{because}; {AGAIN}",
        "stopped": f"stopped{because}; {AGAIN}",
        "failed": f"failed{because}; when that is mended {AGAIN}",
    }.get(expert.state, f"{expert.state}{because}")


def line(expert: Expert) -> str:
    """An expert in one line, which is renewed while it is trained."""
    if expert.training:
        return f"{expert.name}: {far(expert)}{state(expert).partition(')')[2]}"
    begun = expert.record and expert.record.steps_done and expert.state != "done"
    return f"{expert.name}: {state(expert).partition(';')[0]}{f', {far(expert)}' if begun else ''}"


def going(run: Run) -> list[str]:
    """A line for each expert that is trained, or what else is done for them; then the time that all of them take."""
    left = [f"all: {duration(run.seconds_left)} left"] if len(run.running) > 1 and run.seconds_left else []
    return [*map(line, [each for each in run.running if each.training] or run.running), *left]


def detail(run: Run) -> Iterator[str]:
    """All there is to know about a run, a line each: how far each expert is, then where to look."""
    yield f"{run.name}{' (a rehearsal)' if run.rehearsal else ''}"
    for each in run.experts:
        yield f"  {each.name:<6}  {state(each)}"
        yield from (f"          {row}" for row in (_about(each) if each.record else ()))
    if len(run.running) > 1 and run.seconds_left:
        yield f"  all     {duration(run.seconds_left)} left"
    ended = [each.record for each in run.experts if each.record and not each.running and each.state != "done"]
    yield from (f"  again   {command}" for command in sorted({record.command for record in ended if record.command}))
    yield f"  folder  {run.folder}"
    yield from (f"  log     {path}" for each in run.experts if (path := each.folder / "run.log").is_file())
    if any((each.folder / "logs").is_dir() for each in run.experts):
        folder = shlex.quote(str(run.folder)) if os.name == "posix" else f'"{run.folder}"'
        yield f"  curves  tensorboard --logdir {folder}"


def _about(expert: Expert) -> Iterator[str]:
    """How far an expert is, and what is safe of it."""
    record = expert.record
    assert record
    yield far(expert)
    saved = f"last whole state: epoch {record.saved_epoch}" if record.saved_epoch else "no whole state yet"
    safe = [] if expert.state == "done" else [saved]
    if len(record.attempts) > 1:
        why = record.attempts[-2].get("reason")
        safe.append(f"attempt {len(record.attempts)}" + (f" (before: {why})" if why else ""))
    safe += [f"{count(len(record.files), 'LoRA')} (the last: {record.files[-1]})"] if record.files else []
    safe += [f"{record.blocks_to_swap} blocks swapped"] if record.blocks_to_swap else []
    yield ", ".join([*safe, f"updated {moment(record.updated)}"])


def moment(text: str) -> str:
    """A time as the clock on the wall shows it, and how long ago that is: what hangs is seen by it."""
    with suppress(ValueError):
        then = datetime.fromisoformat(text)
        ago = (datetime.now(timezone.utc) - then).total_seconds() if then.tzinfo else -1
        return f"{then.astimezone():%Y-%m-%d %H:%M:%S}" + (f" ({duration(ago)} ago)" if ago >= 0 else "")
    return text


def stopping(expert: Expert, *, now: bool) -> str:
    """What will happen to a training that has been asked to stop."""
    if now or expert.stop == "now":
        return f"{expert.name} ends at once. {again(expert.record, expert.name)}"
    if not expert.training:
        doing = expert.record.doing if expert.record and expert.record.doing else "what it does"
        return f"{expert.name} ends when {doing} is done, before it is trained."
    epoch, seconds = expert.stops_after()
    when = f", in about {duration(seconds)}" if seconds is not None else ""
    return f"{expert.name} ends after epoch {epoch}, when its state is saved{when}."


def again(record: Record | None, expert: str) -> str:
    """Where a training goes on the next time."""
    if record is None or not record.saved_epoch:
        return f"There is no whole state of {expert} yet: it begins anew the next time."
    steps = max(record.steps_done - record.saved_epoch * record.steps_per_epoch, 0)
    more = f": {count(steps, 'step')} are trained again" if steps else ""
    return f"{expert} goes on from epoch {record.saved_epoch} the next time{more}."


def run_json(run: Run) -> dict[str, Any]:
    """A run for other programs; `experts` hold the records as they are, and what was reckoned from them."""
    return {
        "name": run.name,
        "folder": str(run.folder),
        "rehearsal": run.rehearsal,
        "running": bool(run.running),
        "seconds_left": run.seconds_left,
        "experts": {
            each.name: {
                **(asdict(each.record) if each.record else {}),
                "state": "running" if each.training else each.state,
                "running": each.running,
                "stopping": each.stop is not None,
                "words": state(each),
                "seconds_left": each.seconds_left,
                "folder": str(each.folder),
            }
            for each in run.experts
        },
    }
