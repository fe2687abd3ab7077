"""A run that was typed, as a job for another machine: which of its options go along, and how they are spelled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import click
from click.core import ParameterSource

from wanwrap.cli.run import run
from wanwrap.cli.run_file import OF_A_START
from wanwrap.launch import wheel
from wanwrap.launch.job import Engine, Job
from wanwrap.launch.launched import FOLDER
from wanwrap.launch.request import LaunchRequest, make_job, packages
from wanwrap.launch.words import RESUME, Words, check_data, words
from wanwrap.plan import preflight
from wanwrap.plan.plan import Plan
from wanwrap.plan.request import WEIGHTS

GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)  # typed, or in a run file
# run's options that are about this machine: the far side has its own
HERE = {"python", "musubi_dir", "base_dir"}
# of run's parameters those that are no options of the run, or of another card
APART = OF_A_START | {"preset", "dataset", "vram"}


def lost(ctx: click.Context) -> Iterator[str]:
    """What a run file holds that only `run` knows."""
    if names := sorted({*(ctx.default_map or {})} - {param.name for param in ctx.command.params}):
        yield f"the run file's {', '.join(names)} {'is' if len(names) == 1 else 'are'} not sent: `launch` has no such option."


def job_of(ctx: click.Context, engine: Engine, plan: Plan, asked: LaunchRequest) -> Job:
    """The run there; on a cluster, whose machines see this one's files, with the words as they were typed."""
    options = ctx.params
    there = not engine.shared_files
    runs = {str(param.name) for param in run.params} - APART
    typed = {name for name in runs & ctx.params.keys() if ctx.get_parameter_source(name) in GIVEN}
    given = {name: options.get(name) for name in typed} | {"preset": options["preset"]}
    spelled = [*_spelled(ctx, typed - ({*HERE, RESUME} if there else set()))]
    if there:
        made = words(plan, given, spelled, options["upstream_options"])
        check_data(made, engine.ignore_files)
        made = replace(made, uploads={**made.uploads, wheel.NAME: plan.folder / FOLDER / wheel.NAME})
    else:
        place = plan.dataset.root  # what `datasets` holds may be another one when the job begins
        dataset = [str(place)] if place else filter(None, [options["dataset"]])
        after = ("--", *options["upstream_options"]) if options["upstream_options"] else ()
        setup = _spelled(ctx, typed & {"python", "musubi_dir", *WEIGHTS})
        base = ("--base_dir", str(plan.request.base_dir))
        made = Words((options["preset"], *dataset, *spelled), after, {}, (*base, *setup))
    # what is lacking: asked of the Python that a cluster shares; a machine that is rented has none of it
    absent = partial(preflight.absent, plan.request) if engine.shared_files else list
    named = [word for each in packages(plan, options["package"], absent) for word in ("--package", each)]
    return make_job(plan, asked, replace(made, setup=(*made.setup, *named)), wheel.NAME)


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
