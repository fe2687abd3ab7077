"""The points of upstream's curves, read while it writes them, whatever they are cut off by."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfevents import epochs, record, scalar, text, write

from wanwrap.upstream.output import Curves, Point, points

FILE = "20250101000000/network_train/events.out.tfevents.1.host.2.0"


def read(path: Path) -> list[Point]:
    with path.open("rb") as file:
        return [*points(file)]


def test_points_of_each_kind(tmp_path: Path) -> None:
    """A step of more than a byte, one that is 0 and not there; text is no point."""
    rows = [scalar("loss/current", 0, 7), text("samples", 0, "a cat"), scalar("lr/unet", 2**40 + 127, 0.25)]
    path = write(tmp_path / FILE, [*epochs(5, 5)[:1], *rows])
    assert read(path) == [(0, "loss/current", 7), (2**40 + 127, "lr/unet", 0.25)]


def test_what_is_half_there_is_waited_for_at_every_byte(tmp_path: Path) -> None:
    whole = b"".join(map(record, epochs(3, 3)))
    curves, seen = Curves(tmp_path), list[int]()
    with write(tmp_path / FILE, []).open("ab", buffering=0) as file:
        for byte in whole:
            file.write(bytes([byte]))
            curves.follow()
            seen.append(len(curves.losses))
    assert curves.losses == [1, 2, 3] and seen == sorted(seen)


def test_a_loss_that_is_no_number_is_counted_from_the_newest_back(tmp_path: Path) -> None:
    """The mean, which stays none after one that was none, is not asked."""
    curves, rows = Curves(tmp_path), list[bytes]()
    for value, broken in ((1.0, 0), (math.nan, 1), (math.inf, 2), (-math.inf, 3), (0.5, 0), (math.nan, 1)):
        rows += [scalar("loss/current", len(rows), value), scalar("loss/average", len(rows), math.nan)]
        write(tmp_path / FILE, rows)
        curves.follow()
        assert curves.broken_for == broken


def test_two_files_of_one_attempt_that_are_not_there_at_first(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "nowhere")
    curves.follow()
    (tmp_path / "nowhere" / "a.tfevents").mkdir(parents=True)
    curves.follow()
    assert (curves.losses, curves.broken_for) == ([], 0)
    (tmp_path / "nowhere" / "a.tfevents").rmdir()
    for name, offset in (("20250101000000", 0), ("20250101000009", 6)):
        write(tmp_path / "nowhere" / name / "events.out.tfevents", epochs(6, 5, offset))
    curves.follow()
    assert curves.losses == [*range(1, 13)]


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 7))
def test_garbage_ends_no_training(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    path = write(folder / FILE, epochs(3, 5))
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1 << bit
    path.write_bytes(content)
    (path.parent / "tfevents noise").write_bytes(noise)
    (path.parent / "tfevents no protobuf").write_bytes(record(noise))
    curves = Curves(folder)
    for _ in range(2):
        curves.follow()
        assert len(curves.losses) < 4
