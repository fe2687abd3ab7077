"""A run's page: what was trained, its curves, its LoRAs and their samples, in one file of HTML beside its media.

While the run goes on the page renews itself in the browser. It is made to be shown to others: paths of this machine are on
it only in the command that goes on with what has not ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path, PureWindowsPath
from typing import Any

from wanwrap.errors import OutputError
from wanwrap.look import samples, template
from wanwrap.look.charts import Point, joined, plot, reduced
from wanwrap.look.gallery import compared, gallery, url, while_training
from wanwrap.look.samples import Sample
from wanwrap.plan.fit_words import gib
from wanwrap.run.comfyui import WORKFLOW
from wanwrap.run.record import BASE, DATA, ENCODERS, Record, now
from wanwrap.run.status import Expert, Run
from wanwrap.upstream import output, states
from wanwrap.upstream.sampling import FPS

FILE = "report.html"
NAMES = {"high": "High noise", "low": "Low noise", "dit": "The model"}
# of each expert's settings those that are asked for first
SETTINGS = {
    "rank": ("network_dim",),
    "alpha": ("network_alpha",),
    "learning rate": ("learning_rate",),
    "schedule": ("lr_scheduler", "lr_scheduler_type"),
    "optimizer": ("optimizer_type",),
    "timesteps": ("min_timestep", "max_timestep"),
    "drawn by": ("timestep_sampling", "discrete_flow_shift"),
    "epochs": ("epochs",),
    "steps": ("steps",),
}
# kohya-ss/musubi-tuner #496 and Wan-Video/Wan2.2 #41; figures: musubi-tuner #477, sdbds/musubi-tuner-scripts #28
LOSS = (
    "Each step draws its own noise, so that its loss (thin) jumps; the thick line is the mean. Users report 0.05 to 0.2. "
    "It need not fall much for a LoRA to learn, and the least loss is not the best LoRA: the samples tell. Where it climbs "
    "for long, a lower --lr helps."
)
EXPERTS = (
    " The two experts can't be compared: what the high-noise one sees is nearly all noise, and it has to guess the picture, "
    "so its loss is larger by nature, and hardly falls."
)
ALONE = "Made by the expert that was being trained, alone for all steps: they show that it changes, not how both look together."


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
    attempts = [
        (_begun(each), expert.folder / "logs" / f"attempt-{each.get('number')}") for each in expert.record.attempts
    ]
    curves = [(step, output.curves(folder)) for step, folder in attempts]
    return joined((step, loss) for step, (loss, _) in curves), joined((step, rate) for step, (_, rate) in curves)


def _begun(attempt: Mapping[str, Any]) -> int:
    return int(attempt.get("step", 0))


def _loras(expert: Expert, mark: Callable[[Path], str | None]) -> Iterator[Lora]:
    folder, record = expert.folder.parent, expert.record
    there = record.files or sorted(
        path.name for path in folder.glob(f"*-{expert.name}*.safetensors")
    )  # 0.1.0 lists none
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
    run = report.run
    live = f' data-live="{now()}"' if any(each.live for each in run.experts) else ""
    head, tail = template.halves("report", title=escape(run.name), live=live)
    yield head
    yield from _top(report)
    yield from _samples(report)
    yield from _training(report)
    yield from _result(report)
    yield from _settings(run)
    yield tail


def _top(report: Report) -> Iterator[str]:
    """What was trained on what, and how far it is."""
    run, record = report.run, _newest(report.run)
    what = " on ".join(filter(None, (record.preset, str(record.dataset.get("name", "")))))
    toys = "a rehearsal with toys, which learn nothing; " if run.rehearsal else ""
    yield f"<header>\n<h1>{escape(run.name)}</h1>\n<p>{toys}{escape(what)}</p>\n<div class=experts>\n"
    for each in run.experts:
        share = each.record.steps_done / (each.record.steps_planned or 1)
        lines = "".join(f"<p>{escape(line)}</p>" for line in report.said.get(each.name, ()))
        yield (
            f"<section class={_css(each)} data-state={'live' if each.live else 'done' if each.state == 'done' else 'ended'}>"
            f"<h2>{escape(_name(each))}</h2><progress value={share:.4f}></progress>{lines}</section>\n"
        )
    yield "</div>\n"
    if any(each.live for each in run.experts):
        made = now().replace("T", " ")
        yield f"<p class=note id=renewed>As of {made}; the page renews itself while the run goes on, unless it is being used.</p>\n"
    yield from _again(run)
    yield "</header>\n"


def _again(run: Run) -> Iterator[str]:
    """How to go on with what has not ended."""
    ended = [each.record for each in run.experts if each.record.command and not each.live and each.state != "done"]
    for cwd, command in dict.fromkeys((record.cwd, record.command) for record in ended):
        yield f"<p>It goes on with this, in {escape(cwd) or 'the same folder'}:</p>\n<pre>{escape(command)}</pre>\n"


def _samples(report: Report) -> Iterator[str]:
    if report.samples or report.problem:
        yield "<section>\n<h2>Samples</h2>\n"
        yield f"<p class=note>{escape(report.problem)}</p>\n" if report.problem else ""
        yield "<p class=note>Click one: arrow keys then show the next epoch in its place, B keeps one beside it.</p>\n"
        loras = {(expert, name) for each in report.samples for expert, name in each.loras.items()}
        records = {each.name: each.record for each in report.run.experts}
        epochs = {name: _epoch(records[expert], name) for expert, name in loras if expert in records}
        yield from gallery(*compared(report.samples, epochs))
        yield "</section>\n"
    for each in report.run.experts:
        rows, columns = while_training(each.folder)
        if rows:
            alone = "" if each.name == "dit" else f"<p class=note>{ALONE}</p>\n"
            yield f"<section>\n<h2>While it was trained: {escape(_name(each))}</h2>\n{alone}"
            yield from gallery(rows, columns)
            yield "</section>\n"


def _training(report: Report) -> Iterator[str]:
    if not any(report.losses.values()):
        return
    experts = [each for each in report.run.experts if report.losses[each.name]]
    yield "<section>\n<h2>Curves</h2>\n<div class=charts>\n"
    for each in experts:
        record, begun = each.record, [_begun(attempt) for attempt in each.record.attempts[1:]]
        epoch = escape(str(record.steps_per_epoch))
        yield f'<figure class={_css(each)} data-epoch="{epoch}">\n<h3>{escape(_name(each))}</h3>\n'
        for label, points in (("loss", report.losses[each.name]), ("learning rate", report.rates[each.name])):
            yield from plot(label, points, record.steps_planned, begun) if points else ()
        more = "; dashed: where a later attempt began" if begun else ""
        yield f"<figcaption><output>by step{more}</output></figcaption>\n</figure>\n"
    yield f"</div>\n<p class=note>{LOSS}{EXPERTS if len(experts) > 1 else ''}</p>\n</section>\n"


def _result(report: Report) -> Iterator[str]:
    """The LoRAs and how they are used."""
    record = _newest(report.run)
    yield "<section>\n<h2>LoRAs</h2>\n" if report.loras or record.inference else "<section>\n"
    if report.loras:
        rows = [
            (
                f"<b>{escape(each.name)}</b>",
                escape(str(each.epoch or "")),
                f"{each.bytes / 1e6:.1f} MB",
                f"<code>{each.sha256 or ''}</code>",
            )
            for each in report.loras
        ]
        yield from ("<div class=files>", *_table(("file", "epoch", "size", "sha256"), rows), "</div>\n")
    if use := [*_use(record)]:
        yield "<ul>\n" + "".join(f"<li>{line}</li>\n" for line in use) + "</ul>\n"
    if (report.run.folder / WORKFLOW).is_file():
        yield f'<p><a href="{url(WORKFLOW)}" download>{WORKFLOW}</a> does all that: drag it into ComfyUI.</p>\n'
    yield "</section>\n"


def _use(record: Record) -> Iterator[str]:
    told, how = record.inference, record.use
    if not how:
        return
    width, height = how.size
    frames = f", {how.video_length} frames ({how.video_length / FPS:.1f} s)" if how.video_length > 1 else ""
    yield escape(f"Use: {how.words()}, {width}x{height}{frames}.")
    if len(told.get("dits", ())) > 1:
        boundary = escape(str(told["boundary"]))
        yield f"Load each on its own model; the high-noise model denoises down to {boundary} of the noise."
    if lightning := told.get("lightning"):
        yield f"On each model its Lightning LoRA ({escape(str(lightning['release']))}) at {lightning['strength']:g} first, then yours at 1."
    if record.trigger:
        yield f"All captions begin with <b>{escape(record.trigger)}</b>: prompts should, too."


def _settings(run: Run) -> Iterator[str]:
    """What it was trained with: first what most ask for, then all of it."""
    record, experts = _newest(run), run.experts
    rows = [(escape(label), *(_values(each.record, names) for each in experts)) for label, names in SETTINGS.items()]
    rows += [("GPU memory", *(escape(_memory(each.record)) for each in experts))]
    rows += [("base model", *(escape(Path(each.record.dit).name) for each in experts))]
    yield "<section>\n<h2>Trained with</h2>\n"
    heads = ("", *(escape(_name(each)) for each in experts))
    yield from _table(heads, [row for row in rows if any(row[1:])])
    yield "<ul>\n" + "".join(f"<li>{escape(line)}</li>\n" for line in _around(record)) + "</ul>\n"
    hidden = (DATA, BASE, ENCODERS)  # marks
    names = dict.fromkeys(name for each in experts for name in each.record.settings if name not in hidden)
    if names:
        yield "<details><summary>All settings</summary>\n"
        yield from _table(
            heads, [(escape(name), *(_values(each.record, (name,)) for each in experts)) for name in names]
        )
        yield "</details>\n"
    yield f"</section>\n<footer>wanwrap {escape(record.wanwrap)}, {escape(now().replace('T', ' '))}</footer>\n"


def _around(record: Record) -> Iterator[str]:
    """Data set, machine and programs."""
    data, machine = record.dataset, record.machine
    if data:
        yield f"data set: {data.get('name')}, {data.get('items')} items in {data.get('batches_per_epoch')} batches an epoch"
    if gpus := machine.get("gpus"):
        yield f"GPU: {gpus[0].get('name')}, {gib(gpus[0].get('memory', 0))}"
    if upstream := machine.get("upstream"):
        yield f"musubi-tuner {upstream.get('version')} ({str(upstream.get('commit') or 'unknown')[:12]})"
    if record.weights:
        yield "weights: " + ", ".join(Path(str(each.get("path"))).name for each in record.weights)


def _memory(record: Record) -> str:
    """What was foretold of the GPU's, and the most that all programs were seen to use, in whatever attempt."""
    memory, before = record.memory, [each.get("memory", {}) for each in record.attempts]
    used = max(each.get("used", 0) for each in (memory, *before))
    told = [f"{gib(memory['foretold'])} foretold"] if memory.get("foretold") else []
    told += [f"{gib(used)} in use at most"] if used else []
    return ", ".join(told)


def _values(record: Record, names: Sequence[str]) -> str:
    values = [record.settings[name] for name in names if name in record.settings]
    return escape(", ".join(" ".join(map(_bare, value if isinstance(value, list) else [value])) for value in values))


def _bare(value: object) -> str:
    """Of a file, as --resume_from takes it, the name alone: the page is shown to others."""
    path = PureWindowsPath(str(value))
    return path.name if path.root else str(value)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of HTML."""
    yield "<div class=table><table>\n<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>\n"
    yield from ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    yield "</table></div>\n"


def _newest(run: Run) -> Record:
    """The record that was written last: of what both experts share it tells."""
    return max((each.record for each in run.experts), key=lambda record: record.updated)


def _name(expert: Expert) -> str:
    return NAMES.get(expert.name, expert.name)


def _css(expert: Expert) -> str:
    return expert.name if expert.name in NAMES else "dit"
