"""How a training fits its card, in words; and what would make it fit that changes what is trained."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from typing import Any

from wanwrap.errors import RoomError, listing
from wanwrap.plan.fit import Fit, quickest, room
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
    what = f"takes {large(fit.ram)} of RAM{chosen(fit)}, and this machine has {large(fit.card.ram or 0)}"
    if fit.memory.total > room(fit.card):
        what = (
            f"takes {gib(fit.memory.total)} of GPU memory{chosen(fit)}, and {fit.card.name} has {gib(room(fit.card))} to "
            f"spare; its largest batch decides ({fit.tokens} tokens{largest(fit)})"
        )
    ways = "A lower --dim takes less."
    if (free := quickest(fit, {})).fits:
        ways = f"It would fit{chosen(free)}, but for what you gave: leave that out, or give more."
    elif smaller := offers(fit):
        ways = f"It would fit if these were made smaller: {listing(smaller, 3)}."
    return f"{fit.train.name} does not fit: it {what}. {ways} `wanwrap fit` tells of other cards; --fit off tries it."


def largest(fit: Fit) -> str:
    """`, 45 frames of 960x544`, or `, 3 times 960x544 by batch_size`."""
    if not fit.dataset.largest:
        return ""
    tokens, shape = fit.dataset.largest
    several = tokens // buckets.tokens(shape)
    return f", {several} times {bucket(shape)} by batch_size" if several > 1 else f", {bucket(shape)}"


def bucket(shape: Sequence[int]) -> str:
    """`960x544`, `45 frames of 960x544`."""
    size = f"{shape[0]}x{shape[1]}"
    return f"{shape[2]} frames of {size}" if len(shape) > 2 else size


def offers(fit: Fit) -> list[str]:
    """What changes the training and makes it fit: `45 frames of 960x544 (to 29 frames, or 784x448)` of each bucket."""
    if fit.card is None or fit.memory.total <= room(fit.card):  # it is the RAM that lacks
        return []
    # the most of a batch that fit
    tokens = max(0, bisect(range(fit.tokens), room(fit.card), key=lambda count: fit.memory_of(count).total) - 1)
    large = {key: most for key, _, most in fit.dataset.batch_shapes if most * buckets.tokens(key) > tokens}
    by_size = sorted(large, key=lambda key: -large[key] * buckets.tokens(key))
    ways = {key: " or ".join(_smaller(key, large[key], tokens)) for key in by_size}
    if not any(ways.values()):
        return []
    return [f"{bucket(key)} ({f'to {way}' if way else 'left out: no size of it fits'})" for key, way in ways.items()]


def _smaller(shape: tuple[int, ...], most: int, tokens: int) -> Iterator[str]:
    """Fewer in a batch, fewer frames, or a smaller size, so that a batch has no more than so many tokens."""
    width, height, frames = (*shape, 1)[:3]
    each = buckets.tokens(shape)
    if most > 1 and each <= tokens:
        yield f"a batch_size of {tokens // each}"
    fewer = (count for count in range(frames - 4, 0, -4) if most * buckets.tokens((width, height, count)) <= tokens)
    if count := next(fewer, 0):
        yield f"{count} frame{'s' if count > 1 else ''}"
    scale = (tokens / most / each) ** 0.5
    width, height = (int(side * scale) // STEP * STEP for side in (width, height))
    if width * height >= SMALLEST:
        yield f"{width}x{height}"
