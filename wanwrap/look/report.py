"""A run's page: what was trained, its curves, its LoRAs and their samples, in one file of HTML beside its media.

While the run goes on the page renews itself in the browser. It is made to be shown to others: paths of this machine are on
it only in the command that goes on with what has not ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wanwrap.errors import OutputError
from wanwrap.look import samples, settings, template
from wanwrap.look.charts import Point, joined, reduced, ticks, top
from wanwrap.look.gallery import compared, while_training
from wanwrap.look.samples import Sample
from wanwrap.plan.fit_words import gib
from wanwrap.run.comfyui import WORKFLOW
from wanwrap.run.record import Record, now
from wanwrap.run.status import Expert, Run
from wanwrap.upstream import output, states
from wanwrap.upstream.sampling import FPS

FILE = "report.html"


@dataclass(frozen=True)
class Lora:
    """A file in the run's folder; `sha256` is None where it is not known yet."""

    expert: str
    name: str
    epoch: int
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Report:
    """All that stands on the page; `said` of each expert, `problem` is why there are no samples."""

    run: Run
    said: Mapping[str, Sequence[str]]
    losses: Mapping[str, Sequence[Point]]
    rates: Mapping[str, Sequence[Point]]
    loras: Sequence[Lora]
    samples: Sequence[Sample]
    problem: str

    def as_json(self) -> dict[str, Any]:
        """What is no part of the records."""
        curves = {"losses": self.losses, "rates": self.rates}
        lines = {what: {name: [*map(asdict, line)] for name, line in each.items()} for what, each in curves.items()}
        return {**lines, "loras": [*map(asdict, self.loras)], "samples": [*map(asdict, self.samples)]}


# ---- what there is


def gather(run: Run, said: Mapping[str, Sequence[str]], mark: Callable[[Path], str | None]) -> Report:
    """What the run's folder holds; `mark` tells the sha256 of a file. Raises OSError."""
    curves = {each.name: _curves(each) for each in run.experts}
    made, problem = list[Sample](), ""
    try:
        made = samples.read(run.folder)
    except OutputError as error:  # all else is worth showing
        problem = str(error)
    return Report(
        run=run,
        said=said,
        losses={name: reduced(loss) for name, (loss, _) in curves.items()},
        rates={name: reduced(rate, smooth=False) for name, (_, rate) in curves.items()},
        loras=[lora for each in run.experts for lora in _loras(each, mark)],
        samples=made,
        problem=problem,
    )


def _curves(expert: Expert) -> tuple[output.Curve, output.Curve]:
    """Loss and learning rate over all attempts."""
    logs, attempts = expert.folder / "logs", expert.record.attempts
    curves = [(each.get("step", 0), output.curves(logs / f"attempt-{each.get('number')}")) for each in attempts]
    return joined((step, loss) for step, (loss, _) in curves), joined((step, rate) for step, (_, rate) in curves)


def _loras(expert: Expert, mark: Callable[[Path], str | None]) -> Iterator[Lora]:
    folder, record = expert.folder.parent, expert.record
    there = record.files or [path.name for path in folder.glob(f"*-{expert.name}*.safetensors")]  # 0.1.0 lists none
    for epoch, path in sorted((_epoch(record, name), folder / name) for name in there):
        if path.is_file():
            yield Lora(expert.name, path.name, epoch, path.stat().st_size, mark(path))


def _epoch(record: Record, name: str) -> int:
    """That of a LoRA; the last one's name has none."""
    return states.lora_epoch(name, Path(record.lora).stem) or record.epochs_planned


# ---- the page


def write(report: Report) -> Path:
    """Put the page into the run's folder: where it is. Raises OSError, OutputError: it can't be written."""
    place = report.run.folder / FILE
    template.write(place, page(report))
    return place


def page(report: Report) -> Iterator[str]:
    """The pieces of the page."""
    run, records = report.run, {each.name: each.record for each in report.run.experts}
    newest = max(records.values(), key=lambda record: record.updated)  # of what both experts share it tells
    ended = [each.record for each in run.experts if each.record.command and not each.live and each.state != "done"]
    ended = [] if run.elsewhere else ended  # it goes on there
    loras = {(expert, name) for each in report.samples for expert, name in each.loras.items() if expert in records}
    return template.render(
        "report.html",
        report=report,
        run=run,
        record=newest,
        commands=dict.fromkeys((each.cwd, each.command) for each in ended),
        compared=compared(report.samples, {name: _epoch(records[expert], name) for expert, name in loras}),
        while_training=[(each, while_training(each.folder)) for each in run.experts],
        workflow=WORKFLOW if (run.folder / WORKFLOW).is_file() else "",
        settings=settings.first([*records.values()]),
        all_settings=settings.complete([*records.values()]),
        weights=[Path(str(each.get("path"))).name for each in newest.weights],
        fps=FPS,
        gib=gib,
        now=now(),
        ticks=ticks,
        top=top,
    )
