"""Near-duplicates: the same picture is found whatever its file, and others are not."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from wanwrap.data.alike import BITS, MOST, groups, look


def scene(seed: int, size: tuple[int, int] = (640, 448)) -> Image.Image:
    """Soft light and shade with some shapes before it."""
    chance = random.Random(seed)
    grid = Image.frombytes("RGB", (6, 4), bytes(chance.randrange(256) for _ in range(72)))
    picture = grid.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y, side = chance.randrange(size[0]), chance.randrange(size[1]), chance.randrange(40, 160)
        colour = chance.randrange(256), chance.randrange(256), chance.randrange(256)
        draw.ellipse((x - side, y - side, x + side, y + side), colour)
    return picture


def saved(picture: Image.Image, ending: str, **how: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, ending, **how)
    return Image.open(file)


def numbered(looks: Iterable[int]) -> dict[Path, int]:
    return {Path(f"{number:05}"): bits for number, bits in enumerate(looks)}


def grouped(looks: Iterable[int]) -> list[list[int]]:
    return [[int(path.name) for path in group] for group in groups(numbered(looks))]


@pytest.mark.parametrize("seed", range(3))
def test_a_picture_is_found_at_another_size_format_or_quality(seed: int) -> None:
    whole = scene(seed)
    before = whole.tobytes()
    others = [
        whole,
        saved(whole, "JPEG", quality=60),
        saved(whole.resize((160, 112)), "JPEG", quality=80),
        saved(whole.resize((1280, 896)), "PNG"),
        saved(whole.resize((320, 224)), "WEBP", quality=50),
        saved(whole.quantize(128), "PNG"),
        saved(whole.convert("RGBA"), "PNG"),
    ]
    assert grouped(map(look, others)) == [[*range(len(others))]]
    assert whole.tobytes() == before


def test_other_pictures_are_not() -> None:
    """Nor those in other colours, nor flat ones, which have no shapes."""
    scenes = [scene(seed) for seed in range(20)]
    red, green, blue = scenes[1].split()
    others = [*map(ImageOps.mirror, scenes), *map(ImageOps.flip, scenes), Image.merge("RGB", (blue, red, green))]
    names = ["black", "white", "grey", "red", "darkred", "green", "lime", "blue", "navy", "yellow", "#8cc4ee"]
    flat = [look(Image.new("RGB", (640, 360), name)) for name in names]
    looks = [*map(look, (*scenes, *others))]
    assert min((a ^ b).bit_count() for a, b in combinations(looks, 2)) > 2 * MOST
    assert grouped([*looks, *flat]) == []
    grain = Image.effect_noise((100, 100), 2).convert("RGB")
    for again in (Image.new("RGB", (100, 100), names[2]), grain):  # and a flat one with the noise of a camera
        assert grouped([*flat, look(saved(again, "JPEG"))]) == [[2, len(flat)]]


def slow(looks: list[int]) -> list[list[int]]:
    """Every pair compared."""
    group = {key: {key} for key in range(len(looks))}
    for a, b in combinations(group, 2):
        if (looks[a] ^ looks[b]).bit_count() <= MOST and group[a] is not group[b]:
            group[a] |= group[b]
            for key in group[b]:
                group[key] = group[a]
    return [list(each) for each in sorted({tuple(sorted(each)) for each in group.values() if len(each) > 1})]


@given(st.lists(st.integers(0, 2**12 - 1), max_size=40), st.integers(0, BITS - 12))
def test_groups_are_those_of_comparing_all(values: list[int], far: int) -> None:
    """Also where one is like two that are not like each other."""
    looks = [value << far | value for value in values]
    assert grouped(looks) == slow(looks)


@pytest.mark.parametrize("kind", ["random", "equal", "few bits", "near one", "copies"])
def test_ten_thousand(kind: str) -> None:
    """Also where all are in the same tables; that it takes no minutes is what makes the test end."""
    chance, count = random.Random(1), 10_000
    base = chance.getrandbits(BITS)
    make: dict[str, Callable[[int], int]] = {
        "random": lambda _: chance.getrandbits(BITS),
        "equal": lambda _: base,
        "few bits": lambda at: base ^ at,
        "near one": lambda _: base ^ sum({1 << chance.randrange(BITS) for _ in range(3)}),
        "copies": lambda at: random.Random(at // 2).getrandbits(BITS),
    }
    together = {"random": [], "copies": [[at, at + 1] for at in range(0, count, 2)]}.get(kind, [[*range(count)]])
    assert grouped(map(make[kind], range(count))) == together
