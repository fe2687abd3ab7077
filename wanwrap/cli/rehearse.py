"""The verb that tries a run in small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from wanwrap.cli.options import RUN, RunVerb, json_option, with_options
from wanwrap.cli.report import Renewal
from wanwrap.cli.run_words import run_json
from wanwrap.cli.terminal import show_json
from wanwrap.cli.train import carry_out
from wanwrap.cli.words import heading, lacking
from wanwrap.look import workflow
from wanwrap.look.report import FILE
from wanwrap.plan.plan import Plan
from wanwrap.plan.preflight import missing
from wanwrap.plan.request import read
from wanwrap.rehearsal.stage import rehearsal, verify
from wanwrap.run.run import sample
from wanwrap.run.status import look
from wanwrap.system import console


@click.command(cls=RunVerb, epilog="Example: wanwrap rehearse t2v-vanilla cats")
@with_options(RUN)
@json_option("The rehearsal's records as JSON.", "Control")
def rehearse(as_json: bool, **options: Any) -> None:
    """Carry a run out in small, through the real upstream: toy weights, a few items, two epochs.

    Takes the options of `run` and about a minute, on a GPU or a CPU, and needs no weights. It shows that
    the installation, the data set, the options and the attention and optimizer packages work together.
    """
    staged = rehearsal(read(**options))
    notes = [f"rehearsal: {note}." for note in staged.notes]
    console.say(*heading(staged.plan), *notes, *staged.machine.upstream.remarks())
    try:
        carry_out(staged.plan, staged.machine, retry=False)
        verify(staged.plan)
        sample(staged.plan)
        workflow.write(staged.plan.folder)
        Renewal(staged.plan.folder).write()
    finally:
        if as_json:
            show_json(run_json(look(staged.plan.folder)))
    if not as_json:
        click.echo("\n".join(_rehearsed(staged.plan, notes, missing(staged.real))))


def _rehearsed(plan: Plan, notes: Sequence[str], needed: Sequence[str]) -> Iterator[str]:
    """That all steps work, how they differed from the real ones, and what is still to be had before those."""
    yield f"rehearsed: upstream carried out all {len(plan.steps)} steps and made"
    yield from (f"  {train.lora}" for train in plan.trainings)
    yield f"  {plan.folder / FILE}"
    yield f"These are toys that have learned nothing; {plan.request.base_dir} can be deleted."
    yield from notes
    yield from lacking(needed)
    if not needed:
        yield "The real run: the same command with `run`."
