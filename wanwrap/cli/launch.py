"""The verb that sends a run to another machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from click.core import ParameterSource

from wanwrap.cli.options import RUN, RunVerb, json_option, option, with_options
from wanwrap.cli.terminal import show_result
from wanwrap.cli.words import duration, heading
from wanwrap.errors import LaunchError, OptionError, OutputError, closest
from wanwrap.launch import request as work
from wanwrap.launch import wheel
from wanwrap.launch.engines import ENGINES, engine
from wanwrap.launch.job import Job, gpu
from wanwrap.launch.launched import FOLDER, read
from wanwrap.launch.request import FILES, HERE, WEIGHTS, LaunchRequest, Words
from wanwrap.launch.send import check, script, send
from wanwrap.plan.build import build
from wanwrap.plan.fit import seconds
from wanwrap.plan.plan import Plan
from wanwrap.plan.request import read as read_run
from wanwrap.run.status import look
from wanwrap.system import console
from wanwrap.system.disk import large
from wanwrap.system.shell import joined
from wanwrap.weights.workspace import NAME, remember


def _engine_options() -> Iterator[Any]:
    """Those that only some engines have, each once."""
    found = dict[str, tuple[Any, list[str]]]()
    for word in ENGINES:
        for name, kind, text in engine(word).OPTIONS:
            found.setdefault(name, (kind, []))[1].append(f"{word}: {text}")
    for name, (kind, texts) in found.items():
        how: dict[str, Any] = (
            {"is_flag": True} if kind is bool else {"multiple": True} if kind is list else {"type": kind}
        )
        yield option(f"--{name}", help=" ".join(texts), group="Environment", **how)


@click.command(
    cls=RunVerb, epilog="Example: wanwrap launch modal t2v-vanilla cats --gpu A100-80GB --price 2.5 --dry_run"
)
@click.argument("engine_word", metavar="ENGINE", type=click.Choice([*ENGINES]))
@with_options(RUN)
@option("--gpu", "gpu_name", required=True, help="The card: A100-80GB, H100, L40S, RTX4090 ...")
@option("--hours", type=click.FloatRange(min=0.1), help="It is ended after so many (default: what it takes, or 12).")
@option("--price", type=click.FloatRange(min=0), help="Of a card and hour, to tell what it costs at most.")
@option("--parallel", is_flag=True, help="Both experts side by side on two cards of one machine.")
@option("--separate", is_flag=True, help="Each expert as a job of its own, at the same time.")
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
    module = engine(engine_word)
    own = {name for name, *_ in module.OPTIONS}
    others = {name for word in ENGINES for name, *_ in engine(word).OPTIONS} - own
    if wrong := [name for name in others if options.get(name)]:
        raise OptionError(f"--{wrong[0]} is not for {engine_word}; leave it out.")
    engine_options = {name: options.pop(name) for name in sorted(own | others)}
    asked = LaunchRequest(
        gpu=gpu(gpu_name), hours=hours, price=price, separate=separate, parallel=parallel, fit=options["fit"]
    )
    if sum((parallel, separate, options["gpus"] > 1)) > 1:
        raise OptionError("--parallel, --separate and --gpus say in three ways what the cards do; give one of them.")
    if separate and options["sample"]:
        raise OptionError(
            "--sample needs both experts in one place; leave it out, and `wanwrap sample` makes them here."
        )
    plan = work.checked(build(read_run(**{**options, "fit": "off", "shell": "bash"}), whole=not dry_run), asked)
    if parallel and len(plan.trainings) < 2:
        raise OptionError("--parallel is for two experts, and this run has one; leave it out.")
    job = _job(ctx, plan, asked, options, module)
    typed = {name: value for name, value in engine_options.items() if name in own and value}
    kept = plan.request.workspace.launch.get(engine_word, {})
    if wrong := [name for name in kept if name not in own]:
        raise OptionError(f"{NAME}, launch.{engine_word}: there is no {wrong[0]}.{closest(wrong[0], own)}")
    used = {**kept, **typed}
    here = {"python": sys.executable, "cwd": Path.cwd()} if shared(module) else {}
    rendered = module.render(job, **here, **used)
    console.say(*heading(plan), *_told(plan, job, module), *(f"note: {note}" for note in rendered.notes))
    if dry_run:
        show_result(as_json, lambda: {"job": vars(job), **vars(rendered)}, script(job, rendered))
        return
    check(module)
    if (before := read(job.folder)) and not again:
        raise LaunchError(
            f"{job.name} was launched at {before.started} by {before.engine}; `wanwrap status --launched` tells what it does, and "
            "--again starts it once more."
        )
    if not before and not shared(module) and look(job.folder).experts:
        raise OutputError(
            f"{job.folder} holds a run that was made here, which `wanwrap fetch` would write over; give another --output_name."
        )
    wheel.write(job.folder / FOLDER)
    launched = send(engine_word, job, rendered)
    if typed and shared(module):  # a cluster's are the same each time
        remember(plan.request.base_dir, engine_word, typed)
    show_result(as_json, lambda: vars(launched), [f"launched: {launched.name}", *_ways(job, launched.later)])


def shared(module: ModuleType) -> bool:
    """Whether the machines there see this one's files."""
    return getattr(module, "SHARED_FILES", False)


GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)  # typed, or in a run file
OWN = {
    "engine_word",
    "gpu_name",
    "hours",
    "price",
    "separate",
    "dry_run",
    "again",
    "as_json",
    "preset",
    "dataset",
    "upstream_options",
}


def _job(ctx: click.Context, plan: Plan, asked: LaunchRequest, options: Mapping[str, Any], module: ModuleType) -> Job:
    """The run there; on a cluster, whose machines see this one's files, with the words as they were typed."""
    there = not shared(module)
    typed = {name for name in ctx.params if ctx.get_parameter_source(name) in GIVEN}
    typed -= {name for word in ENGINES for name, *_ in engine(word).OPTIONS} | OWN
    given = {**{name: options.get(name) for name in typed}, "preset": options["preset"], "dataset": options["dataset"]}
    spelled = [*_spelled(ctx, typed - (HERE | FILES if there else set()))]
    if there:
        words = work.words(plan, given, spelled, options["upstream_options"])
    else:
        dataset = [options["dataset"]] if options["dataset"] else []
        after = ("--", *options["upstream_options"]) if options["upstream_options"] else ()
        setup = _spelled(ctx, typed & {"python", "musubi_dir", *WEIGHTS})
        base = ("--base_dir", str(plan.request.base_dir))
        words = Words((options["preset"], *dataset, *spelled), after, {}, (*base, *setup))
    return work.job(plan, asked, words, plan.folder / FOLDER / wheel.NAME)


def _spelled(ctx: click.Context, names: set[str]) -> Iterator[str]:
    """Options as they were typed, but for abbreviations."""
    for param in ctx.command.params:
        if param.name in names:
            value = ctx.params[param.name]
            for each in value if param.multiple else [value]:
                switch = param.opts[0] if each is not False else param.secondary_opts[0]
                yield from (switch,) if getattr(param, "is_flag", False) else (param.opts[0], str(each))


def _told(plan: Plan, job: Job, module: ModuleType) -> Iterator[str]:
    """Where it will run, for how long, and what that costs."""
    cards = f"{job.gpus} of {job.gpu}" if job.gpus > 1 else job.gpu
    several = f", {len(job.runs)} jobs at the same time" if len(job.runs) > 1 else ""
    known = seconds(plan)
    takes = f"it takes {duration(known[0])} to {duration(known[1])} (a guess), and " if known else ""
    cost = "" if job.cost is None else f", {job.cost:.2f} at most for these, at {job.price:g} a card and hour"
    each = "each start is" if shared(module) else "is"
    yield f"on {cards}{several}: {takes}{each} ended after {job.hours:g} hours{cost}"
    if job.uploads:
        yield f"to send: {large(work.data_bytes(plan))} of data; the weights are fetched there"
    if known and job.hours < known[0] / 3600:
        yield f"note: {job.hours:g} hours are too few: the same command goes on after them."


def _ways(job: Job, later: Mapping[str, Sequence[Sequence[str]]]) -> Iterator[str]:
    name = joined([job.name])
    if "status" in later:
        yield f"how far it is: wanwrap status {name} --launched"
    if "fetch" in later:
        yield f"when it is done: wanwrap fetch {name}"
    yield from (f"{what}: {joined(words)}" for what in ("follow", "stop") for words in later.get(what, ()))
