"""The verb that has captions written: caption."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from wanwrap.caption.captioning import Outcome, carry_out
from wanwrap.caption.request import CaptionRequest, read
from wanwrap.cli.options import (
    ANY_UPSTREAM,
    BASE_DIR,
    DATASET,
    MUSUBI_DIR,
    PATH,
    PYTHON,
    Verb,
    json_option,
    option,
    with_options,
)
from wanwrap.cli.terminal import indented, show_json
from wanwrap.errors import DatasetError, listing
from wanwrap.plan.script import command, native
from wanwrap.system import console

SHORT = 100  # characters of a caption in its line


@click.command(
    cls=Verb,
    epilog="Example: wanwrap caption cats --kind character --trigger mycat",
)
@with_options(DATASET)
@option(
    "--kind",
    type=click.Choice(["general", "character", "style", "motion", "object"]),
    help="What is to be learned: the captions leave that out (default: general, which tells all).",
)
@option("--trigger", metavar="WORD", help="A name for it, put in front of each new caption that lacks it.")
@option("--prompt", metavar="TEXT", help="Ask the model this instead; \\n is a line break.")
@option("--prompt_file", type=PATH, help="Or what stands in this file; {trigger} in it is the trigger.")
@option("--overwrite", is_flag=True, help="Write captions that are there anew; the old ones are kept elsewhere.")
@option("--model", type=PATH, help="Qwen2.5-VL 7B (default: in BASE_DIR/models, or a ComfyUI that setup knows).")
@option("--fp8", is_flag=True, help="Load the model in fp8: half the memory on the GPU.")
@option("--max_size", type=click.IntRange(min=280), help="Show pictures smaller, N x N pixels in all (default: 1280).")
@option("--max_new_tokens", type=click.IntRange(min=1), help="Longest answer, in tokens (default: 1024).")
@BASE_DIR
@PYTHON
@MUSUBI_DIR
@ANY_UPSTREAM
@option("--cpu", is_flag=True, help="Go on where there is no GPU: minutes a picture.")
@option("--dry_run", is_flag=True, help="Only show what would be captioned, and the command.")
@json_option("What was written, as JSON.")
def caption(dry_run: bool, as_json: bool, **arguments: Any) -> None:
    """Write captions for the pictures and clips of DATASET that have none, by musubi-tuner's own script.

    DATASET is a folder, or the name of one in BASE_DIR/datasets (default: the only one there). Qwen2.5-VL looks at each picture, and of each clip at
    the frame in the middle; what it says goes into the .txt beside it as soon as it has said it. Captions that are
    there stay. Read what it wrote: it errs.
    """
    asked = read(**arguments)
    if dry_run:
        _print(asked, as_json)
        return
    outcome = Outcome(kept=asked.kept)
    if asked.targets:
        _carry_out(asked, outcome, as_json)
    else:
        _report(asked, outcome, as_json)


def _carry_out(asked: CaptionRequest, outcome: Outcome, as_json: bool) -> None:
    """Have them written; what was is told however it ends."""
    model = asked.found_model()
    said = f"captioning {len(asked.targets)} of {len(asked.targets) + asked.kept} in {asked.folder} with {model}"
    for line in (said, *asked.ask()):
        console.say(line)
    try:
        carry_out(asked, model, outcome)
    finally:
        console.say("")  # upstream's progress bar ends without a new line
        _report(asked, outcome, as_json)
    _check(asked, outcome)


def _print(asked: CaptionRequest, as_json: bool) -> None:
    """What would be done on stdout; what is missing for it on stderr."""
    model, notes = asked.missing() if asked.targets else (None, [])
    argv = asked.argv(model) if model else ()
    if as_json:
        paths, replaced = ([str(each.path) for each in some] for some in (asked.targets, asked.replaced))
        show_json({"pending": paths, "replaced": replaced, "kept": asked.kept, "command": argv, "missing": notes})
        return
    again = {*asked.replaced}
    for each in asked.targets:
        click.echo(f"{each.path.relative_to(asked.folder)}{' (has a caption)' if each in again else ''}")
    click.echo(f"{asked.folder}: {len(asked.targets)} to caption; captions kept: {asked.kept}.")
    if argv:
        click.echo(f"\nIn {asked.work}, with what the model is to see in its folder staged:\n{command(argv, native())}")
    for note in notes:
        console.say(f"missing: {note}")


def _report(asked: CaptionRequest, outcome: Outcome, as_json: bool) -> None:
    """A line for each and a sum."""
    if as_json:
        show_json(outcome.json())
        return
    for path, text in sorted(outcome.written.items()):
        short = textwrap.shorten(text, SHORT, placeholder=" ...")
        click.echo(indented(f"{path.relative_to(asked.folder)}: {short}"))
    anew = sum(each.path in outcome.written for each in asked.replaced)
    written = f"{len(outcome.written)} written{f', {anew} of them anew' if anew else ''}"
    click.echo(f"{asked.folder}: {written if asked.targets else 'nothing to do'}; captions kept: {outcome.kept}.")


def _check(asked: CaptionRequest, outcome: Outcome) -> None:
    """Raises DatasetError: some have no caption still."""
    if failed := outcome.failed:
        why = listing((f"{path.relative_to(asked.folder)} ({why})" for path, why in failed.items()), 20)
        raise DatasetError(f"{len(failed)} got no caption: {why}; mend or remove them, or write theirs yourself.")
