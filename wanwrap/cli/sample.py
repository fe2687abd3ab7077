"""The verb that makes samples of a run's LoRAs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from wanwrap.cli.options import (
    ANY_UPSTREAM,
    PATH,
    PLACES,
    VRAM,
    Verb,
    environment,
    json_option,
    option,
    trigger,
    with_options,
)
from wanwrap.cli.report import Renewal
from wanwrap.cli.terminal import show_result
from wanwrap.errors import OptionError
from wanwrap.look import sample_gpu, sampling
from wanwrap.look.report import FILE
from wanwrap.look.sample_plan import SamplePlan, make_plan
from wanwrap.look.sample_request import SEED, SampleRequest
from wanwrap.look.samples import FOLDER
from wanwrap.plan import preflight
from wanwrap.plan.request import gone, training_python, workspace_folder
from wanwrap.run.status import find, look
from wanwrap.system import console
from wanwrap.system.shell import native
from wanwrap.upstream import pin
from wanwrap.upstream.options import spell
from wanwrap.weights.workspace import load

MODULES = {"musubi_tuner", "torch", "accelerate"}


def _size(_: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`832x480`."""
    if value is None:
        return None
    if not (found := re.fullmatch(r"(\d+)x(\d+)", value.lower())):
        raise click.BadParameter("give WIDTHxHEIGHT in pixels, as in 832x480.", param=param)
    return int(found[1]), int(found[2])


def _words(_: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """`10,20,last`."""
    return tuple(word.strip() for word in (value or "").split(",") if word.strip())


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    """`0.6,1.0`."""
    try:
        found = tuple(float(word) for word in _words(ctx, param, value))
    except ValueError:
        raise click.BadParameter("give numbers, as in 0.6,1.0.", param=param) from None
    if not found or not all(0 < strength <= 10 for strength in found):
        raise click.BadParameter("a strength is above 0, and 10 at most; the grid has a column without.", param=param)
    return found


@click.command(cls=Verb, epilog="Example: wanwrap sample cats-t2v-vanilla --epochs 30,40,last --strength 0.8,1")
@click.argument("run")
@option("--epochs", callback=_words, help="Of which epochs, as in 10,20,last, or all (default: about five).")
@option("--strength", callback=_numbers, default="1.0", show_default=True, help="Of the LoRAs, as in 0.6,1.0.")
@option("--prompt", multiple=True, help="What is to be seen; again for each more (default: four of the data set's).")
@option("--prompts", type=PATH, help="A file of prompts, as --sample_prompts of `run`.")
@option("--image", type=PATH, help="I2V's first frame (default: from the data set).")
@option("--trigger", callback=trigger, help="The trigger word (default: what all captions begin with).")
@option("--clips", is_flag=True, help="Clips of two seconds instead of pictures.")
@option("--frames", type=click.IntRange(min=1), help="Frames of each clip: 4N+1, 16 a second.")
@option("--size", callback=_size, help="WIDTHxHEIGHT (default: the preset's).")
@option("--steps", type=click.IntRange(min=1), help="Steps (default: the preset's, 20 at most).")
@option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=SEED, show_default=True, help="Of the noise, the same for all."
)
@option("--lightning", is_flag=True, help="With Lightning's LoRAs beside: a preview in 4 steps.")
@option("--dry_run", is_flag=True, help="Print upstream's command for each instead.")
@environment(
    "--blocks_to_swap", type=click.IntRange(min=0), help="Blocks of each DiT kept in RAM (default: what fits)."
)
@with_options([*PLACES, ANY_UPSTREAM, VRAM])
@json_option("The samples as JSON.")
def sample(run: str, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Make pictures or clips with the LoRAs of a RUN, to see which epoch is the best at which strength.

    Both experts of Wan 2.2 take part, as in ComfyUI. All samples have the same noise, and one column is made without
    LoRAs. What is there already is not made again, so the same command goes on where it was stopped.
    """
    if options["frames"] and options["clips"]:
        raise OptionError("--clips means 33 frames; give it or --frames.")
    plan = make_plan(_request(run, **options))
    left = sampling.todo(plan)
    console.say(_heading(plan, len(plan.cells) - len(left)), *(f"note: {note}" for note in plan.notes))
    if dry_run:
        plan = sample_gpu.fitted(plan)
        rows = [{"file": cell.sample.file, "argv": sampling.argv(plan, cell)} for cell in plan.cells]
        show_result(as_json, lambda: rows, sampling.script(plan, native()))
        return
    if left:
        _make(plan)
    done = f"done: {len(plan.cells)} samples in {plan.folder / FOLDER}; side by side on {plan.folder / FILE}"
    show_result(as_json, lambda: [vars(sample) for sample in sampling.there(plan)], [done])


def _request(run: str, base_dir: Path, python: str | None, musubi_dir: Path | None, **options: Any) -> SampleRequest:
    """What is asked for, looked up on this machine. Raises OutputError, OptionError, PackageError: it is not there."""
    base = workspace_folder(base_dir)
    workspace, found = load(base), find(run, base)
    preflight.check_recorded(gone(workspace, base, python, musubi_dir))
    upstream = pin.find(musubi_dir, base, workspace.musubi_dir)
    if found.rehearsal:
        from wanwrap.rehearsal.stage import CHILD

        upstream = replace(upstream, child=CHILD)
    return SampleRequest(
        run=found,
        base_dir=base,
        python=training_python(python, workspace.python),
        upstream=upstream,
        workspace=workspace,
        **options,
    )


def _heading(plan: SamplePlan, done: int) -> str:
    use = plan.use
    what = f"{use.video_length} frames" if use.video_length > 1 else "pictures"
    there = f", {done} of them are there" if done else ""
    size = f"{use.size[0]}x{use.size[1]}"
    return f"{plan.request.run.name}: {len(plan.cells)} samples{there}; {what}, {size}, {use.words()}"


def _make(plan: SamplePlan) -> None:
    """Those that are not there yet. Raises GpuError, RoomError, PackageError, UpstreamError, and sampling.make's."""
    request = plan.request
    any_upstream = request.any_upstream
    answer, upstream = preflight.checked(request.python, request.upstream, MODULES, any_upstream=any_upstream)
    console.say(*upstream.remarks())
    plan = sample_gpu.fitted(plan) if request.run.rehearsal else sample_gpu.on_free_gpu(plan, answer["gpus"])
    if words := " ".join(spell(plan.options)):
        console.say(f"with {words}, which change no sample")
    try:
        sampling.make(plan)
    finally:
        Renewal(plan.folder).write(look(plan.folder))  # with those that are there
