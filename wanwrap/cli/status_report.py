"""What a run is doing, in words and as JSON."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from wanwrap.run.status import NOW, Run, Training, all_left


def line(run: Run) -> str:
    """A run in one line, without its name."""
    far = [] if run.state == "done" else [_short(each) for each in run.planned if each.number("steps_done")]
    return "; ".join([run.words(), *far, *_left(run)])


def _short(each: Training) -> str:
    epochs = _of(each, "epochs_done", "epochs_planned")
    return f"{each.expert} {'done' if each.state == 'done' else f'{epochs} epochs' if epochs else _far(each)}"


def brief(run: Run) -> str:
    """What is going on right now: a line that is renewed and cut where the terminal ends, so the time comes first."""
    one, step = run.training, str(run.step["name"]) if run.step else run.words()
    return f"{step}: " + ", ".join([*_left(run), *([_far(one), *_pace(one)] if one else ())])


def going(trainings: Sequence[Training], shown: Collection[str], *, parallel: bool) -> Iterator[str]:
    """A line for each expert that is being trained, with the time that all of them take."""
    together = all_left(trainings, parallel=parallel) if len(trainings) > 1 else None
    for each in trainings:
        if each.expert in shown:
            left = [f"{duration(each.seconds_left)} left"] if each.seconds_left else []
            left = ["loading the model", *left] if each.record.get("loading") else left
            whole = [f"all {duration(together)}"] if together else []
            yield f"{each.expert}: {', '.join([_far(each), *_pace(each), *left, *whole])}"


def trained(training: Training) -> str:
    """What an expert's training has come to."""
    return f"{training.expert}: {', '.join([_far(training), *_pace(training)])}, done"


def detail(run: Run) -> Iterator[str]:
    """All there is to know about a run, a line each: what, then how far each expert is, then where to look."""
    yield f"{run.name}: {run.words()}"
    for each in run.trainings:
        yield from _training(run, each)
    if len(run.planned) > 1 and (left := _left(run)):
        yield f"  all     {left[0]}"
    yield f"  folder  {run.folder}"
    if not run.running and run.state != "done" and (command := run.ledger.get("command")):
        yield f"  again   {command}"
    for log in sorted(run.folder.glob(f"{run.record}*.log")):
        yield f"  log     {log}"
    if run.logs.is_dir():
        yield f"  curves  {curves(run)}"


def _training(run: Run, each: Training) -> Iterator[str]:
    """How far an expert is, and what is safe of it."""
    left = [f"{duration(each.seconds_left)} left"] if run.running and each.seconds_left else []
    loading = ["loading the model"] if run.running and each.record.get("loading") else []
    yield f"  {each.expert:<6}  " + ", ".join([f"{_state(run, each)}: {_far(each)}", *loading, *_pace(each), *left])
    if each.state == "failed" and each.record.get("reason") and run.running:
        yield f"          why: {str(each.record['reason']).splitlines()[0]}"
    if each.record.get("updated"):
        safe = [] if each.state == "done" else [*_whole(each)]
        yield "          " + ", ".join([*safe, *_made(each), f"updated {_moment(str(each.record['updated']))}"])


def _state(run: Run, each: Training) -> str:
    """What it was doing when the run was killed it does no longer."""
    cut = not run.running and each.state in ("running", "retrying")
    return "cut off" if cut else each.state


def _far(each: Training) -> str:
    """`23 of 50 epochs, step 1150 of 2500`."""
    epochs, steps = (_of(each, f"{what}_done", f"{what}_planned") for what in ("epochs", "steps"))
    return ", ".join([*([f"{epochs} epochs"] if epochs else []), f"step {steps or 0}"])


def _of(each: Training, done: str, planned: str) -> str:
    most = each.number(planned)
    return f"{each.number(done) or 0:.0f} of {most:.0f}" if most else ""


def _pace(each: Training) -> Iterator[str]:
    if (loss := each.number("loss")) is not None:
        yield f"loss {loss:.4g}"
    if pace := each.number("seconds_per_step"):
        yield f"{pace:.3g} s/step"


def _whole(each: Training) -> Iterator[str]:
    """What a power cut would leave, and how it came here."""
    resume, attempts = each.record.get("resume"), each.record.get("attempts")
    yield f"last whole state: epoch {resume.get('epoch')}" if isinstance(resume, dict) else "no whole state yet"
    if isinstance(attempts, list) and len(attempts) > 1:
        how = attempts[-2].get("how") if isinstance(attempts[-2], dict) else None
        yield f"attempt {len(attempts)}" + (f" (before: {how})" if how else "")


def _made(each: Training) -> Iterator[str]:
    files = each.record.get("files")
    if isinstance(files, list) and files:
        yield f"{len(files)} LoRA{'' if len(files) == 1 else 's'} (the last: {files[-1]})"
    if (blocks := each.number("blocks_to_swap")) is not None:
        yield f"{blocks:.0f} blocks swapped"


def _moment(text: str) -> str:
    """A time as the clock on the wall shows it, and how long ago that is: what hangs is seen by it."""
    with suppress(ValueError):
        then = datetime.fromisoformat(text)
        ago = (datetime.now(timezone.utc) - then).total_seconds() if then.tzinfo else -1
        return f"{then.astimezone():%Y-%m-%d %H:%M:%S}" + (f" ({duration(ago)} ago)" if ago >= 0 else "")
    return text


def _left(run: Run) -> list[str]:
    return [f"{duration(run.seconds_left)} left"] if run.running and run.seconds_left else []


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


def curves(run: Run) -> str:
    """The command that draws them, for this system's shell."""
    path = shlex.quote(str(run.logs)) if os.name == "posix" else f'"{run.logs}"'
    return f"tensorboard --logdir {path}"


def stopping(run: Run, *, now: bool) -> str:
    """What will happen to a run that has been asked to stop."""
    one = run.training
    if now or run.stopping == NOW:
        return f"{run.name} ends at once. {again(one) if one else 'No training is under way.'}"
    if not one:
        step = f"{run.step['name']} is done" if run.step else "what it does is done"
        return f"{run.name} ends when {step}, before a training begins."
    epoch, seconds = one.stops_after()
    when = f", in about {duration(seconds)}" if seconds is not None else ""
    return f"{run.name} ends after epoch {epoch} of {one.expert}, when its state is saved{when}."


def asked(run: Run, *, now: bool) -> dict[str, Any]:
    """The same for other programs; None where it is not known."""
    one = None if now or run.stopping == NOW else run.training
    epoch, seconds = one.stops_after() if one else (None, None)
    return {"now": now or run.stopping == NOW, "expert": one and one.expert, "epoch": epoch, "seconds": seconds}


def again(one: Training) -> str:
    resume, done = one.record.get("resume"), one.number("steps_done") or 0
    if not isinstance(resume, dict) or not isinstance(step := resume.get("step"), int):
        return f"There is no whole state of {one.expert} yet: it begins anew the next time."
    return f"{one.expert} goes on from epoch {resume.get('epoch')} the next time: {max(done - step, 0):.0f} steps are trained again."


def as_json(run: Run) -> dict[str, Any]:
    """A run for other programs; `trainings` hold the records as they are, and what was reckoned from them."""
    return {
        "name": run.name,
        "folder": str(run.folder),
        "state": run.state,
        "words": run.words(),
        "running": run.running,
        "stopping": run.stopping is not None,
        "step": run.step["name"] if run.step else None,
        "steps": [{"name": row.get("name"), "state": row.get("state")} for row in run.steps],
        "seconds_left": run.seconds_left,
        "trainings": {
            each.expert: {**each.record, "state": _state(run, each), "seconds_left": each.seconds_left}
            for each in run.trainings
        },
        "log": str(run.log),
        "logs": str(run.logs),
    }
