"""The verb that sends a run to another machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from wanwrap.cli.launch_job import job_of, lost
from wanwrap.cli.options import PACKAGE, RUN, RunVerb, finite, json_option, option, with_options
from wanwrap.cli.terminal import show_result
from wanwrap.cli.words import duration, heading
from wanwrap.errors import OptionError, closest
from wanwrap.launch import wheel
from wanwrap.launch.check import check_again, check_engine, check_first, check_volume
from wanwrap.launch.engines import ENGINES
from wanwrap.launch.job import Engine, Job, Rendered, gpu
from wanwrap.launch.launched import FOLDER
from wanwrap.launch.request import LaunchRequest, checked, lasts
from wanwrap.launch.send import script, send
from wanwrap.launch.words import data_bytes
from wanwrap.plan.build import build
from wanwrap.plan.request import read as read_run
from wanwrap.system import console
from wanwrap.system.disk import large
from wanwrap.system.shell import joined
from wanwrap.weights.workspace import NAME, WORDS, remember


def _engine_options() -> Iterator[Any]:
    """Those that only some engines have, each once."""
    found = dict[str, tuple[Any, list[str]]]()
    for engine in ENGINES.values():
        for name, kind, text in engine.options:
            found.setdefault(name, (kind, []))[1].append(f"{engine.word}: {text}")
    for name, (kind, texts) in found.items():
        how: dict[str, Any] = {"multiple": True} if kind is list else {"type": kind}
        yield option(f"--{name}", help=" ".join(texts), group="Environment", **how)


@click.command(
    cls=RunVerb, epilog="Example: wanwrap launch modal t2v-vanilla cats --gpu A100-80GB --price 2.5 --dry_run"
)
@click.argument("engine_word", metavar="ENGINE", type=click.Choice([*ENGINES]))
@with_options(RUN)
@option("--gpu", "gpu_name", required=True, help="The card: A100-80GB, H100, L40S, RTX4090 ...")
@option(
    "--hours",
    type=click.FloatRange(min=0.1),
    callback=finite,
    help="It is ended after so many (default: what it takes, or 12).",
)
@option(
    "--price",
    type=click.FloatRange(min=0),
    callback=finite,
    help="Of a card and hour: tells what it costs at most. sky (in dollars): takes none that costs more.",
)
@option("--parallel", is_flag=True, help="Both experts side by side on two cards of one machine.")
@option("--separate", is_flag=True, help="Each expert as a job of its own, at the same time.")
@PACKAGE
@option("--dry_run", is_flag=True, help="Print what would be written and run; nothing is sent.")
@option("--again", is_flag=True, help="Start it once more, though it was launched before.")
@with_options([*_engine_options()])
@json_option("What was launched, or would be, as JSON.", "Control")
@click.pass_context
def launch(
    ctx: click.Context,
    /,
    engine_word: str,
    gpu_name: str,
    hours: float | None,
    price: float | None,
    parallel: bool,
    separate: bool,
    dry_run: bool,
    again: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Send a run to another machine: ENGINE is slurm, modal, sky (SkyPilot) or script (a machine that you rent yourself).

    Preset, options, data set and that it fits the card are checked here, before anything is sent or costs money. One
    readable file is written into the run's folder, then the engine's own program is run; each command is shown. What runs
    there are the same `wanwrap setup` and `wanwrap run`.
    """
    engine = ENGINES[engine_word]
    typed = _typed(engine, options)
    asked = LaunchRequest(
        gpu=gpu(gpu_name), hours=hours, price=price, separate=separate, parallel=parallel, fit=options["fit"]
    )
    _check_together(asked, options)
    plan = checked(
        build(read_run(**{**options, "fit": "off", "vram": None, "shell": "bash"}), whole=not dry_run), asked
    )
    if parallel and len(plan.trainings) < 2:
        raise OptionError("--parallel is for two experts, and this run has one; leave it out.")
    job = job_of(ctx, engine, plan, asked)
    kept = _kept(engine, plan.request.workspace.launch.get(engine_word, {}))
    used = {name: value for name, value in {**kept, **typed}.items() if value not in ("", ("",))}
    here = {"python": sys.executable, "cwd": Path.cwd()} if engine.shared_files else {}
    rendered = engine.render(job, **here, **used)
    notes = [*rendered.notes, *_remembered({name: kept[name] for name in kept.keys() - typed.keys()})]
    told = [*heading(plan), *_told(engine, job, rendered, lasts(plan, asked))]
    console.say(*told, *(f"note: {note}" for note in [*lost(ctx), *notes]))
    if dry_run:
        show_result(as_json, lambda: {"job": vars(job), **vars(rendered)}, script(job, rendered))
        return
    check_engine(engine)
    if again:
        check_again(engine, job, rendered, plan)
    else:
        check_first(engine, job)
    check_volume(engine, job, rendered.volume, plan.request.base_dir)
    if not engine.shared_files:
        wheel.write(job.folder / FOLDER)
    launched = send(engine, job, rendered)
    if engine.shared_files and used != kept:  # a cluster's are the same each time
        remember(plan.request.base_dir, engine_word, used)
    what = "launched" if rendered.start else f"written to {job.folder / FOLDER}"
    show_result(as_json, lambda: vars(launched), [f"{what}: {launched.name}", *_ways(job, launched.later)])


def _typed(engine: Engine, options: dict[str, Any]) -> dict[str, Any]:
    """The engine's own options that were typed, which `options` lose. Raises OptionError: one is another engine's."""
    names = sorted({name for each in ENGINES.values() for name in each.option_types})
    typed = {name: value for name in names if (value := options.pop(name)) not in (None, ())}
    if wrong := [name for name in typed if name not in engine.option_types]:
        raise OptionError(f"--{wrong[0]} is not for {engine.word}; leave it out.")
    return typed


def _check_together(asked: LaunchRequest, options: Mapping[str, Any]) -> None:
    """Raises OptionError: two options contradict each other."""
    if sum((asked.parallel, asked.separate, options["gpus"] > 1)) > 1:
        raise OptionError("--parallel, --separate and --gpus say in three ways what the cards do; give one of them.")
    if asked.separate and options["sample"]:
        raise OptionError(
            "--sample needs both experts in one place; leave it out, and `wanwrap sample` makes them here."
        )


def _kept(engine: Engine, kept: Mapping[str, Any]) -> Mapping[str, Any]:
    """The engine's options that the workspace remembers. Raises OptionError: there is none of that name, or type."""
    own = engine.option_types
    for name, value in kept.items():
        if name not in own:
            raise OptionError(f"{NAME}, launch: there is no {name}.{closest(name, own)}")
        if not isinstance(value, own[name]):
            raise OptionError(f"{NAME}, launch: {name} must be {WORDS[own[name]]}, not {value!r}.")
    return kept


def _remembered(kept: Mapping[str, Any]) -> Iterator[str]:
    """What goes along untyped."""
    if words := [word for name in sorted(kept) for text in _texts(kept[name]) for word in (f"--{name}", text)]:
        yield f"as before: {joined(words)} ({NAME}; an empty value takes one back)."


def _texts(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


def _told(engine: Engine, job: Job, rendered: Rendered, known: tuple[float, float] | None) -> Iterator[str]:
    """Where it will run, for how long, and what that costs."""
    cards = f"{job.gpus} of {job.gpu}" if job.gpus > 1 else job.gpu
    several = f", {len(job.runs)} jobs at the same time" if len(job.runs) > 1 else ""
    takes = f"it takes {duration(known[0])} to {duration(known[1])} (a guess), and " if known else ""
    most = job.cost(rendered.idle)
    with_idle = f" and {rendered.idle:g} more in which it waits for you" if rendered.idle else ""
    each, a_start = ("each start is", " of each") if engine.shared_files else ("is", "")
    cost = (
        ""
        if most is None
        else f"{with_idle}: {most:.2f} at most for the cards{a_start}, at {job.price:g} each and hour"
    )
    yield f"on {cards}{several}: {takes}{each} ended after {job.hours:g} hours{cost}"
    if not engine.shared_files and (size := sum(map(data_bytes, job.uploads.values()))):
        yield f"to send: {large(size)}; the weights are fetched there"
    if known and job.hours < known[0] / 3600:
        yield f"note: {job.hours:g} hours are too few: {rendered.after}"


def _ways(job: Job, later: Mapping[str, Sequence[Sequence[str]]]) -> Iterator[str]:
    name = joined([job.name])
    if "status" in later:
        yield f"how far it is: wanwrap status {name} --launched"
    if "fetch" in later:
        yield f"when it is done: wanwrap fetch {name}"
    yield from (f"{what}: {joined(words)}" for what in ("follow", "stop") for words in later.get(what, ()))
