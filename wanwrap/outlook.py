"""How far trainings have come, and how long they will take: from their progress, as it is on disk or in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wanwrap.training import Training

Record = Mapping[str, Any]


def left(record: Record, others: Iterable[Record] = ()) -> float | None:
    """Seconds that an expert still takes, by its own pace, else by another one's; None where nobody knows."""
    if record["state"] == "done":
        return 0.0
    paces = [pace for each in (record, *others) if (pace := each["seconds_per_step"])]
    return paces[0] * (record["steps_planned"] - record["steps_done"]) if paces else None


def whole_left(records: Sequence[Record], *, parallel: bool = False) -> float | None:
    """Seconds that all experts still take, one after the other or side by side."""
    each = [left(record, records) for record in records]
    known = [seconds for seconds in each if seconds is not None]
    if len(known) < len(each):
        return None
    return max(known, default=0.0) if parallel else sum(known)


def lines(group: Sequence[Training], everyone: Sequence[Training]) -> Iterator[str]:
    """A line for each training that goes on, the last one with the time that all of it takes."""
    records = [_now(each) for each in everyone]
    total = whole_left(records, parallel=len(group) > 1)
    for each in group:
        if not each.over:
            more = f", all {spoken(total)}" if len(everyone) > 1 and total is not None else ""
            yield f"{each.key}: {line(_now(each))}{more}"


def _now(training: Training) -> dict[str, Any]:
    """The progress of this moment."""
    if training.child is None or training.over:
        return training.record
    return {**training.record, **training.now()}


def line(record: Record) -> str:
    """`epoch 23 of 50, step 1150 of 2500, loss 0.0712, 5.25 s/it, 1:58:07 left`."""
    if not record["steps_done"] and not record["seconds_per_step"]:
        return "starting"
    epoch = min(record["steps_done"] // record["steps_per_epoch"] + 1, record["epochs_planned"])
    words = [
        f"epoch {epoch} of {record['epochs_planned']}",
        f"step {record['steps_done']} of {record['steps_planned']}",
    ]
    if record["loss"] is not None:
        words.append(f"loss {record['loss']:.3g}")
    if pace := record["seconds_per_step"]:
        words += [f"{pace:.2f} s/it", "done" if record["state"] == "done" else f"{spoken(left(record) or 0)} left"]
    return ", ".join(words)


def spoken(seconds: float) -> str:
    """`0:42`, `1:58:07`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
