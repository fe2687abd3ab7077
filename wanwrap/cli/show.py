"""The verb that prints a preset."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click

from wanwrap.cli.options import PATH, Verb, json_option, option
from wanwrap.cli.terminal import show_result, show_text
from wanwrap.cli.words import at_inference, heading, plan_json
from wanwrap.errors import OptionError
from wanwrap.plan.build import SAMPLE, build
from wanwrap.plan.plan import Plan
from wanwrap.plan.request import read
from wanwrap.plan.script import script
from wanwrap.preset import path_of
from wanwrap.preset import source as text_of
from wanwrap.system.shell import native
from wanwrap.upstream.options import spell

PATHS = ("dit", "dataset_config", "output_name")  # that differ from run to run


@click.command(cls=Verb, epilog="Example: wanwrap show t2v-vanilla --out mine.py, edit, wanwrap run ./mine.py")
@click.argument("preset")
@option("--source", is_flag=True, help="The preset's Python module, as a start for your own.")
@option("--out", type=PATH, help="Write that module to this new file.")
@option("--script", "as_script", is_flag=True, help="The commands that it runs, on wanwrap's sample data set.")
@json_option()
def show(preset: str, source: bool, out: Path | None, as_script: bool, as_json: bool) -> None:
    """Print a preset in full: what it is for, where its numbers come from, every option."""
    if out and (as_script or as_json):
        raise OptionError("--out is for the module; `wanwrap run PRESET DATASET --dry_run --out FILE` writes a script.")
    if source or out:
        show_text(text_of(path_of(preset)), out)
        return
    plan = build(read(preset=preset, dataset=SAMPLE))
    word = plan.request.preset.word
    commands = f"\nIts commands: wanwrap show {word} --script; with your data: wanwrap run {word} DATASET --dry_run"
    text = script(plan, native(), heading(plan)).removesuffix("\n")
    show_result(as_json, lambda: plan_json(plan), [text] if as_script else chain(_described(plan), [commands]))


def _described(plan: Plan) -> Iterator[str]:
    """A preset in full, per expert."""
    preset = plan.request.preset
    yield from (f"{preset.name}: {preset.summary}", "", preset.doc, "")
    yield at_inference(plan)
    yield f"Weights: {', '.join(weight.path.name for weight in plan.weights.values())}"
    if preset.lightning:
        yield f"Lightning: release {preset.lightning.release}, strength {preset.lightning.strength:g}"
    yield "\nOptions (steps and total_iters here for the sample data set):"
    before = list[str]()
    for train in plan.trainings:
        yield f"{train.name}:{' (where it differs)' if before else ''}"
        told = [" ".join(spell({name: value})) for name, value in train.options.items() if name not in PATHS]
        yield from (f"  {words}" for words in told if words and words not in before)
        before = told
