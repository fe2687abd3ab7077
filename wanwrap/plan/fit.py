"""What makes a training fit a card and trains the same; what it then takes of memory, RAM and time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from wanwrap.data.dataset import Dataset
from wanwrap.plan.card import ALLOCATOR, EXPANDABLE, Card
from wanwrap.plan.plan import Plan, Train
from wanwrap.upstream import buckets, dit, memory, pace
from wanwrap.upstream.memory import EMBEDDING, GIB, OFFLOAD, Memory
from wanwrap.upstream.options import Options, whole

LEVERS = (EMBEDDING, OFFLOAD, "blocks_to_swap", ALLOCATOR)  # what may be chosen; none of it changes what is trained
USUAL = 5e13  # operations a second, as of an RTX 3090: only to weigh one way against the other


@dataclass(frozen=True)
class Fit:
    """One expert's training on a card (None: on one that nobody knows), with what was `chosen` over its options, and
    whether torch's segments are to grow.
    """

    train: Train
    dataset: Dataset
    card: Card | None
    chosen: Options
    expandable: bool

    @property
    def options(self) -> Options:
        """All of them."""
        return {**self.train.options, **self.chosen}

    @cached_property
    def tokens(self) -> int:
        """Of the largest batch."""
        return self.dataset.largest[0] if self.dataset.largest else 0

    @cached_property
    def memory(self) -> Memory:
        """Of the GPU."""
        return self.taken(self.tokens)

    def taken(self, tokens: int) -> Memory:
        """What a largest batch of so many tokens would take."""
        expandable = self.expandable or bool(self.card and self.card.expandable)
        return memory.of(self.options, tokens, expandable=expandable, size=self.train.dit.size)

    @cached_property
    def ram(self) -> int:
        """Bytes of RAM at most."""
        return dit.ram_bytes(self.options, self.train.dit.size, self.train.dit.dtype, self.tokens)

    @property
    def fits(self) -> bool | None:
        """Whether it does, with what has to stay free and the machine's RAM; None where nobody knows the card."""
        if self.card is None:
            return None
        return self.memory.total <= room(self.card) and self.ram <= (self.card.ram or self.ram)

    @property
    def cost(self) -> float:
        """Seconds of a step with the largest batch on a usual card: to weigh one way against another, on each day alike."""
        return self.pace(USUAL)[1]

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Of a step on average, at least and at most; None where nobody knows how fast the card is."""
        if self.card is None or not self.card.speed[0]:
            return None
        return self.pace(self.card.speed[1])[0], self.pace(self.card.speed[0])[0]

    def pace(self, speed: float) -> tuple[float, float]:
        """Seconds of a step on average, and of one whose batches are all the largest, at so many operations a second."""
        mean, largest = self.operations
        return pace.seconds(self.options, mean / speed), pace.seconds(self.options, largest / speed)

    @cached_property
    def operations(self) -> tuple[float, float]:
        """Floating-point operations of a batch on average, and of the largest."""
        task = str(self.train.options["task"])
        each = [
            (most * dit.flops(task, buckets.tokens(shape)), count) for shape, count, most in self.dataset.batch_shapes
        ]
        batches = sum(count for _, count in each)
        return sum(work * count for work, count in each) / (batches or 1), max((work for work, _ in each), default=0.0)


def fitted(plan: Plan, card: Card | None) -> Plan:
    """The plan with what was chosen for a card; what the user has given stays, with --fit off all. Without a card nothing
    is chosen.
    """
    request = plan.request
    given = request.given if request.fit == "auto" else dict.fromkeys(LEVERS)
    card = card and card.told(request.preset.env)
    bare = [each.train for each in plan.fits] or plan.trainings
    return taken(plan, [fit(train, given, plan.dataset, card) for train in bare])


def refitted(plan: Plan, card: Card | None) -> Plan:
    """The plan for the card that torch sees: another one than it was made for, or one of which more is known."""
    if card is None or plan.request.vram or not plan.fits:
        return plan
    before = plan.fits[0].card
    if before is None or before.memory != card.memory:
        return fitted(plan, card)
    if before.speed == card.speed:
        return plan
    return replace(plan, fits=tuple(replace(each, card=replace(before, speed=card.speed)) for each in plan.fits))


def seconds(plan: Plan) -> tuple[float, float] | None:
    """Seconds that all trainings take one after the other, at least and at most; None where nobody knows."""
    each = [(fit.seconds, fit.train.steps) for fit in plan.fits]
    if not each or any(pair is None for pair, _ in each):
        return None
    least, most = (sum(pair[end] * steps for pair, steps in each if pair) for end in (0, 1))
    return least, most


def taken(plan: Plan, fits: Sequence[Fit]) -> Plan:
    """The plan with its trainings' options as these fits have them."""
    by_expert = {each.train.expert: each for each in fits}
    steps = [_changed(by_expert[step.expert]) if isinstance(step, Train) else step for step in plan.steps]
    grown = {ALLOCATOR: EXPANDABLE} if any(each.expandable for each in fits) else {}
    return replace(plan, steps=tuple(steps), env={**plan.env, **grown}, fits=tuple(fits))


def _changed(fit: Fit) -> Train:
    changed = replace(fit.train, options=fit.options)
    return replace(changed, argv=changed.attempt(1, {}))


def room(card: Card) -> int:
    """Bytes of a card that a training may take: 1 GiB or 5 % stay free, and 1.5 GiB for a desktop, which takes 0.5 to 1.5."""
    return card.memory - max(GIB, card.memory // 20, GIB * 3 // 2 if card.draws else 0)


def fit(train: Train, given: Options, dataset: Dataset, card: Card | None) -> Fit:
    """The way that takes the least time of all that fit; what the user has `given` stays. Where none does, the nearest."""
    bare = Fit(train, dataset, card, {}, False)
    if card is None:
        return bare
    ways = [*_ways(bare, given, room(card))]
    if fitting := [way for way in ways if way.fits]:
        return min(fitting, key=_cost)
    return min(ways, key=lambda way: (way.ram > (card.ram or way.ram), way.memory.total))


def _cost(way: Fit) -> tuple[float, int, bool]:
    return way.cost, len(way.chosen), way.expandable


def less(train: Train, dataset: Dataset, card: Card, lacking: int) -> Fit | None:
    """The quickest way that takes less than now by as many bytes as were `lacking`, else the smallest; None: that is now."""
    bare = Fit(train, dataset, card, {}, False)
    most = min(bare.memory.total - lacking, card.memory)
    ways = [way for way in _ways(bare, {}, most) if way.ram <= (card.ram or way.ram)]
    if fitting := [way for way in ways if way.memory.total <= most]:
        return min(fitting, key=_cost)
    smallest = min(ways, key=lambda way: way.memory.total, default=bare)
    return smallest if smallest.memory.total < bare.memory.total else None


def _ways(bare: Fit, given: Options, most: int) -> Iterator[Fit]:
    """All that can be chosen over what is set, each with as few more blocks swapped as bring it down to `most` bytes."""
    options = bare.train.options
    levers = [name for name in memory.levers(options) if name not in given and not options.get(name)]
    segments = (False, True) if bare.card and bare.card.expandable is None and ALLOCATOR not in given else (False,)
    for *taken, expandable in product(*([False, True] for _ in levers), segments):
        chosen: Options = {name: True for name, each in zip(levers, taken, strict=True) if each}
        yield _swapping(replace(bare, chosen=chosen, expandable=expandable), given, most)


def _swapping(way: Fit, given: Options, most: int) -> Fit:
    """With so many more blocks swapped as it takes, or as can be."""
    least, top = whole(way.options, "blocks_to_swap", 0), dit.blocks(str(way.options["task"])) - 1
    if way.memory.total <= most or least >= top or "blocks_to_swap" in given:
        return way
    about = least + max(1, math.ceil((way.memory.steps - most) / memory.block(way.options)))
    ways = (replace(way, chosen={**way.chosen, "blocks_to_swap": count}) for count in range(min(about, top), top + 1))
    return next(each for each in ways if each.memory.total <= most or each.chosen["blocks_to_swap"] == top)
