"""The verb that has captions written: caption."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import click

from wanwrap.caption.captioning import Captioning, CaptionRequest
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
from wanwrap.cli.terminal import indented, show_result
from wanwrap.errors import WeightsError
from wanwrap.plan.script import command
from wanwrap.system import console
from wanwrap.system.shell import native

SHORT = 100  # characters of a caption in its line


@click.command(cls=Verb, epilog="Example: wanwrap caption cats --kind character --trigger mycat")
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
        _dry_run(work, as_json)
        return
    if work.targets:
        work.check()
    try:
        if work.targets:
            work.carry_out()
    finally:
        show_result(as_json, lambda: _document(work), _lines(work))


def _dry_run(work: Captioning, as_json: bool) -> None:
    """What would be done on stdout; what is missing for it on stderr."""
    argv, missing = tuple[str, ...](), list[str]()
    if work.targets:
        try:
            work.find_model()
        except WeightsError as error:
            missing = [str(error)]
        argv = work.argv()
    paths, replaced = work.targets, sorted(work.replaced)
    document = {"pending": paths, "replaced": replaced, "kept": work.kept, "command": argv, "missing": missing}
    lines = [f"{path.relative_to(work.folder)}{' (has a caption)' if path in work.replaced else ''}" for path in paths]
    lines += [f"{work.folder}: {len(lines)} to caption; captions kept: {work.kept}."]
    if argv:
        lines += [f"\nIn {work.work}, with what the model is to see in its folder staged:\n{command(argv, native())}"]
    show_result(as_json, lambda: document, lines)
    console.say(*(f"missing: {each}" for each in missing))


def _document(work: Captioning) -> dict[str, Any]:
    """What has become of each."""
    written = [{"path": path, "caption": text} for path, text in work.written.items()]
    failed = [{"path": path, "reason": why} for path, why in work.failed.items()]
    return {"written": written, "kept": work.kept, "failed": failed}


def _lines(work: Captioning) -> Iterator[str]:
    """A line for each that is new, and a sum."""
    for path, text in sorted(work.written.items()):
        yield indented(f"{path.relative_to(work.folder)}: {textwrap.shorten(text, SHORT, placeholder=' ...')}")
    written = f"{len(work.written)} written" if work.targets else "nothing to do"
    yield f"{work.folder}: {written}; captions kept: {work.kept}."
