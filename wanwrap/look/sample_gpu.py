"""The GPU that samples are made on: one that nobody trains on, and the options that make them fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from wanwrap.errors import GpuError, RoomError
from wanwrap.look.sample_plan import SamplePlan
from wanwrap.look.sample_request import SampleRequest
from wanwrap.plan import card as cards
from wanwrap.plan import sampling_fit
from wanwrap.plan.card import Card
from wanwrap.plan.fit_words import gib
from wanwrap.run.status import runs
from wanwrap.system import console
from wanwrap.upstream.memory import CONTEXT, GIB
from wanwrap.upstream.sampling_memory import SamplingNeed
from wanwrap.weights.catalogue import LIGHTNING_RANK


def need(plan: SamplePlan) -> SamplingNeed:
    """What the largest of the samples takes."""
    largest = max((cell.sample for cell in plan.cells), key=lambda sample: sample.width * sample.height * sample.frames)
    settings, models = plan.record.settings, plan.models
    rank = max(int(each.record.settings.get("network_dim", 32)) for each in plan.request.run.experts)
    fp8 = "scaled" if "fp8_scaled" in settings else "base" if "fp8_base" in settings else None
    return SamplingNeed(
        task=models.task,
        size=(largest.width, largest.height),
        frames=largest.frames,
        dits=len(models.dits),
        fp8=fp8,
        ranks=(rank, *([LIGHTNING_RANK] if models.beside else [])),
        dit_bytes=max(path.stat().st_size for path in models.dits.values()),
    )


def fitted(plan: SamplePlan, gpu: Mapping[str, Any] | None = None) -> SamplePlan:
    """The plan with options that change no sample: the type of the weights, as they were trained, and what of it lies in RAM.

    It is fitted to the card that --vram names, else to a GPU as torch tells of it, else to this machine's by nvidia-smi.

    Raises:
        RoomError: nothing fits the card. What the user has chosen is not asked about.
    """
    card = _card(plan.request, gpu)
    options = sampling_fit.fitted(need(plan), card, plan.request.blocks_to_swap)
    return replace(plan, card=card, options=options, env={**plan.env, **sampling_fit.environment(card)})


def _card(request: SampleRequest, gpu: Mapping[str, Any] | None) -> Card | None:
    if request.run.rehearsal:  # toys fit each
        return None
    if request.vram:
        return cards.described(request.vram)
    return cards.seen([gpu]) if gpu else cards.here()


def on_free_gpu(plan: SamplePlan, gpus: Sequence[Mapping[str, Any]]) -> SamplePlan:
    """The plan fitted to the one of these GPUs that has the most free memory, and is told to CUDA.

    Raises:
        GpuError: there is none, or a run of this workspace trains on each.
        RoomError: it doesn't fit the card, or what others leave of it.
    """
    request = plan.request
    if not gpus:
        raise GpuError(f"{request.python} sees no CUDA GPU, and samples need one; give another --python.")
    training = [run.name for run in runs(request.base_dir) for expert in run.experts if expert.training]
    if len(gpus) <= len(training):
        raise GpuError(f"{training[0]} trains on this GPU; wait for its end, or `wanwrap stop {training[0]}`.")
    best = max(gpus, key=lambda row: row["free"])
    named = {"CUDA_VISIBLE_DEVICES": f"GPU-{best['uuid']}"} if len(gpus) > 1 and best["uuid"] else {}
    plan = fitted(replace(plan, env=named), best)
    _check_free(plan, best["free"], best["memory"])
    return plan


def _check_free(plan: SamplePlan, free: int, memory: int) -> None:
    """Raises RoomError: other programs use so much of the GPU that the samples won't fit."""
    total = sampling_fit.taken(need(plan), plan.options, plan.card).total
    if total <= free + CONTEXT * GIB:  # the Python that was asked took that itself
        return
    if total > memory:  # with --vram or --blocks_to_swap it is the user's own choice
        console.say(
            f"note: the samples need about {gib(total)}, and the GPU has {gib(memory)}: it will run out of memory."
        )
        return
    raise RoomError(
        f"other programs use {gib(memory - free)} of the GPU's {gib(memory)}, and the samples need about {gib(total)}: end "
        "them first (nvidia-smi tells of them), or give a smaller --size."
    )
