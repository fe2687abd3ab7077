"""What makes a training fit a card and trains the same; what it then takes of memory, RAM and time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress, product
from operator import mul

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
    chosen: Options = field(default_factory=dict)
    expandable: bool = False

    @property
    def options(self) -> Options:
        """All of them."""
        return {**self.train.options, **self.chosen}

    @property
    def tokens(self) -> int:
        """Of the largest batch."""
        tokens, _ = self.dataset.largest or (0, ())
        return tokens

    @cached_property
    def memory(self) -> Memory:
        """Of the GPU."""
        return self.memory_of(self.tokens)

    def memory_of(self, tokens: int) -> Memory:
        """What a largest batch of so many tokens would take."""
        expandable = self.expandable or bool(self.card and self.card.expandable)
        return memory.of(self.options, tokens, expandable=expandable, size=self.train.dit.size)

    @cached_property
    def ram(self) -> int:
        """Bytes of RAM at most."""
        return dit.ram_bytes(self.options, self.train.dit.size, self.train.dit.dtype, self.tokens)

    @property
    def ram_fits(self) -> bool:
        """Whether the machine has as much, or nobody knows."""
        return self.card is None or self.ram <= (self.card.ram or self.ram)

    @property
    def fits(self) -> bool | None:
        """Whether it does, with what has to stay free and the machine's RAM; None where nobody knows the card."""
        return None if self.card is None else self.memory.total <= room(self.card) and self.ram_fits

    @property
    def cost(self) -> float:
        """Seconds of a step with the largest batch on a usual card: to weigh one way against another, on each day alike."""
        return self.pace(USUAL)[1]

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Of a step on average, at least and at most; None where nobody knows how fast the card is."""
        slowest, fastest = self.card.speed if self.card else (0.0, 0.0)
        return (self.pace(fastest)[0], self.pace(slowest)[0]) if slowest else None

    def pace(self, speed: float) -> tuple[float, float]:
        """Seconds of a step on average, and of one whose batches are all the largest, at so many operations a second."""
        mean, largest = self.operations
        return pace.seconds(self.options, mean / speed), pace.seconds(self.options, largest / speed)

    @cached_property
    def operations(self) -> tuple[float, float]:
        """Floating-point operations of a batch on average, and of the largest."""
        task, shapes = str(self.train.options["task"]), self.dataset.batch_shapes
        work = [most * dit.flops(task, buckets.tokens(shape)) for shape, _, most in shapes]
        counts = [count for _, count, _ in shapes]
        return sum(map(mul, work, counts)) / sum(counts), max(work)


def fitted(plan: Plan, card: Card | None) -> Plan:
    """The plan with what was chosen for a card; what the user has given stays, with --fit off all. Without a card nothing
    is chosen.
    """
    request = plan.request
    card = card and card.with_env(request.preset.env)
    bare = [each.train for each in plan.fits] or plan.trainings
    fits = [Fit(train, plan.dataset, card) for train in bare]
    return with_fits(plan, fits if request.fit == "off" else [quickest(each, request.given) for each in fits])


def refitted(plan: Plan, card: Card | None) -> Plan:
    """The plan for the card that torch sees: another one than it was made for, or one of which more is known."""
    if card is None or plan.request.vram or not plan.fits:
        return plan
    return plan if plan.fits[0].card == card.with_env(plan.request.preset.env) else fitted(plan, card)


def with_fits(plan: Plan, fits: Sequence[Fit]) -> Plan:
    """The plan with its trainings' options as these fits have them."""
    by_expert = {each.train.expert: each for each in fits}
    steps = [_changed(by_expert[step.expert]) if isinstance(step, Train) else step for step in plan.steps]
    grown = {ALLOCATOR: EXPANDABLE} if any(each.expandable for each in fits) else {}
    return replace(plan, steps=tuple(steps), env={**plan.env, **grown}, fits=tuple(fits))


def _changed(fit: Fit) -> Train:
    changed = replace(fit.train, options=fit.options)
    return replace(changed, argv=changed.attempt(1, {}))


def seconds(plan: Plan, *, parallel: bool = False) -> tuple[float, float] | None:
    """Seconds that all trainings take one after the other, or in `parallel`, at least and at most; None: nobody knows."""
    known = [(fit.seconds, fit.train.steps) for fit in plan.fits if fit.seconds]  # of all or none: it is one card
    if not known:
        return None
    together = max if parallel else sum
    return together(least * steps for (least, _), steps in known), together(most * steps for (_, most), steps in known)


def room(card: Card) -> int:
    """Bytes of a card that a training may take: 1 GiB or 5 % stay free, and 1.5 GiB for a desktop, which takes 0.5 to 1.5."""
    return card.memory - max(GIB, card.memory // 20, GIB * 3 // 2 if card.draws else 0)


def quickest(fit: Fit, given: Options) -> Fit:
    """The way that takes the least time of all that fit; what the user has `given` stays. Where none does, the nearest."""
    return _best(fit, given, room(fit.card)) if fit.card else fit


def less(fit: Fit, lacking: int) -> Fit | None:
    """The quickest way that takes less by as many bytes as were `lacking`, else the smallest; None: that is this one."""
    most = fit.memory.total - lacking
    way = _best(fit, {}, min(most, fit.card.memory) if fit.card else most)
    return way if way.ram_fits and way.memory.total < fit.memory.total else None


def _best(fit: Fit, given: Options, most: int) -> Fit:
    """Of all that the RAM holds and that take at most so many bytes the quickest; where there is none, the nearest."""

    def rank(way: Fit) -> tuple[bool, int, float, int, bool]:
        return not way.ram_fits, max(way.memory.total, most), way.cost, len(way.chosen), way.expandable

    return min(_ways(fit, given, most), key=rank)


def _ways(fit: Fit, given: Options, most: int) -> Iterator[Fit]:
    """All that can be chosen, each with as few more blocks swapped as bring it down to `most` bytes, or with all."""
    options = fit.train.options
    levers = [name for name in memory.levers(options) if name not in given and not options.get(name)]
    segments = (False, True) if fit.card and fit.card.expandable is None else (False,)
    least = whole(options, "blocks_to_swap", 0)
    top = least if "blocks_to_swap" in given else dit.blocks(str(options["task"])) - 1
    swaps: list[Options] = [{}, *({"blocks_to_swap": count} for count in range(least + 1, top + 1))]
    for *taken, expandable in product(*([False, True] for _ in levers), segments):
        flags = dict.fromkeys(compress(levers, taken), True)
        ways = [replace(fit, chosen={**flags, **swap}, expandable=expandable) for swap in swaps]
        yield ways[bisect_left(ways, -most, hi=len(ways) - 1, key=lambda way: -way.memory.total)]
