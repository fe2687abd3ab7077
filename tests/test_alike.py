"""Near-duplicates: the same picture is found whatever its file, and others are not."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from wanwrap.data.alike import MOST, groups, look


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


@pytest.mark.parametrize("seed", range(12))
def test_a_picture_is_found_at_another_size_format_or_quality(seed: int) -> None:
    whole = scene(seed)
    others = {
        "a jpeg": saved(whole, "JPEG", quality=60),
        "b small": saved(whole.resize((160, 112)), "JPEG", quality=80),
        "c large": saved(whole.resize((1280, 896)), "PNG"),
        "d webp": saved(whole.resize((320, 224)), "WEBP", quality=50),
        "e palette": saved(whole.quantize(128), "PNG"),
        "f alpha": saved(whole.convert("RGBA"), "PNG"),
    }
    looks = {"whole": look(whole), **{name: look(other) for name, other in others.items()}}
    assert groups(looks) == [sorted(looks)]


def test_other_pictures_are_not() -> None:
    pictures = {f"{seed}": scene(seed) for seed in range(40)}
    mirrored = {f"{name} mirrored": ImageOps.mirror(picture) for name, picture in pictures.items()}
    upside_down = {f"{name} flipped": ImageOps.flip(picture) for name, picture in pictures.items()}
    looks = {name: look(picture) for name, picture in {**pictures, **mirrored, **upside_down}.items()}
    assert groups(looks) == []
    assert min((a ^ b).bit_count() for a, b in combinations(looks.values(), 2)) > 2 * MOST


def test_flat_pictures_are_told_apart_by_their_colour() -> None:
    names = ["black", "white", "grey", "red", "darkred", "green", "lime", "blue", "navy", "yellow", "#8cc4ee"]
    looks = {name: look(Image.new("RGB", (640, 360), name)) for name in names}
    assert groups(looks) == []
    again = look(saved(Image.new("RGB", (100, 100), "#8cc4ee"), "JPEG"))
    assert groups({**looks, "again": again}) == [["#8cc4ee", "again"]]


def test_the_same_shapes_in_other_colours_are_other_pictures() -> None:
    picture = scene(1)
    red, green, blue = picture.split()
    assert groups({1: look(picture), 2: look(Image.merge("RGB", (blue, red, green)))}) == []


def test_a_picture_is_left_as_it_is() -> None:
    picture = scene(1)
    before = picture.tobytes()
    look(picture)
    assert picture.tobytes() == before


def slow(looks: dict[int, int], most: int) -> list[list[int]]:
    """Every pair compared."""
    group = {key: {key} for key in looks}
    for a, b in combinations(looks, 2):
        if (looks[a] ^ looks[b]).bit_count() <= most and group[a] is not group[b]:
            group[a] |= group[b]
            for key in group[b]:
                group[key] = group[a]
    return [list(each) for each in sorted({tuple(sorted(each)) for each in group.values() if len(each) > 1})]


@given(st.lists(st.integers(0, 2**12 - 1), max_size=40), st.integers(0, 4), st.integers(0, 300))
def test_groups_are_those_of_comparing_all(values: list[int], most: int, far: int) -> None:
    looks = {key: value << far | value for key, value in enumerate(values)}
    assert groups(looks, most) == slow(looks, most)


def test_a_third_joins_two_that_are_not_alike() -> None:
    assert groups({"b": 0, "c": 0b1111, "a": 0b111111_1111, "z": 1 << 300 | 2**40 - 1}) == [["a", "b", "c"]]
    assert groups({}) == [] and groups({"one": 1}) == []


@pytest.mark.parametrize("kind", ["random", "equal", "few bits", "near one", "copies"])
def test_ten_thousand(kind: str) -> None:
    """Also where all are in the same tables; that it takes no minutes is what makes the test end."""
    chance, count = random.Random(1), 10_000
    base = chance.getrandbits(304)
    make: dict[str, Callable[[int], int]] = {
        "random": lambda _: chance.getrandbits(304),
        "equal": lambda _: base,
        "few bits": lambda at: base ^ at,
        "near one": lambda _: base ^ sum({1 << chance.randrange(304) for _ in range(3)}),
        "copies": lambda at: random.Random(at // 2).getrandbits(304),
    }
    found = groups({at: make[kind](at) for at in range(count)})
    if kind == "random":
        assert found == []
    elif kind == "copies":
        assert found == [[at, at + 1] for at in range(0, count, 2)]
    else:
        assert found == [list(range(count))]
