"""How a training fits its card, in words; and what would make it fit that changes what is trained."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from typing import Any

from wanwrap.errors import RoomError, listing
from wanwrap.plan.fit import Fit, room
from wanwrap.plan.fit import fit as refit
from wanwrap.plan.plan import Plan
from wanwrap.system.disk import large
from wanwrap.upstream import buckets
from wanwrap.upstream.buckets import STEP
from wanwrap.upstream.memory import GIB
from wanwrap.upstream.options import ALIASES, Options, spell

SMALLEST = 256 * 256  # pixels below which nobody trains


def gib(count: float) -> str:
    """GPU memory as nvidia-smi and upstream count it."""
    return f"{count / GIB:.1f} GiB"


def words(options: Options) -> tuple[list[str], list[str]]:
    """Options as they are typed: wanwrap's own, and upstream's, which stand behind `--`."""
    own = {name: value for name, value in options.items() if name in ALIASES.values()}
    return [*spell(own)], [*spell({name: value for name, value in options.items() if name not in own})]


def typed(options: Options) -> str:
    """The same in one line."""
    own, after = words(options)
    return " ".join([*own, *(["--", *after] if after else [])])


def chosen(fit: Fit) -> str:
    """The same in a sentence: ` with `...` and expandable segments`."""
    ways = [f"`{typed(fit.chosen)}`"] if fit.chosen else []
    ways += ["expandable segments"] if fit.expandable else []
    return f" with {' and '.join(ways)}" if ways else ""


def line(fit: Fit) -> str:
    """`memory: 22.8 of 24.0 GiB with ..., 17.3 GB of RAM`: what it takes of its card, and what was chosen for that."""
    took, ram = f"{fit.memory.total / GIB:.1f}", f"{large(fit.ram)} of RAM"
    if fit.card is None:
        return f"memory: {took} GiB, {ram}; nothing is chosen to fit it, as no GPU is known here (--vram names one)"
    verdict = "" if fit.fits else "it does not fit, "
    return f"memory: {verdict}{took} of {gib(fit.card.memory)} on {fit.card.name}{chosen(fit)}, {ram}"


def as_json(fit: Fit) -> dict[str, Any]:
    """The same for other programs."""
    return {
        "expert": fit.train.expert,
        "tokens": fit.tokens,
        "card": fit.card and fit.card.name,
        "card_gib": fit.card and fit.card.memory / GIB,
        "fits": fit.fits,
        "total_gib": fit.memory.total / GIB,
        "allocated_gib": fit.memory.allocated / GIB,
        **{f"{name}_gib": count / GIB for name, count in vars(fit.memory).items()},
        "ram_gib": fit.ram / GIB,
        "chosen": dict(fit.chosen),
        "expandable_segments": fit.expandable,
        "seconds_per_step": fit.seconds,
    }


def check(plan: Plan) -> None:
    """Raises RoomError: a training doesn't fit its card, whatever trains the same."""
    if found := complaints(plan):
        raise RoomError("\n".join(found))


def complaints(plan: Plan) -> list[str]:
    """What doesn't fit; the user may insist on starting it."""
    return [complaint(each) for each in plan.fits if each.fits is False and plan.request.fit == "auto"]


def complaint(fit: Fit) -> str:
    """What doesn't fit, and what would."""
    assert fit.card
    if fit.memory.total > room(fit.card):
        what = (
            f"takes {gib(fit.memory.total)} of GPU memory{chosen(fit)}, and {fit.card.name} has {gib(room(fit.card))} to "
            f"spare; its largest batch decides ({fit.tokens} tokens{largest(fit)})"
        )
    else:
        what = f"takes {large(fit.ram)} of RAM{chosen(fit)}, and this machine has {large(fit.card.ram or 0)}"
    found, free = offers(fit), refit(fit.train, {}, fit.dataset, fit.card)
    ways = f"It would fit if these were made smaller: {listing(found, 3)}. " if found else "A lower --dim takes less. "
    if free.fits:
        ways = f"It would fit{chosen(free)}, but for what you gave: leave that out, or give more. "
    return f"{fit.train.name} does not fit: it {what}. {ways}`wanwrap fit` tells of other cards; --fit off tries it."


def largest(fit: Fit) -> str:
    """`, 45 frames of 960x544`, or `, 3 times 960x544 by batch_size`."""
    if not fit.dataset.largest:
        return ""
    key = fit.dataset.largest[1]
    several = fit.tokens // buckets.tokens(key)
    return f", {several} times {name(key)} by batch_size" if several > 1 else f", {name(key)}"


def name(key: tuple[int, ...]) -> str:
    """A bucket."""
    size = f"{key[0]}x{key[1]}" if key else "nothing"
    return f"{key[2]} frames of {size}" if len(key) > 2 else size


def offers(fit: Fit) -> list[str]:
    """What changes the training and makes it fit: `45 frames of 960x544 (to 29 frames, or 784x448)` of each bucket."""
    if fit.card is None or fit.memory.total <= room(fit.card):  # it is the RAM that lacks
        return []
    tokens = _tokens(fit)
    large = {key: most for key, _, most in fit.dataset.batch_shapes if most * buckets.tokens(key) > tokens}
    by_size = sorted(large, key=lambda key: -large[key] * buckets.tokens(key))
    ways = {key: " or ".join(_smaller(key, large[key], tokens)) for key in by_size}
    if not any(ways.values()):
        return []
    return [f"{name(key)} ({f'to {way}' if way else 'left out: no size of it fits'})" for key, way in ways.items()]


def _smaller(key: tuple[int, ...], most: int, tokens: int) -> Iterator[str]:
    """Fewer in a batch, fewer frames, or a smaller size, so that a batch has no more than so many tokens."""
    each = buckets.tokens(key)
    if most > 1 and each <= tokens:
        yield f"a batch_size of {tokens // each}"
    if len(key) > 2 and (frames := _frames(key, tokens // most)):
        yield f"{frames} frame{'s' if frames > 1 else ''}"
    scale = (tokens / most / each) ** 0.5
    width, height = (int(side * scale) // STEP * STEP for side in key[:2])
    if width * height >= SMALLEST:
        yield f"{width}x{height}"


def _frames(key: tuple[int, ...], tokens: int) -> int | None:
    """The most frames, fewer than there are, of so many tokens; None where a single one has more."""
    return next((count for count in range(key[2] - 4, 0, -4) if buckets.tokens((*key[:2], count)) <= tokens), None)


def _tokens(fit: Fit) -> int:
    """The most tokens of a batch that fit."""
    assert fit.card
    return max(0, bisect(range(fit.tokens), room(fit.card), key=lambda count: fit.taken(count).total) - 1)
