"""The verb that looks at a data set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from wanwrap.cli import check_report as report
from wanwrap.cli.options import BASE_DIR, DATASET, PATH, VRAM, Verb, data, json_option, option, trigger, with_options
from wanwrap.cli.terminal import indented, show_result
from wanwrap.data.check import check as work
from wanwrap.data.dataset import Dataset
from wanwrap.errors import WanwrapError
from wanwrap.look.contact_sheet import check_place, write
from wanwrap.plan.build import look, planned
from wanwrap.plan.expert_options import length
from wanwrap.plan.fit import Fit
from wanwrap.plan.fit_words import as_json as as_json_of
from wanwrap.plan.fit_words import line
from wanwrap.plan.request import Request, read, workspace_folder
from wanwrap.preset import DEFAULT
from wanwrap.system.disk import writable
from wanwrap.weights.workspace import load


@click.command(
    cls=Verb,
    epilog="Example: wanwrap check cats --preset t2v-vanilla --trigger ohwx --contact_sheet cats.html",
)
@with_options(DATASET)
@option("--preset", help="The preset that will train it (default: the one that was set up, else t2v-vanilla).")
@option("--trigger", callback=trigger, help="A word that every caption should hold.")
@option("--contact_sheet", type=PATH, help="Write a page with all of it as it will be cropped.")
@option("--all", "everything", is_flag=True, help="List each file, however many there are.")
@data("--dataset_config", type=PATH, help="Your own data set TOML.")
@VRAM
@BASE_DIR
@json_option("As a JSON object.")
@click.pass_context
def check(ctx: click.Context, /, everything: bool, contact_sheet: Path | None, as_json: bool, **options: Any) -> None:
    """Tell what of DATASET (a folder, a name in the workspace, or a TOML; default: the only one there) will be trained.

    Each picture and clip: size, frames, caption, the bucket it lands in, what it gives, or why it is left out. In
    sum: buckets, batches, steps, tokens, what is blown up, what is twice there. All files are read to their end, in
    parallel; a second time only those that have changed. The exit code is 4 where a run would be stopped.
    """
    if contact_sheet:
        check_place(contact_sheet)  # before minutes of reading
        writable(contact_sheet.parent)
    word, set_up = options.pop("trigger"), load(workspace_folder(options["base_dir"])).presets
    options["preset"] = options["preset"] or next(iter(set_up), DEFAULT)
    request = read(**options)
    data = look(request, whole=True)
    found, preset = work(data, word), request.preset
    trainings = [(expert.noise_level, *length(request, expert, data)) for expert in preset.experts]
    fits = _fits(request, data)
    summary = [*report.summary(found, preset.name, trainings), *(f"{each.train.name}, {line(each)}" for each in fits)]
    if contact_sheet:
        write(contact_sheet, found.dataset.name, [*summary, *found.warnings()], found.rows)
    lines = map(indented, report.lines(found, summary, everything=everything))
    memory = {"memory": [as_json_of(each) for each in fits]}
    show_result(as_json, lambda: {**report.as_json(found, preset.name, trainings), **memory}, lines)
    ctx.exit(found.exit_code)


def _fits(request: Request, data: Dataset) -> Sequence[Fit]:
    """How its trainings fit this machine's card, or the one that was named; none where a run would be stopped."""
    with suppress(WanwrapError):
        return planned(replace(request, fit="auto"), data).fits
    return ()
