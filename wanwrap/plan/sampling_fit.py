"""What makes sampling fit a card and gives the same samples, with as few blocks swapped as it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from wanwrap.errors import RoomError
from wanwrap.plan.card import ALLOCATOR, EXPANDABLE, Card
from wanwrap.plan.fit import room
from wanwrap.plan.fit_words import gib
from wanwrap.system.disk import large
from wanwrap.upstream import dit
from wanwrap.upstream.buckets import STEP
from wanwrap.upstream.memory import EMBEDDING
from wanwrap.upstream.options import Options, Value, spell
from wanwrap.upstream.sampling_memory import CACHE, SamplingMemory, SamplingNeed, of_sampling

SCALES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of a size that doesn't fit


def fitted(need: SamplingNeed, card: Card | None, blocks: int | None = None) -> dict[str, Value]:
    """Options of upstream's wan_generate_video that fit a card; where nobody knows it, its fp8 alone.

    With `blocks` so many are swapped, whether it fits or not. T5 is always in fp8: so the presets train, and on each card
    the samples are the same.

    Raises:
        RoomError: nothing fits that gives the same samples; which others would.
    """
    chosen = _chosen(need, card, blocks)
    if chosen is None and card and blocks is None:
        raise RoomError(_complaint(need, card))
    *_, most = _ways(need, blocks)
    return chosen or most


def taken(need: SamplingNeed, options: Options, card: Card | None) -> SamplingMemory:
    """What these options take, with `environment`."""
    return of_sampling(need, options, expandable=card is not None and card.expandable is not False)


def environment(card: Card | None) -> dict[str, str]:
    """What the process that samples is to find in its environment: torch's segments grow where they may be told to."""
    return {ALLOCATOR: EXPANDABLE} if card is not None and card.expandable is None else {}


def _chosen(need: SamplingNeed, card: Card | None, blocks: int | None = None) -> dict[str, Value] | None:
    return next((way for way in _ways(need, blocks) if _fits(taken(need, way, card), card)), None)


def _ways(need: SamplingNeed, blocks: int | None = None) -> Iterator[dict[str, Value]]:
    """All that can be chosen: the fewest swapped blocks first, and of these the fewest options."""
    fp8: dict[str, Value] = {"fp8_t5": True}
    if need.fp8:
        fp8["fp8_scaled" if need.fp8 == "scaled" else "fp8"] = True
    levers = [*([EMBEDDING] if "A14B" in need.task else []), CACHE]
    for count in range(dit.blocks(need.task)) if blocks is None else [blocks]:
        swap: dict[str, Value] = {"blocks_to_swap": count} if count else {}
        for length in range(len(levers) + 1):
            for names in combinations(levers, length):
                yield {**fp8, **dict.fromkeys(names, True), **swap}


def _fits(memory: SamplingMemory, card: Card | None) -> bool:
    """T5 is not asked about: the training has had it on the GPU too, in fp8."""
    return card is None or (memory.models <= room(card) and memory.ram <= (card.ram or memory.ram))


def _complaint(need: SamplingNeed, card: Card) -> str:
    """What doesn't fit, and what would."""
    *_, most = _ways(need)
    memory, (width, height) = taken(need, most, card), need.size
    what = f"{gib(memory.models)} of GPU memory, and {card.name} has {gib(room(card))} to spare"
    if memory.models <= room(card):
        what = f"{large(memory.ram)} of RAM, and this machine has {large(card.ram or 0)}"
    ways = " or ".join(_smaller(need, card))
    return (
        f"samples of {width}x{height} with {need.frames} frames do not fit: with {' '.join(spell(most))} they take {what}; "
        f"{f'give {ways}' if ways else 'no smaller ones fit either'}."
    )


def _smaller(need: SamplingNeed, card: Card) -> Iterator[str]:
    """The most frames and about the largest size that fit."""
    width, height = need.size
    frames = {f"--frames {count}": replace(need, frames=count) for count in range(need.frames - 4, 0, -4)}
    sizes = ((int(width * scale) // STEP * STEP, int(height * scale) // STEP * STEP) for scale in SCALES)
    for others in (frames, {f"--size {size[0]}x{size[1]}": replace(need, size=size) for size in sizes}):
        yield from [word for word, other in others.items() if _chosen(other, card) is not None][:1]
