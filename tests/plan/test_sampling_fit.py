"""What is chosen for sampling on a card: that it fits, and that nothing with fewer swapped blocks would have."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanwrap.errors import RoomError
from wanwrap.plan.card import ALLOCATOR, EXPANDABLE, Card
from wanwrap.plan.fit import room
from wanwrap.plan.sampling_fit import environment, fitted, taken
from wanwrap.upstream.memory import EMBEDDING, GIB
from wanwrap.upstream.options import Options
from wanwrap.upstream.sampling_memory import CACHE, SamplingNeed

TWO: dict[str, Any] = {"task": "t2v-A14B", "dits": 2}
CLIP = SamplingNeed(**TWO, size=(832, 480), frames=33)
PICTURE = replace(CLIP, frames=1)
SMALL = SamplingNeed(task="t2v-1.3B", size=(832, 480), frames=33, fp8=None)


def card(gib: float, *, ram: float = 64, expandable: bool | None = None) -> Card:
    return Card("a card", round(gib * GIB), round(ram * GIB), expandable=expandable)


needs = st.builds(
    SamplingNeed,
    task=st.sampled_from(["t2v-A14B", "i2v-14B", "t2v-1.3B"]),
    size=st.sampled_from([(832, 480), (480, 832), (1280, 720)]),
    frames=st.sampled_from([1, 33, 81]),
    dits=st.sampled_from([1, 2]),
    fp8=st.sampled_from(["scaled", "base", None]),
    dit_bytes=st.just(28_600_000_000),
)
cards = st.builds(card, st.integers(6, 96), ram=st.integers(8, 96), expandable=st.sampled_from([None, False, True]))


@settings(deadline=None, max_examples=60)
@given(needs, cards)
def test_what_is_chosen_fits_and_one_block_less_does_not(need: SamplingNeed, its: Card) -> None:
    try:
        options = fitted(need, its)
    except RoomError:
        return
    memory = taken(need, options, its)
    assert memory.models <= room(its) and memory.ram <= (its.ram or 0)
    assert EMBEDDING not in options or "A14B" in need.task
    if count := options.get("blocks_to_swap"):
        fewer = {**options, EMBEDDING: True, CACHE: True, "blocks_to_swap": int(str(count)) - 1}
        less = taken(need, fewer, its)
        assert less.models > room(its) or less.ram > (its.ram or 0)


def test_a_large_card_is_left_alone_and_an_unknown_one() -> None:
    assert fitted(CLIP, card(80)) == fitted(CLIP, None) == {"fp8_t5": True, "fp8_scaled": True}
    assert fitted(replace(CLIP, fp8="base"), None) == {"fp8_t5": True, "fp8": True} and fitted(SMALL, None) == {
        "fp8_t5": True
    }


def test_decoding_decides_over_denoising_a_clip() -> None:
    memory = taken(CLIP, {EMBEDDING: True}, card(24))
    assert memory.decoding > memory.denoising + 4 * GIB
    assert fitted(SMALL, card(12)).get(CACHE) and not fitted(SMALL, card(16)).get(CACHE)


def test_t5_is_the_same_on_each_card() -> None:
    """Else samples of one grid that is made on two would not be comparable."""
    assert all(fitted(replace(SMALL, frames=1), card(gib))["fp8_t5"] for gib in (8, 16, 80))


def test_what_the_user_swaps_stays_and_the_rest_is_chosen_for_it() -> None:
    chosen = fitted(CLIP, card(24), 25)
    assert chosen["blocks_to_swap"] == 25 and taken(CLIP, chosen, card(24)).models <= room(card(24))
    assert fitted(CLIP, card(24), 2) == {
        "fp8_t5": True,
        "fp8_scaled": True,
        EMBEDDING: True,
        CACHE: True,
        "blocks_to_swap": 2,
    }
    assert "blocks_to_swap" not in fitted(PICTURE, card(80), 0)


def test_two_dits_on_24_gb() -> None:
    chosen = fitted(CLIP, card(24))
    assert chosen == {
        "fp8_t5": True,
        "fp8_scaled": True,
        EMBEDDING: True,
        CACHE: True,
        "blocks_to_swap": pytest.approx(18, abs=1),
    }
    assert int(str(fitted(PICTURE, card(24))["blocks_to_swap"])) < int(str(chosen["blocks_to_swap"]))


def test_segments_grow_where_they_may_be_told_to() -> None:
    assert environment(card(24)) == {ALLOCATOR: EXPANDABLE}
    assert environment(card(24, expandable=False)) == environment(card(24, expandable=True)) == environment(None) == {}
    assert taken(CLIP, {}, card(24)) == taken(CLIP, {}, card(24, expandable=True)) != taken(CLIP, {}, None)


def test_what_does_not_fit_says_what_would() -> None:
    large = replace(CLIP, size=(1280, 720), frames=81)
    with pytest.raises(RoomError) as told:
        fitted(large, card(16))
    frames, size = re.findall(r"--frames (\d+) or --size (\d+x\d+)", str(told.value))[0]
    width, height = map(int, size.split("x"))
    fitted(replace(large, frames=int(frames)), card(16))
    fitted(replace(large, size=(width, height)), card(16))
    with pytest.raises(RoomError):
        fitted(replace(large, frames=int(frames) + 4), card(16))
    with pytest.raises(RoomError, match="no smaller"):
        fitted(CLIP, card(4))


def test_swapped_blocks_lie_in_ram() -> None:
    """Upstream loads each DiT into RAM, with fp8_scaled halved, and keeps there what is swapped."""
    with pytest.raises(RoomError, match="RAM"):
        fitted(CLIP, card(24, ram=16))
    swap: Options = {"blocks_to_swap": 20}
    whole, halved = (replace(CLIP, fp8=fp8, dit_bytes=28_600_000_000) for fp8 in ("base", "scaled"))
    assert taken(whole, swap, None).ram > 28_600_000_000 + 20 * 0.32 * GIB > taken(halved, swap, None).ram
    assert taken(CLIP, {}, None).ram < 4 * GIB


def test_a_file_that_is_cast_alone_goes_onto_the_gpu_whole() -> None:
    need = replace(CLIP, fp8="base", dit_bytes=28_600_000_000)
    assert taken(need, {}, None).load > 28_600_000_000 + 13 * GIB
    assert taken(need, {"blocks_to_swap": 1}, None).load < GIB
