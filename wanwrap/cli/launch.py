"""The verb that sends a run to another machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import click
from click.core import ParameterSource

from wanwrap.cli.options import PACKAGE, RUN, RunVerb, finite, json_option, option, with_options
from wanwrap.cli.run import run
from wanwrap.cli.run_file import OF_A_START
from wanwrap.cli.terminal import show_result
from wanwrap.cli.words import duration, heading
from wanwrap.errors import LaunchError, OptionError, OutputError, closest
from wanwrap.launch import request as work
from wanwrap.launch import wheel
from wanwrap.launch.engines import ENGINES, engine, shared
from wanwrap.launch.job import Job, gpu
from wanwrap.launch.launched import FOLDER, all_of, read
from wanwrap.launch.request import LaunchRequest
from wanwrap.launch.send import check, script, send
from wanwrap.launch.words import RESUME, Words, check_data, data_bytes, words
from wanwrap.plan import preflight
from wanwrap.plan.build import build
from wanwrap.plan.plan import Plan
from wanwrap.plan.request import WEIGHTS
from wanwrap.plan.request import read as read_run
from wanwrap.run.folders import check_folder
from wanwrap.run.status import look
from wanwrap.system import console
from wanwrap.system.disk import large
from wanwrap.system.shell import joined
from wanwrap.weights.workspace import NAME, WORDS, remember


def _engine_options() -> Iterator[Any]:
    """Those that only some engines have, each once."""
    found = dict[str, tuple[Any, list[str]]]()
    for word in ENGINES:
        for name, kind, text in engine(word).OPTIONS:
            found.setdefault(name, (kind, []))[1].append(f"{word}: {text}")
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
    package: tuple[str, ...],
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
    typed = _typed(engine_word, options)
    asked = LaunchRequest(
        gpu=gpu(gpu_name), hours=hours, price=price, separate=separate, parallel=parallel, fit=options["fit"]
    )
    _check_together(asked, options)
    plan = work.checked(build(read_run(**{**options, "fit": "off", "shell": "bash"}), whole=not dry_run), asked)
    if parallel and len(plan.trainings) < 2:
        raise OptionError("--parallel is for two experts, and this run has one; leave it out.")
    job = _job(ctx, plan, asked, options, module, package)
    kept = _kept(module, plan.request.workspace.launch.get(engine_word, {}))
    used = {name: value for name, value in {**kept, **typed}.items() if value not in ("", ("",))}
    here = {"python": sys.executable, "cwd": Path.cwd()} if shared(module) else {}
    rendered = module.render(job, **here, **used)
    notes = [*rendered.notes, *_remembered({name: kept[name] for name in kept.keys() - typed.keys()})]
    told = [*heading(plan), *_told(job, work.lasts(plan, asked), module, rendered.idle)]
    console.say(*told, *(f"note: {note}" for note in [*_lost(ctx), *notes]))
    if dry_run:
        show_result(as_json, lambda: {"job": vars(job), **vars(rendered)}, script(job, rendered))
        return
    check(module)
    if again:
        _check_same(plan)
    else:
        _check_free(engine_word, plan.request.base_dir, job, rendered.volume)
    if shared(module):
        launched = send(engine_word, job, rendered)
        if used != kept:  # a cluster's are the same each time
            remember(plan.request.base_dir, engine_word, used)
    else:
        wheel.write(job.folder / FOLDER)
        launched = send(engine_word, job, rendered)
    what = "launched" if rendered.start else f"written to {job.folder / FOLDER}"
    show_result(as_json, lambda: vars(launched), [f"{what}: {launched.name}", *_ways(job, launched.later)])


def _typed(engine_word: str, options: dict[str, Any]) -> dict[str, Any]:
    """The engine's own options that were typed, which `options` lose. Raises OptionError: one is another engine's."""
    own = {name for name, *_ in engine(engine_word).OPTIONS}
    names = {name for word in ENGINES for name, *_ in engine(word).OPTIONS}
    typed = {name: value for name in sorted(names) if (value := options.pop(name)) not in (None, ())}
    if wrong := [name for name in typed if name not in own]:
        raise OptionError(f"--{wrong[0]} is not for {engine_word}; leave it out.")
    return typed


def _check_together(asked: LaunchRequest, options: Mapping[str, Any]) -> None:
    """Raises OptionError: two options contradict each other."""
    if sum((asked.parallel, asked.separate, options["gpus"] > 1)) > 1:
        raise OptionError("--parallel, --separate and --gpus say in three ways what the cards do; give one of them.")
    if asked.separate and options["sample"]:
        raise OptionError(
            "--sample needs both experts in one place; leave it out, and `wanwrap sample` makes them here."
        )


def _kept(module: ModuleType, kept: Mapping[str, Any]) -> Mapping[str, Any]:
    """The engine's options that the workspace remembers. Raises OptionError: there is none of that name, or type."""
    own = {name: kind for name, kind, _ in module.OPTIONS}
    for name, value in kept.items():
        if name not in own:
            raise OptionError(f"{NAME}, launch: there is no {name}.{closest(name, own)}")
        if not isinstance(value, own[name]):
            raise OptionError(f"{NAME}, launch: {name} must be {WORDS[own[name]]}, not {value!r}.")
    return kept


def _remembered(kept: Mapping[str, Any]) -> Iterator[str]:
    """What goes along untyped."""
    if words := [word for name in sorted(kept) for word in (f"--{name}", *_texts(kept[name]))]:
        yield f"as before: {joined(words)} ({NAME}; an empty value takes one back)."


def _texts(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else [str(value)]


def _check_same(plan: Plan) -> None:
    """Raises OutputError: what was fetched of the run was trained otherwise, so that it could not go on there."""
    try:
        for train in plan.trainings:
            check_folder(plan, train)
    except OutputError as error:
        raise OutputError(f"{error} On another machine it can only go on: give another --output_name.") from error


def _check_free(engine_word: str, base_dir: Path, job: Job, volume: str) -> None:
    """Nothing that is made, or being made, is written over.

    Raises:
        LaunchError: the run was launched before, or another one may be at work on its volume.
        OutputError: it was made here.
    """
    if before := read(job.folder):
        raise LaunchError(
            f"{job.name} was launched at {before.started} by {before.engine}; `wanwrap status --launched` tells what it "
            "does, and --again starts it once more."
        )
    if not shared(engine(engine_word)) and look(job.folder).experts:
        raise OutputError(
            f"{job.folder} holds a run that was made here, which `wanwrap fetch` would write over; give another "
            "--output_name."
        )
    for folder, other in all_of(base_dir):
        done = {each.name for each in look(folder).experts if each.state == "done"}
        same = (other.engine, other.volume) == (engine_word, volume)
        if volume and same and not done.issuperset(other.experts):
            raise LaunchError(
                f"{other.name} was launched on the volume {volume}, and two runs at once would write the same files there. If "
                f"it has ended, `wanwrap fetch {other.name}`, or add --again; else take another --volume."
            )


GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)  # typed, or in a run file
# run's options that are about this machine: the far side has its own
HERE = {"python", "musubi_dir", "base_dir"}
# of run's parameters those that are no options of the run, or of another card
APART = OF_A_START | {"preset", "dataset", "vram"}


def _lost(ctx: click.Context) -> Iterator[str]:
    """What a run file holds that only `run` knows."""
    if names := sorted({*(ctx.default_map or {})} - {param.name for param in ctx.command.params}):
        yield f"the run file's {', '.join(names)} {'is' if len(names) == 1 else 'are'} not sent: `launch` has no such option."


def _job(
    ctx: click.Context,
    plan: Plan,
    asked: LaunchRequest,
    options: Mapping[str, Any],
    module: ModuleType,
    package: Sequence[str],
) -> Job:
    """The run there; on a cluster, whose machines see this one's files, with the words as they were typed."""
    there = not shared(module)
    runs = {str(param.name) for param in run.params} - APART
    typed = {name for name in runs & ctx.params.keys() if ctx.get_parameter_source(name) in GIVEN}
    given = {name: options.get(name) for name in typed} | {"preset": options["preset"]}
    spelled = [*_spelled(ctx, typed - ({*HERE, RESUME} if there else set()))]
    if there:
        made = words(plan, given, spelled, options["upstream_options"])
        check_data(made, getattr(module, "IGNORE_FILES", ()))
    else:
        place = plan.dataset.root  # what `datasets` holds may be another one when the job begins
        dataset = [str(place)] if place else filter(None, [options["dataset"]])
        after = ("--", *options["upstream_options"]) if options["upstream_options"] else ()
        setup = _spelled(ctx, typed & {"python", "musubi_dir", *WEIGHTS})
        base = ("--base_dir", str(plan.request.base_dir))
        made = Words((options["preset"], *dataset, *spelled), after, {}, (*base, *setup))
    lacking = partial(preflight.absent, plan.request) if shared(module) else list
    named = [word for each in work.packages(plan, package, lacking) for word in ("--package", each)]
    made = replace(made, setup=(*made.setup, *named))
    return work.job(plan, asked, made, plan.folder / FOLDER / wheel.NAME)


def _spelled(ctx: click.Context, names: set[str]) -> Iterator[str]:
    """Options as they were typed, but for abbreviations."""
    for param in ctx.command.params:
        if param.name in names:
            value = ctx.params[param.name]
            for each in value if param.multiple else [value]:
                if not getattr(param, "is_flag", False):
                    yield from (param.opts[0], str(each))
                else:  # one that is off has no word, unless there is a --no_
                    yield from param.opts[:1] if each else param.secondary_opts[:1]


def _told(job: Job, known: tuple[float, float] | None, module: ModuleType, idle: float) -> Iterator[str]:
    """Where it will run, for how long, and what that costs."""
    cards = f"{job.gpus} of {job.gpu}" if job.gpus > 1 else job.gpu
    several = f", {len(job.runs)} jobs at the same time" if len(job.runs) > 1 else ""
    takes = f"it takes {duration(known[0])} to {duration(known[1])} (a guess), and " if known else ""
    most = job.cost(idle)
    with_idle = f" and {idle:g} more in which it waits for you" if idle else ""
    cost = "" if most is None else f"{with_idle}: {most:.2f} at most for the cards, at {job.price:g} each and hour"
    each = "each start is" if shared(module) else "is"
    yield f"on {cards}{several}: {takes}{each} ended after {job.hours:g} hours{cost}"
    if not shared(module) and (size := sum(map(data_bytes, job.uploads.values()))):
        yield f"to send: {large(size)}; the weights are fetched there"
    if known and job.hours < known[0] / 3600:
        yield f"note: {job.hours:g} hours are too few: the same command goes on after them."


def _ways(job: Job, later: Mapping[str, Sequence[Sequence[str]]]) -> Iterator[str]:
    name = joined([job.name])
    if "status" in later:
        yield f"how far it is: wanwrap status {name} --launched"
    if "fetch" in later:
        yield f"when it is done: wanwrap fetch {name}"
    yield from (f"{what}: {joined(words)}" for what in ("follow", "stop") for words in later.get(what, ()))
