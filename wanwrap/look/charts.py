"""Curves for a page: those of several attempts as one, in few enough points, and the marks at its sides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

Curve = Sequence[tuple[int, float]]  # step, value
MOST = 400  # points of a curve: more than a phone has pixels across


@dataclass(frozen=True)
class Point:
    """Steps in a row, up to `step`: the least, the most and the mean of their values; `smooth` is the mean about it."""

    step: int
    low: float
    high: float
    mean: float
    smooth: float


def joined(attempts: Iterable[tuple[int, Curve]]) -> list[tuple[int, float]]:
    """One curve of those of all attempts, each with the step after which it began: what it did again it replaces."""
    whole = list[tuple[int, float]]()
    for begun, curve in attempts:
        while whole and whole[-1][0] > begun:
            whole.pop()
        whole += [(begun + step, value) for step, value in curve]
    return whole


def reduced(curve: Curve, *, smooth: bool = True) -> list[Point]:
    """At most `MOST` points of a curve; values that are no number are left out."""
    sound = [(step, value) for step, value in curve if math.isfinite(value)]
    size = max(-(-len(sound) // MOST), 1)
    parts = [sound[at : at + size] for at in range(0, len(sound), size)]
    values = [[value for _, value in part] for part in parts]
    means = [sum(part) / len(part) for part in values]
    soft = smoothed(means) if smooth else means
    return [
        Point(part[-1][0], min(each), max(each), *both)
        for part, each, *both in zip(parts, values, means, soft, strict=True)
    ]


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each with those about it: a twentieth of all of them, fewer at the ends."""
    sums, half, count = [0.0, *accumulate(values)], max(len(values) // 40, 1), len(values)
    reach = [(max(at - half, 0), min(at + half + 1, count)) for at in range(count)]
    return [(sums[end] - sums[begin]) / (end - begin) for begin, end in reach]


def ticks(most: float, count: int = 4, *, whole: bool = False) -> list[float]:
    """Round numbers from 0 up to `most`, about so many; of steps `whole` ones."""
    if most <= 0:
        return [0.0]
    rough = most / count
    unit = 10.0 ** math.floor(math.log10(rough))
    steps = [unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999]
    step = next(step for step in steps if not whole or step.is_integer())
    return [step * number for number in range(int(most / step * 1.001) + 1)]


def top(points: Sequence[Point]) -> float:
    """The largest value that is drawn: a few that are far above the others would flatten all of them."""
    highs = sorted(point.high for point in points)
    return max(highs[int(0.98 * (len(highs) - 1))], max(point.smooth for point in points)) * 1.08 or 1.0
