"""The GPU that samples are made on: one that nobody trains on, and the options that make them fit it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wanwrap.errors import GpuError, OptionError, RoomError
from wanwrap.look.sample_plan import SamplePlan
from wanwrap.plan import card as cards
from wanwrap.plan.card import Card
from wanwrap.plan.fit_words import gib
from wanwrap.plan.sampling_fit import environment, fitted, taken
from wanwrap.run.status import runs
from wanwrap.upstream import dit
from wanwrap.upstream.memory import CONTEXT, GIB
from wanwrap.upstream.options import Options
from wanwrap.upstream.sampling_memory import SamplingNeed
from wanwrap.weights.catalogue import LIGHTNING_RANK


def need(plan: SamplePlan) -> SamplingNeed:
    """What the largest of the samples takes."""
    largest = max((cell.sample for cell in plan.cells), key=lambda sample: sample.width * sample.height * sample.frames)
    settings, models = plan.record.settings, plan.models
    fp8 = "scaled" if "fp8_scaled" in settings else "base" if "fp8_base" in settings else None
    return SamplingNeed(
        task=models.task,
        size=(largest.width, largest.height),
        frames=largest.frames,
        dits=len(models.dits),
        fp8=fp8,
        ranks=(plan.rank, *([LIGHTNING_RANK] if models.beside else [])),
        dit_bytes=max(path.stat().st_size for path in models.dits.values()),
    )


def options(plan: SamplePlan, card: Card | None, blocks_to_swap: int | None) -> Options:
    """Those that change no sample: the type of the weights, as they were trained, and what of it lies in RAM.

    Raises:
        RoomError: nothing fits the card. What the user has chosen is not asked about.
    """
    most = dit.blocks(plan.models.task) - 1
    if blocks_to_swap is not None and blocks_to_swap > most:
        raise OptionError(f"--blocks_to_swap {blocks_to_swap}: of this model {most} at most can be swapped.")
    return fitted(need(plan), card, blocks_to_swap)


def choose(gpus: list[Mapping[str, Any]], base: Path, python: str) -> tuple[Card | None, dict[str, str], int]:
    """The GPU with the most free memory, what tells CUDA that it is meant, and its bytes that are free.

    Raises:
        GpuError: there is none, or a run of this workspace trains on each.
    """
    if not gpus:
        raise GpuError(f"{python} sees no CUDA GPU, and samples need one; give another --python.")
    training = [run.name for run in runs(base) for expert in run.experts if expert.training]
    if len(gpus) <= len(training):
        raise GpuError(f"{training[0]} trains on this GPU; wait for its end, or `wanwrap stop {training[0]}`.")
    best = max(gpus, key=lambda row: row["free"])
    named = {"CUDA_VISIBLE_DEVICES": f"GPU-{best['uuid']}"} if len(gpus) > 1 and best["uuid"] else {}
    card = cards.seen([best])
    return card, {**named, **environment(card)}, best["free"]


def check_free(plan: SamplePlan, chosen: Options, card: Card | None, free: int) -> None:
    """Raises RoomError: other programs use so much of the GPU that the samples won't fit."""
    total = taken(need(plan), chosen, card).total
    if card and total > free + CONTEXT * GIB:
        raise RoomError(
            f"other programs use {gib(card.memory - free)} of the GPU's {gib(card.memory)}, and the samples need about "
            f"{gib(total)}: end them first (nvidia-smi tells of them), or give a smaller --size."
        )
