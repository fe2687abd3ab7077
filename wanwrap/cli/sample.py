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
from wanwrap.look.sample_plan import SEED, SamplePlan, SampleRequest, make_plan
from wanwrap.look.sampling import Sampler
from wanwrap.plan import card as cards
from wanwrap.plan import preflight, sampling_fit
from wanwrap.plan.request import gone, training_python, workspace_folder
from wanwrap.run.status import Run, find
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
def sample(
    run: str,
    dry_run: bool,
    blocks_to_swap: int | None,
    base_dir: Path,
    python: str | None,
    musubi_dir: Path | None,
    any_upstream: bool,
    vram: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Make pictures or clips with the LoRAs of a RUN, to see which epoch is the best at which strength.

    Both experts of Wan 2.2 take part, as in ComfyUI. All samples have the same noise, and one column is made without
    LoRAs. What is there already is not made again, so the same command goes on where it was stopped.
    """
    if options["frames"] and options["clips"]:
        raise OptionError("--clips means 33 frames; give it or --frames.")
    base = workspace_folder(base_dir)
    workspace, found = load(base), find(run, base)
    home = found.folder.parents[1] if found.rehearsal else base  # toys are no weights
    plan = make_plan(SampleRequest(**options), found, home, workspace)
    upstream = pin.find(musubi_dir, base, workspace.musubi_dir)
    if found.rehearsal:
        from wanwrap.rehearsal.stage import CHILD

        upstream = replace(upstream, child=CHILD)
    card = cards.described(vram) if vram else cards.here()
    sampler = Sampler(
        folder=found.folder,
        python=training_python(python, workspace.python),
        upstream=upstream,
        networks=plan.networks,
        options=sample_gpu.options(plan, None if found.rehearsal else card, blocks_to_swap),
        conversions=plan.conversions,
        env=sampling_fit.environment(card),
    )
    left = sampling.todo(found.folder, plan.cells)
    console.say(_heading(found, plan, len(plan.cells) - len(left)), *(f"note: {note}" for note in plan.notes))
    if dry_run:
        rows = [{"file": cell.sample.file, "argv": sampler.argv(cell)} for cell in plan.cells]
        show_result(as_json, lambda: rows, sampling.script(sampler, plan.cells, native()))
        return
    if left:
        preflight.check_recorded(gone(workspace, base, python, musubi_dir))
        sampler = _checked(sampler, plan, found, base, blocks_to_swap=blocks_to_swap, any_upstream=any_upstream)
        try:
            sampling.make(sampler, plan.cells)
        finally:
            Renewal(found.folder).write()  # with those that are there
    files = [found.folder / cell.sample.file for cell in plan.cells]
    show_result(
        as_json, lambda: [vars(cell.sample) for cell in plan.cells], ["done:", *(f"  {file}" for file in files)]
    )


def _heading(run: Run, plan: SamplePlan, done: int) -> str:
    use = plan.use
    what = f"{use.video_length} frames" if use.video_length > 1 else "pictures"
    there = f", {done} of them are there" if done else ""
    return f"{run.name}: {len(plan.cells)} samples{there}; {what}, {use.size[0]}x{use.size[1]}, {use.words()}"


def _checked(
    sampler: Sampler, plan: SamplePlan, run: Run, base: Path, *, blocks_to_swap: int | None, any_upstream: bool
) -> Sampler:
    """With what makes it fit the GPU that is free. Raises GpuError, RoomError, PackageError, UpstreamError."""
    answer = preflight.ask(sampler.python, sampler.upstream, MODULES)
    upstream = preflight.check_upstream(answer, sampler.python, sampler.upstream, any_upstream=any_upstream)
    preflight.check_packages(answer, sampler.python)
    console.say(*upstream.remarks())
    if run.rehearsal:
        return sampler
    card, env, free = sample_gpu.choose(answer["gpus"], base, sampler.python)
    chosen = sample_gpu.options(plan, card, blocks_to_swap)
    sample_gpu.check_free(plan, chosen, card, free)
    if words := " ".join(spell(chosen)):
        console.say(f"with {words}, which change no sample")
    return replace(sampler, options=chosen, env=env)
