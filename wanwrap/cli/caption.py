"""The verb that has captions written: caption."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from wanwrap.caption.captioning import Captioning
from wanwrap.caption.request import CaptionRequest
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
    trigger,
    with_options,
)
from wanwrap.cli.terminal import indented, show_json
from wanwrap.errors import DatasetError, WeightsError, listing
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
@option(
    "--trigger", metavar="WORD", callback=trigger, help="A name for it, put in front of each new caption that lacks it."
)
@option("--prompt", metavar="TEXT", help="Ask the model this instead; \\n is a line break.")
@option("--prompt_file", type=PATH, help="Or what stands in this file; {trigger} in it is the trigger.")
@option("--overwrite", is_flag=True, help="Write captions that are there anew; the old ones are kept elsewhere.")
@option("--model", type=PATH, help="Qwen2.5-VL 7B (default: in BASE_DIR/models, or a ComfyUI that setup knows).")
@option("--fp8", is_flag=True, help="Load the model in fp8: half the memory on the GPU.")
@option("--max_size", type=click.IntRange(min=400), help="Show pictures smaller, N x N pixels in all (default: 1280).")
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
    work = Captioning(CaptionRequest(**arguments))
    if dry_run:
        _print(work, as_json)
    elif work.targets:
        _carry_out(work, as_json)
    else:
        _report(work, as_json)


def _carry_out(work: Captioning, as_json: bool) -> None:
    """Have them written; what was is told however it ends."""
    model = work.find_model()
    said = f"captioning {len(work.targets)} of {len(work.targets) + work.kept} in {work.folder} with {model}"
    for line in (said, *work.check_machine()):
        console.say(line)
    try:
        work.carry_out(model)
    finally:
        console.say("")  # upstream's progress bar ends without a new line
        _report(work, as_json)
    if failed := work.failed:
        why = listing((f"{path.relative_to(work.folder)} ({why})" for path, why in failed.items()), 20)
        raise DatasetError(f"{len(failed)} got no caption: {why}; mend or remove them, or write theirs yourself.")


def _print(work: Captioning, as_json: bool) -> None:
    """What would be done on stdout; what is missing for it on stderr."""
    notes, paths = list[str](), [item.path for item in work.targets]
    try:
        argv = work.argv(work.find_model()) if paths else ()
    except WeightsError as error:
        argv, notes = work.argv(work.asked.model or work.usual_model), [str(error)]
    if as_json:
        pending, replaced = ([str(path) for path in some] for some in (paths, sorted(work.replaced)))
        show_json({"pending": pending, "replaced": replaced, "kept": work.kept, "command": argv, "missing": notes})
        return
    for path in paths:
        click.echo(f"{path.relative_to(work.folder)}{' (has a caption)' if path in work.replaced else ''}")
    click.echo(f"{work.folder}: {len(paths)} to caption; captions kept: {work.kept}.")
    if argv:
        click.echo(f"\nIn {work.work}, with what the model is to see in its folder staged:\n{command(argv, native())}")
    for note in notes:
        console.say(f"missing: {note}")


def _report(work: Captioning, as_json: bool) -> None:
    """A line for each and a sum."""
    if as_json:
        written = [{"path": str(path), "caption": text} for path, text in work.written.items()]
        failed = [{"path": str(path), "reason": why} for path, why in work.failed.items()]
        show_json({"written": written, "kept": work.kept, "failed": failed})
        return
    for path, text in sorted(work.written.items()):
        short = textwrap.shorten(text, SHORT, placeholder=" ...")
        click.echo(indented(f"{path.relative_to(work.folder)}: {short}"))
    anew = len(work.replaced & work.written.keys())
    written_now = f"{len(work.written)} written{f', {anew} of them anew' if anew else ''}"
    click.echo(f"{work.folder}: {written_now if work.targets else 'nothing to do'}; captions kept: {work.kept}.")
