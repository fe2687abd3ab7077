"""The GPU memory of a training in closed form, against upstream's own model under fake tensors and public measurements."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from helpers import ROOT

from wanwrap.upstream import memory
from wanwrap.upstream.dit import flops
from wanwrap.upstream.memory import EMBEDDING, GIB, OFFLOAD
from wanwrap.upstream.sampling_memory import CACHE, SamplingNeed, of_sampling

sys.path.insert(0, str(ROOT / "scripts"))
from caching_allocator import MIB, reserved

A14B: dict[str, Any] = {
    "task": "t2v-A14B",
    "network_module": "networks.lora_wan",
    "network_dim": 32,
    "optimizer_type": "adamw8bit",
    "fp8_base": True,
    "fp8_scaled": True,
}
SECOURSES = {"task": "t2v-14B", "network_dim": 128, "optimizer_type": "AdaFactor", OFFLOAD: True}
OBSXRVER = {"fp8_scaled": False, "network_dim": 16, "optimizer_type": "torch.optim.AdamW", "blocks_to_swap": 1}
BARE = {"task": "t2v-1.3B", "fp8_base": False, "fp8_scaled": False}


# What upstream's model takes under fake tensors; that trace through a model of torch's allocator, and through one with
# expandable_segments. GiB.
TRACED: list[tuple[dict[str, Any], int, float, float, float | None]] = [
    (SECOURSES, 1024, 19.62, 20.36, None),
    ({}, 1024, 16.76, 17.76, 17.25),
    ({"task": "t2v-14B"}, 3600, 18.06, 19.70, 18.80),
    ({}, 6144, 21.51, 23.61, 22.55),
    ({"task": "t2v-14B"}, 6144, 19.87, 22.11, 20.79),
    (OBSXRVER, 6804, 21.28, 23.70, 21.96),
    ({"blocks_to_swap": 30}, 24_480, 29.64, 34.98, None),
    ({EMBEDDING: True, "blocks_to_swap": 20}, 24_480, 26.37, 31.80, 27.58),
    ({"task": "t2v-14B", OFFLOAD: True}, 24_480, 24.59, 26.86, 25.57),
    ({}, 25_200, 40.16, 45.93, 41.82),
    ({OFFLOAD: True}, 25_200, 31.57, 33.91, 32.75),
    ({"task": "t2v-14B", "network_dim": 16, "blocks_to_swap": 36}, 32_760, 26.59, 33.59, 28.27),
    ({"task": "i2v-A14B", "blocks_to_swap": 39}, 75_600, 76.90, 93.60, 81.79),
    ({**BARE, "fp8_base": True}, 1024, 1.97, 2.12, 2.03),
    (BARE, 32_760, 10.22, 11.50, None),  # at this size it is 10.4 or 11.1, by which block is found first
]


@pytest.mark.parametrize(("changes", "tokens", "allocated", "reserved", "expandable"), TRACED)
def test_the_peak_of_upstreams_own_model(
    changes: dict[str, Any], tokens: int, allocated: float, reserved: float, expandable: float | None
) -> None:
    options = {**A14B, **changes}
    found = memory.of(options, tokens)
    assert found.allocated / GIB == pytest.approx(allocated, rel=0.01)
    assert found.reserved / GIB == pytest.approx(reserved, rel=0.02)
    assert found.total / GIB == pytest.approx(reserved + memory.CONTEXT, rel=0.02)
    if expandable:
        assert memory.of(options, tokens, expandable=True).reserved / GIB == pytest.approx(expandable, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "tokens", "gib"),
    [
        (SECOURSES, 1024, 20.68),  # on a 5090 with Windows: 21,180 MiB
        ({}, 25_200, 46.4),  # musubi-tuner #537
        ({OFFLOAD: True}, 25_200, 34.4),  # the same
    ],
)
def test_the_peak_that_others_have_measured(changes: dict[str, Any], tokens: int, gib: float) -> None:
    assert memory.of({**A14B, **changes}, tokens).total / GIB == pytest.approx(gib, rel=0.016)


@pytest.mark.parametrize(
    ("changes", "whole"),
    [
        ({"fp8_scaled": False}, True),
        ({"fp8_scaled": False, "blocks_to_swap": 1}, False),
        ({}, False),
    ],
)
def test_a_file_that_goes_onto_the_gpu_before_it_is_cast(changes: dict[str, Any], whole: bool) -> None:
    options, size = {**A14B, **changes}, round(26.62 * GIB)
    steps = memory.of(options, 1024).total
    assert memory.of(options, 1024, size=size).total == (round(size + memory.CONTEXT * GIB) if whole else steps) > 0
    assert memory.of(options, 60_000, size=size).total == memory.of(options, 60_000).total


@pytest.mark.parametrize(("task", "tokens", "peta"), [("t2v-A14B", 1024, 0.087), ("i2v-14B", 75_600, 26.7)])
def test_operations_of_a_step(task: str, tokens: int, peta: float) -> None:
    assert flops(task, tokens) / 1e15 == pytest.approx(peta, rel=0.01)


TWO: dict[str, Any] = {"task": "t2v-A14B", "dits": 2}
CLIP, LONG = (832, 480, 33), (832, 480, 81)
BOTH = {EMBEDDING: True, CACHE: True}
# What upstream's models take through the model of torch's allocator: denoising, and that with expandable segments; decoding,
# and that with them. GiB, without CUDA's own.
SAMPLED: list[tuple[tuple[int, int, int], dict[str, Any], dict[str, Any], tuple[float, float, float, float]]] = [
    ((832, 480, 1), TWO, {**BOTH, "blocks_to_swap": 39}, (4.48, 4.15, 5.42, 4.74)),
    (CLIP, TWO, {"blocks_to_swap": 20}, (22.98, 21.78, 26.38, 24.08)),
    (CLIP, TWO, {**BOTH, "blocks_to_swap": 20}, (19.59, 18.21, 21.91, 20.68)),
    (LONG, {**TWO, "ranks": (32, 64)}, {**BOTH, "blocks_to_swap": 36}, (17.50, 13.27, 13.54, 12.52)),
    ((624, 352, 33), TWO, {**BOTH, "blocks_to_swap": 39}, (5.39, 4.75, 6.46, 6.23)),
    (LONG, TWO, {EMBEDDING: True}, (38.21, 34.07, 39.85, 37.28)),
    (LONG, TWO, {**BOTH, "blocks_to_swap": 36}, (14.02, 10.51, 11.21, 10.23)),
    ((1280, 720, 81), TWO, {**BOTH, "blocks_to_swap": 30}, (28.21, 21.04, 22.32, 18.71)),
    (
        (1280, 720, 33),
        {**TWO, "task": "i2v-A14B", "fp8": "base"},
        {"blocks_to_swap": 10},
        (38.08, 34.55, 44.51, 39.70),
    ),
    (CLIP, {"task": "i2v-14B"}, {}, (20.47, 18.92, 27.09, 24.79)),
    (CLIP, {"task": "t2v-14B", "fp8": None}, {"blocks_to_swap": 20}, (17.31, 16.28, 24.06, 22.24)),
    (LONG, {"task": "t2v-1.3B", "fp8": None}, {}, (7.10, 5.61, 12.89, 11.07)),
]


@pytest.mark.parametrize(("shape", "need", "options", "traced"), SAMPLED)
def test_what_upstreams_models_take_in_sampling(
    shape: tuple[int, int, int],
    need: dict[str, Any],
    options: dict[str, Any],
    traced: tuple[float, float, float, float],
) -> None:
    needed = SamplingNeed(size=shape[:2], frames=shape[2], **need)
    for expandable in (False, True):
        found = of_sampling(needed, options, expandable=expandable)
        stages = [(each / GIB - memory.CONTEXT) for each in (found.denoising, found.decoding)]
        assert stages == pytest.approx([*traced[expandable::2]], rel=0.05)
        assert found.models == max(found.denoising, found.decoding)
        assert max(stages) == pytest.approx(max(traced[expandable::2]), rel=0.042 if len(needed.ranks) > 1 else 0.03)


def takes(*sizes: float, expandable: bool = False) -> float:
    """MiB that torch's allocator takes for tensors of so many MiB; minus them frees the first one of that size."""
    living, events = list[tuple[int, float]](), list[tuple[int, int]]()
    for number, size in enumerate(sizes):
        if size < 0:
            number = next(number for number, other in living if other == -size)
            living.remove((number, -size))
        else:
            living.append((number, size))
        events.append((number, round(size * MIB)))
    return reserved(events, expandable=expandable) / MIB


def test_the_model_of_torchs_allocator() -> None:
    """By the rules of CUDACachingAllocator.cpp."""
    assert takes(0.5, 0.5) == 2 and takes(0.5, 1.5, 9) == 2 + 20 and takes(11) == 12
    assert takes(30, -30, 20, 10) == takes(20, 10, -20, -10, 20, 10) == 30
    assert takes(20, 10, -20, -10, 30) == 60  # of two segments none becomes one
    assert takes(30, -30, 29.5, 0.5, 10) == 30 + 2 + 10  # what is left is too small to be split off
    assert takes(30, 20, 30, -30, -20, 50) == 130 and takes(30, 20, 30, -30, -20, 50, expandable=True) == 80
    assert takes(30, 15, -15, 25, expandable=True) == 60  # it goes on where its last block ends
