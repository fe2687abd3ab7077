"""What is chosen to fit a card: that it does, that nothing else is changed, and that nothing cheaper would have done."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from helpers import golden_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from wanwrap.errors import RoomError
from wanwrap.plan import preflight
from wanwrap.plan.card import ALLOCATOR, Card
from wanwrap.plan.fit import Fit, fitted, less, quickest, refitted, room
from wanwrap.plan.fit_words import as_json, bucket, check, complaint, offers
from wanwrap.plan.plan import Plan, Train
from wanwrap.plan.preflight import Machine
from wanwrap.upstream import buckets, dit, memory
from wanwrap.upstream.memory import CONTEXT, EMBEDDING, GIB, OFFLOAD
from wanwrap.upstream.options import changes_result
from wanwrap.upstream.pin import Upstream

PLANS = {
    name: golden_plan(name, fit="auto")
    for name in (
        *("t2v-vanilla", "t2v-style", "wan21-i2v-720p"),
        *("wan21-t2v-style", "wan21-t2v-1.3b-rtx3090", "wan21-t2v-1.3b-video"),
    )
}
VANILLA = PLANS["t2v-vanilla"]  # its largest batch are 45 frames of 960x544
OFF = golden_plan("t2v-vanilla", fit="off")

plans = st.sampled_from([*PLANS.values()])
cards = st.builds(
    Card,
    name=st.just("a card"),
    memory=st.integers(4 * GIB, 96 * GIB),
    ram=st.none() | st.integers(4 * GIB, 64 * GIB),
    speed=st.sampled_from([(0.0, 0.0), (2e13, 4e13), (2e14, 4e14)]),
    expandable=st.sampled_from([None, False, True]),
)
levers = st.fixed_dictionaries(
    {}, optional={EMBEDDING: st.just(True), OFFLOAD: st.just(True), "blocks_to_swap": st.integers(0, 29)}
)


def card(gib: float, ram: float | None = 64, *, expandable: bool | None = None) -> Card:
    return Card("a card", round(gib * GIB), None if ram is None else round(ram * GIB), expandable=expandable)


def any_way_fits(train: Train, own: Mapping[str, Any], plan: Plan, its: Card) -> bool:
    """Tried one by one; a preset may set torch's allocator itself."""
    tokens, _ = plan.dataset.largest or (0, ())
    if ALLOCATOR in plan.request.preset.env and its.expandable is not False:
        its = replace(its, expandable=True)
    for options, expandable in every_way(train, own, its):
        ram = dit.ram_bytes(options, train.dit.size, train.dit.dtype, tokens)
        total = memory.of(options, tokens, expandable=expandable, size=train.dit.size).total
        if total <= room(its) and ram <= (its.ram or ram):
            return True
    return False


def every_way(train: Train, own: Mapping[str, Any], its: Card) -> Iterator[tuple[dict[str, Any], bool]]:
    least = int(str(train.options.get("blocks_to_swap") or 0))
    choices: dict[str, list[Any]] = {EMBEDDING: [None, True], OFFLOAD: [None, True]}
    choices["blocks_to_swap"] = [*range(least, dit.blocks(str(train.options["task"])))]
    free = {name: values for name, values in choices.items() if name not in own}
    for *values, grown in product(*free.values(), [False, True]):
        if its.expandable in (None, grown):
            yield {**train.options, **dict(zip(free, values, strict=True))}, grown


@given(plans, cards)
@settings(max_examples=60)
def test_it_fits_where_any_way_does(plan: Plan, its: Card) -> None:
    for found in fitted(plan, its).fits:
        assert found.fits == any_way_fits(found.train, {}, plan, its)
        assert found.fits == (found.memory.total <= room(its) and found.ram <= (its.ram or found.ram))
        assert not found.expandable or its.expandable is None


@given(st.sampled_from(["t2v-vanilla", "wan21-t2v-1.3b"]), levers, cards)
@settings(max_examples=40)
def test_what_is_given_stays(name: str, own: dict[str, Any], its: Card) -> None:
    plan = golden_plan(name, fit="auto", given=own)
    made = fitted(plan, its)
    for found, train in zip(made.fits, made.trainings, strict=True):
        assert not own.keys() & found.chosen.keys()
        assert {name: train.options[name] for name in own} == own
        assert found.fits == any_way_fits(found.train, own, plan, its)


@given(plans, cards, st.integers(0, 32 * GIB))
@settings(max_examples=60)
def test_a_larger_card_is_no_slower(plan: Plan, its: Card, more: int) -> None:
    small = fitted(plan, its).fits
    large = fitted(plan, replace(its, memory=its.memory + more)).fits
    for before, after in zip(small, large, strict=True):
        assert not before.fits or (after.fits and after.cost <= before.cost)


@given(plans, cards)
@settings(max_examples=60)
def test_nothing_is_changed_that_changes_what_is_trained(plan: Plan, its: Card) -> None:
    made = fitted(plan, its)
    assert {name for name in made.env.keys() | plan.env.keys() if made.env.get(name) != plan.env.get(name)} <= {
        ALLOCATOR
    }
    assert replace(made, steps=plan.steps, env=plan.env, fits=()) == plan
    for before, after in zip(plan.steps, made.steps, strict=True):
        if not isinstance(before, Train) or not isinstance(after, Train):
            assert before == after
            continue
        assert replace(after, options=before.options, argv=before.argv) == before
        names = before.options.keys() | after.options.keys()
        changed = {name for name in names if before.options.get(name) != after.options.get(name)}
        assert not any(map(changes_result, changed)) and not {f"--{name}" for name in changed} - {*after.argv}


@pytest.mark.parametrize("its", [None, card(8)])
def test_nothing_is_chosen_without_a_card_or_when_told_not_to(its: Card | None) -> None:
    made = fitted(VANILLA if its is None else OFF, its)
    assert made.steps == VANILLA.steps and made.env == VANILLA.env
    assert [found.fits for found in made.fits] == [None if its is None else False] * 2
    assert made.fits[0].memory.total == pytest.approx(45 * GIB, rel=0.01)  # it is told all the same


@given(plans, cards)
@settings(max_examples=60)
def test_no_block_is_swapped_that_need_not_be(plan: Plan, its: Card) -> None:
    for found in fitted(plan, its).fits:
        if found.fits and (count := found.chosen.get("blocks_to_swap")):
            one_less = replace(found, chosen={**found.chosen, "blocks_to_swap": int(str(count)) - 1})
            assert one_less.memory.total > room(its)


def test_a_block_in_ram_is_enough_where_the_file_alone_is_too_large() -> None:
    """An fp16 DiT that is cast to fp8 is on the GPU as it is first; with any block swapped it is loaded into RAM."""
    (train,) = PLANS["wan21-t2v-style"].trainings
    train = replace(train, dit=replace(train.dit, size=2 * train.dit.size, dtype="fp16"))
    found = quickest(Fit(train, PLANS["wan21-t2v-style"].dataset, card(24)), {})
    assert found.fits and found.chosen == {"blocks_to_swap": 1}


def test_24_gb_and_45_frames() -> None:
    """Which no number of swapped blocks alone makes fit, as published guides would have it."""
    swapped = replace(VANILLA.trainings[0], options={**VANILLA.trainings[0].options, "blocks_to_swap": 39})
    assert not Fit(swapped, VANILLA.dataset, card(24)).fits
    for system in (None, False):
        made = fitted(VANILLA, card(24, 32, expandable=system))
        assert [found.fits for found in made.fits] == [True, True]
        assert all(f"--{EMBEDDING}" in train.argv for train in made.trainings)
        assert made.env.get(ALLOCATOR) == ("expandable_segments:True" if system is None else None)


def test_what_fits_as_it_is_is_left_alone() -> None:
    for found in fitted(VANILLA, card(80)).fits:
        assert not found.chosen and not found.expandable


def test_a_setting_of_the_users_for_torch_stays_and_counts() -> None:
    """Told beforehand by the card: an allocator that grows its segments takes less, without being told to."""
    grows, stays = (fitted(VANILLA, card(24, expandable=own)) for own in (True, False))
    assert ALLOCATOR not in {**grows.env, **stays.env}
    assert OFFLOAD in stays.fits[0].chosen and OFFLOAD not in grows.fits[0].chosen


def test_a_desktop_keeps_some_of_it() -> None:
    assert room(card(24)) - room(replace(card(24), draws=True)) == pytest.approx(0.3 * GIB, rel=1e-6)


def test_a_batch_of_several_is_named_with_what_makes_it() -> None:
    """Four pictures in a batch count four times; a smaller batch is offered before smaller pictures."""
    (entry, *_) = VANILLA.dataset.entries
    several = replace(entry, options={**entry.options, "batch_size": 40, "num_repeats": 40})
    plan = replace(VANILLA, dataset=replace(VANILLA.dataset, entries=(several,)))
    (found, _) = fitted(plan, card(12)).fits
    assert found.tokens == 40 * buckets.tokens(found.dataset.largest[1] if found.dataset.largest else ())
    assert (
        "40 times" in complaint(found) and "batch_size" in complaint(found) and "to a batch_size of" in offers(found)[0]
    )


def test_ram_decides_too() -> None:
    """A machine with 16 GiB can't hold a 14B beside torch; what is said is not that smaller pictures would help."""
    its = card(24, 16, expandable=False)
    (found, _) = fitted(VANILLA, its).fits
    assert found.memory.total <= room(its) and not found.fits
    assert "RAM" in complaint(found) and not [*offers(found)]


@pytest.mark.parametrize("its", [card(8), card(12), card(8, expandable=False), card(12, expandable=True)])
def test_what_is_offered_would_fit(its: Card) -> None:
    """Other frames, and another size: each fits with what is chosen for it."""
    (found, _) = fitted(VANILLA, its).fits
    assert not found.fits
    first = re.fullmatch(r"45 frames of 960x544 \(to (\d+) frames or (\d+)x(\d+)\)", offers(found)[0])
    assert first and len(offers(found)) > 1  # 21 frames at 720p are too many too
    shorter, smaller = int(first[1]), (int(first[2]), int(first[3]))
    for key in ((960, 544, shorter), (*smaller, 45)):
        assert total(found, key) <= room(its)
    assert room(its) < total(found, (960, 544, shorter + 4))
    assert room(its) < total(found, (smaller[0] + 16, smaller[1] + 16, 45))


def total(found: Fit, key: tuple[int, ...]) -> int:
    expandable = found.expandable or bool(found.card and found.card.expandable)
    return memory.of(found.options, buckets.tokens(key), expandable=expandable).total


# ---- out of memory, and another card than was thought


def test_the_next_way_takes_as_much_less_as_was_lacking() -> None:
    train, lacking = VANILLA.trainings[0], 2 * GIB
    now = Fit(train, VANILLA.dataset, card(80))
    way = less(now, lacking)
    assert way and way.memory.total <= now.memory.total - lacking
    assert way.cost <= 1.01 * now.cost  # the embedding, or segments that grow: neither costs time
    most: Any = {EMBEDDING: True, OFFLOAD: True, "blocks_to_swap": 39}
    last = replace(train, options={**train.options, **most})
    assert less(Fit(last, VANILLA.dataset, card(24, expandable=False)), GIB) is None


def test_the_next_way_is_one_that_the_ram_holds() -> None:
    """Else the night ends by the system's hand instead of the GPU's."""
    train, ram = VANILLA.trainings[0], 18
    for size in range(12, 48, 4):
        way = less(Fit(train, VANILLA.dataset, card(size, ram)), GIB)
        assert way is None or way.ram <= ram * GIB


def test_a_plan_is_made_anew_for_the_card_that_torch_sees() -> None:
    thought, real = fitted(VANILLA, card(48)), card(24)
    found = refitted(thought, real)
    assert found.fits[0].card == real and found.fits[0].fits and found.fits[0].chosen
    assert [fit.options for fit in found.fits] == [fit.options for fit in fitted(VANILLA, real).fits]
    assert refitted(thought, card(48)) is thought and refitted(thought, None) is thought
    timed = refitted(thought, replace(card(48), speed=(1e13, 2e13)))
    assert timed.fits[0].seconds and not thought.fits[0].seconds and timed.steps == thought.steps
    assert refitted(fitted(VANILLA, None), real).fits[0].fits  # nvidia-smi was not there
    described = replace(thought, request=replace(VANILLA.request, vram=48))
    assert refitted(described, real) is described


# ---- refused before it starts


def test_what_does_not_fit_is_refused_and_started_where_the_user_insists() -> None:
    with pytest.raises(RoomError, match="would fit"):
        check(fitted(VANILLA, card(8)))
    check(fitted(VANILLA, card(24)))
    check(fitted(VANILLA, None))
    check(fitted(OFF, card(8)))


def machine(*gpus: tuple[float, float]) -> Machine:
    """GPUs of so many GiB, of which so many are free."""
    rows = [{"memory": round(size * GIB), "free": round(free * GIB)} for size, free in gpus]
    return Machine(Upstream(), "3.12", {}, rows)


def test_a_gpu_that_others_use() -> None:
    """Of those that train: what another GPU is used for keeps nobody from this one."""
    plan = fitted(VANILLA, card(24))  # takes 22.8 at most
    assert preflight.check_gpu_memory(plan, machine((24, 23.4)), 1) == []
    (note,) = preflight.check_gpu_memory(plan, machine((24, 21)), 1)
    assert "3.0 GiB" in note
    with pytest.raises(RoomError, match="nvidia-smi"):
        preflight.check_gpu_memory(plan, machine((24, 12)), 1)
    assert preflight.check_gpu_memory(plan, machine((24, 23.4), (24, 1)), 1) == []
    with pytest.raises(RoomError, match="nvidia-smi"):
        preflight.check_gpu_memory(plan, machine((24, 23.4), (24, 1)), 2)


def test_what_is_told_to_other_programs() -> None:
    told = as_json(fitted(VANILLA, card(24, expandable=False)).fits[0])
    assert told["expert"] == "high" and told["tokens"] == 24480 and told["fits"] is True and told["card_gib"] == 24
    parts = sum(told[f"{part}_gib"] for part in ("weights", "lora", "activations"))
    assert told["allocated_gib"] == pytest.approx(parts)
    assert told["total_gib"] == pytest.approx(parts + told["beside_gib"] + CONTEXT)
    assert told["chosen"] == {EMBEDDING: True, OFFLOAD: True, "blocks_to_swap": told["chosen"]["blocks_to_swap"]}


@pytest.mark.parametrize("name", ["t2v-vanilla", "wan21-t2v-1.3b-video"])
@pytest.mark.parametrize("gib", [4, 5, 6, 8, 12])
def test_all_that_is_offered_fits_together(name: str, gib: int) -> None:
    """Each bucket that is too large is named, with what becomes of it."""
    for found in fitted(PLANS[name], card(gib)).fits:
        if found.fits or not (told := offers(found)):
            continue
        for key, _, most in found.dataset.batch_shapes:
            words = [each for each in told if each.startswith(f"{bucket(key)} (")]
            if not words:
                assert total(found, key) <= room(card(gib)) and most == 1
            elif frames := re.search(r"to (\d+) frame", words[0]):
                assert total(found, (*key[:2], int(frames[1]))) <= room(card(gib))


def test_what_the_user_gave_is_named_where_it_is_the_reason() -> None:
    plan = golden_plan("t2v-vanilla", fit="auto", given={"blocks_to_swap": 3})
    (_, low) = fitted(plan, card(24)).fits
    assert not low.fits and "--blocks_to_swap 39" in complaint(low) and "you gave" in complaint(low)


def test_a_ring_of_buffers_is_on_the_gpu() -> None:
    options = {**VANILLA.trainings[0].options, "blocks_to_swap": 20, "block_swap_h2d_only": True}
    plain, ring = memory.of({**options, "block_swap_h2d_only": None}, 1024), memory.of(options, 1024)
    assert ring.weights - plain.weights == pytest.approx(2 * memory.block(options), abs=2)


def test_an_allocator_of_a_presets_own_stays() -> None:
    other = replace(VANILLA.request.preset, env={ALLOCATOR: "max_split_size_mb:64"})
    plan = replace(VANILLA, request=replace(VANILLA.request, preset=other), env=other.env)
    made = fitted(plan, card(24))
    assert made.env[ALLOCATOR] == "max_split_size_mb:64" and not any(each.expandable for each in made.fits)
