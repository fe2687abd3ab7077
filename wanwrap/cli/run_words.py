"""What a run is doing, in words and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from wanwrap.cli.terminal import indented
from wanwrap.cli.words import count, duration
from wanwrap.plan.card import ALLOCATOR
from wanwrap.plan.fit_words import typed
from wanwrap.run.record import Record
from wanwrap.run.status import Expert, Run
from wanwrap.system.shell import joined


def far(expert: Expert) -> str:
    """`3 h 05 min left, 23 of 50 epochs, step 1150 of 2500, loss 0.07, 5.2 s/step`: what is cut off comes last."""
    record = expert.record
    left = "loading the model" if record.loading else f"{duration(expert.seconds_left)} left"
    words = [left] if expert.training and (record.loading or expert.seconds_left) else []
    words += [f"{record.epochs_done} of {record.epochs_planned} epochs"]
    words += [f"step {record.steps_done} of {record.steps_planned}"]
    words += [f"loss {record.loss:.4g}"] if record.loss is not None else []
    words += [f"{record.seconds_per_step:.3g} s/step"] if record.seconds_per_step else []
    return ", ".join(words)


def state(expert: Expert) -> str:
    """What an expert's training is doing, and how to go on."""
    record = expert.record
    if expert.running:
        doing = "training" if expert.training else record.doing or "waiting"
        return f"running ({doing}){_asked(expert)}"
    again = "a rehearsal begins anew" if expert.rehearsal else "the same `wanwrap run` command goes on"
    if expert.elsewhere:
        again = "the same launch with --again goes on"
    because = f": {record.reason.splitlines()[0].rstrip('.;: ')}" if record.reason else ""
    return {
        "done": "finished",
        "begun by 0.1.0": "begun by wanwrap 0.1.0: end it with that version, or begin anew with --restart",
        "unreadable": "its record can't be read",
        "waiting": "not begun yet",
        "killed": f"was killed (a power cut, a crash, or ended by force); {again}",
        "interrupted": f"interrupted{because}; {again}",
        "stopped": f"stopped{because}; {again}",
        "failed": f"failed{because}; when that is mended {again}",
    }.get(expert.state, f"{expert.state}{because}")


def _asked(expert: Expert) -> str:
    return {None: "", "now": "; asked to end at once"}.get(expert.stop, "; asked to stop")


def line(expert: Expert) -> str:
    """An expert in one line, which is renewed while it is trained."""
    if expert.training:
        return f"{expert.name}: {far(expert)}{_asked(expert)}"
    begun = expert.record.steps_done and expert.state != "done"
    return f"{expert.name}: {state(expert).partition(';')[0]}{f', {far(expert)}' if begun else ''}"


def time_left(run: Run) -> list[str]:
    """`all: 3 h 05 min left`, where that is more than one expert's."""
    return [f"all: {duration(run.seconds_left)} left"] if len(run.running) > 1 and run.seconds_left else []


def going(run: Run) -> list[str]:
    """A line for each expert that is trained, or what else is done for them; then the time that all of them take."""
    return [*map(line, [each for each in run.running if each.training] or run.running), *time_left(run)]


def detail(run: Run) -> Iterator[str]:
    """All there is to know about a run, a line each: how far each expert is, then where to look."""
    yield f"{run.name}{' (a rehearsal)' if run.rehearsal else ''}"
    for each in run.experts:
        yield indented(f"  {each.name:<6}  {state(each)}")
        if each.record.steps_planned:
            yield from (f"          {far(each)}", indented(f"          {_safe(each)}"))
        if each.record.slow:
            yield indented(f"          slow: {each.record.slow}")
    yield from (f"  {left}" for left in time_left(run))
    if run.elsewhere:
        yield f"  as it was fetched; `wanwrap status {joined([run.name])} --launched` asks there"
    ended = [each.record for each in run.experts if each.record.command and not each.live and each.state != "done"]
    ended = [] if run.elsewhere else ended  # it goes on there
    for cwd, command in dict.fromkeys((record.cwd, record.command) for record in ended):
        if cwd not in ("", str(Path.cwd())):
            yield f"  in      {cwd}"  # from which its paths may be seen; shells join commands in many ways
        yield f"  again   {command}"
    yield f"  folder  {run.folder}"
    yield from (f"  log     {path}" for each in run.experts if (path := each.folder / "run.log").is_file())
    if any((each.folder / "logs").is_dir() for each in run.experts):
        yield f"  curves  {joined(('tensorboard', '--logdir', str(run.folder)))}"


def _safe(expert: Expert) -> str:
    """What of an expert is safe, and how it came there."""
    record = expert.record
    saved = f"last whole state: epoch {record.saved_epoch}" if record.saved_epoch else "no whole state yet"
    safe = [] if expert.state == "done" else [saved]
    if len(record.attempts) > 1:
        why = record.attempts[-2].get("reason")
        safe.append(f"attempt {len(record.attempts)}" + (f" (before: {why})" if why else ""))
    safe += [f"{count(len(record.files), 'LoRA')} (the last: {record.files[-1]})"] if record.files else []
    raised = {name: value for name, value in record.raised.items() if name != ALLOCATOR}
    ways = [*([typed(raised)] if raised else []), *(["expandable segments"] if raised != record.raised else [])]
    safe += [f"since the GPU's memory ran out with {' and '.join(ways)}"] if ways else []
    return ", ".join([*safe, f"updated {moment(record.updated)}"])


def moment(text: str) -> str:
    """A time as the clock on the wall shows it, and how long ago that is: what hangs is seen by it."""
    then = datetime.fromisoformat(text)
    ago = (datetime.now(timezone.utc) - then).total_seconds()
    return f"{then.astimezone():%Y-%m-%d %H:%M:%S}" + (f" ({duration(ago)} ago)" if ago >= 0 else "")


def stopping(expert: Expert, *, now: bool) -> str:
    """What will happen to a training that has been asked to stop."""
    if now or expert.stop == "now":
        return f"{expert.name} ends at once. {again(expert.record, expert.name)}"
    if not expert.training:
        doing = f" when {expert.record.doing} is done," if expert.record.doing else ""
        return f"{expert.name} ends{doing} before it is trained."
    epoch, seconds = expert.stops_after()
    when = f", in about {duration(seconds)}" if seconds is not None else ""
    return f"{expert.name} ends after epoch {epoch}, when its state is saved{when}."


def again(record: Record, expert: str) -> str:
    """Where a training goes on the next time."""
    if not record.saved_epoch:
        return f"There is no whole state of {expert} yet: it begins anew the next time."
    steps = max(record.steps_done - record.saved_epoch * record.steps_per_epoch, 0)
    more = f", with {count(steps, 'step')} to train again" if steps else ""
    return f"{expert} goes on from epoch {record.saved_epoch} the next time{more}."


def run_json(run: Run) -> dict[str, Any]:
    """A run for other programs; `experts` hold the records as they are, and what was reckoned from them."""
    return {
        "name": run.name,
        "folder": run.folder,
        "rehearsal": run.rehearsal,
        "running": bool(run.running),
        "seconds_left": run.seconds_left,
        "experts": {
            each.name: {
                **asdict(each.record),
                "state": "running" if each.training else each.state,
                "running": each.running,
                "stopping": each.stop is not None,
                "words": state(each),
                "seconds_left": each.seconds_left,
                "folder": each.folder,
            }
            for each in run.experts
        },
    }
