"""The verb that makes a run's page, and what makes it anew while the run goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from wanwrap.cli.options import BASE_DIR, Verb, json_option
from wanwrap.cli.run_words import far, run_json, state
from wanwrap.cli.terminal import show_result
from wanwrap.cli.words import count, duration
from wanwrap.errors import OutputError
from wanwrap.look.report import Report, gather, write
from wanwrap.run.status import Expert, Run, find, look
from wanwrap.system import console
from wanwrap.upstream.output import last_point
from wanwrap.weights import marks

OFTEN, SELDOM = 60, 300  # seconds between two pages of a run that goes on: where a state was saved, where none was
SHARE = 300  # times as long as a page took is waited for the next one


@click.command(cls=Verb, epilog="Example: wanwrap report cats-t2v-vanilla")
@click.argument("run")
@BASE_DIR
@json_option("What stands on the page, as JSON.")
def report(run: str, base_dir: Path, as_json: bool) -> None:
    """Make the page of a RUN anew (a name in BASE_DIR/outputs, or a path), and print where it is.

    It holds what was trained, the curves, the LoRAs and their samples, and lies beside them as `report.html`. A run makes
    it by itself, with each state that is saved and at its end.
    """
    found = find(run, base_dir)
    made = _gather(found)
    place = write(made)
    show_result(as_json, lambda: {**run_json(found), "page": place, **made.as_json()}, [str(place)])


def _gather(run: Run) -> Report:
    """No file is read for its sha256 while a GPU trains, or while somebody waits for a run to stop."""
    mark = marks.thorough if all(each.state == "done" for each in run.experts) else marks.known
    return gather(run, {each.name: [*_said(each)] for each in run.experts}, mark)


def _said(expert: Expert) -> Iterator[str]:
    """How an expert stands."""
    record = expert.record
    yield state(expert)
    if record.steps_planned:
        yield far(expert)
    taken = [_seconds(each, expert.folder / "logs" / f"attempt-{each.get('number')}") for each in record.attempts]
    if seconds := sum(filter(None, taken)):
        least = "at least " if None in taken else ""
        yield f"trained for {least}{duration(seconds)} in {count(len(record.attempts), 'attempt')}"
    if record.slow:
        yield record.slow


def _seconds(attempt: Mapping[str, Any], curves: Path) -> float | None:
    """How long an attempt took: to its last step where a kill has kept its end off the record, or it goes on."""
    if not attempt.get("started"):
        return None
    ended = attempt.get("ended")
    end = datetime.fromisoformat(ended).timestamp() if ended else last_point(curves)
    return max(end - datetime.fromisoformat(attempt["started"]).timestamp(), 0) if end else None


class Renewal:
    """The page of a run that goes on."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._next, self._saved = folder, -1e9, list[int]()

    def look(self, run: Run) -> None:
        """Make it anew, if it is time to: when a state was saved, and every few minutes."""
        saved, over = [each.record.saved_epoch for each in run.experts], time.monotonic() - self._next
        if over > SELDOM - OFTEN or (over > 0 and saved != self._saved):
            self._saved = saved
            self.write(run)

    def write(self, run: Run | None = None) -> None:
        """Make it anew; without a `run`, as it is now, it is the last time. Whatever is wrong with a page ends no training."""
        began = time.monotonic()
        try:
            place = self._write(run or look(self._folder))
            if place and not run:
                console.say(f"the report: {place}")
        except Exception as error:
            console.say(f"note: the report was not written ({type(error).__name__}: {error}); the run is not harmed.")
        now = time.monotonic()
        self._next = now + max(OFTEN, SHARE * (now - began))

    def _write(self, run: Run) -> Path | None:
        if not run.experts:
            return None
        try:
            return write(_gather(run))
        except OutputError:  # the other expert's run is writing it
            time.sleep(1)
            return write(_gather(look(self._folder)))
