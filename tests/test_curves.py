"""Curves go on over attempts, whatever they are cut off by."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from tfevents import VERSION, epochs, newest, points, record, rows, scalar, tensor, text, write
from wanwrap.run.curves import Curves
from wanwrap.run.events import read

NAN, INF = math.nan, math.inf
FILE = "20250101000000/network_train/events.out.tfevents.1.host.2.0"


def merged(tmp_path: Path, steps: int = 12) -> Path:
    """A folder with the curves of a first attempt, five steps an epoch."""
    write(tmp_path / "1" / FILE, epochs(steps, 5))
    Curves(tmp_path / "low", 0, 0).follow(tmp_path / "1")
    return tmp_path / "low"


def test_a_first_attempt_is_taken_over_byte_for_byte(tmp_path: Path) -> None:
    out = merged(tmp_path)
    assert rows(out)[2:] == epochs(12, 5)[1:]  # after the version and the session's start
    start = b"".join(map(record, [rows(out)[0], b"\x3a\x02\x08\x01"]))
    assert newest(out).read_bytes() == start + b"".join(map(record, epochs(12, 5)[1:]))
    assert VERSION[9:] in rows(out)[0]


def test_a_second_attempt_goes_on_where_the_first_was_saved(tmp_path: Path) -> None:
    out = merged(tmp_path)
    write(tmp_path / "2" / FILE, epochs(8, 5, 100))
    curves = Curves(out, 10, 2)
    assert points(out) == [(step, step) for step in range(1, 11)]
    assert points(out, "loss/epoch") == [(1, 5), (2, 10)]
    curves.follow(tmp_path / "2")
    assert points(out) == [(step, step if step <= 10 else 90 + step) for step in range(1, 19)]
    assert points(out, "loss/epoch") == [(1, 5), (2, 10), (3, 105)]
    assert [step for step, _ in points(out, "lr/unet")] == list(range(1, 19))
    assert sum(read(each).opens for each in rows(out)) == 1
    assert curves.seen == 8


def test_steps_of_more_than_a_byte_and_the_field_that_is_not_there(tmp_path: Path) -> None:
    write(
        tmp_path / "1" / FILE,
        [scalar("loss/current", 0, 7), text("samples", 0, "a cat"), scalar("loss/current", 127, 8)],
    )
    curves = Curves(tmp_path / "low", 2**40, 3)
    curves.follow(tmp_path / "1")
    assert points(tmp_path / "low") == [(2**40, 7), (2**40 + 127, 8)]
    assert rows(tmp_path / "low")[-1] == scalar("loss/current", 127, 8).replace(
        b"\x10\x7f", b"\x10\xff\x80\x80\x80\x80\x20"
    )
    words = rows(tmp_path / "low")[3]
    assert words.startswith(text("samples", 0, "a cat")) and read(words).step == 2**40


def test_settings_are_kept_of_the_first_attempt_alone(tmp_path: Path) -> None:
    settings = [VERSION, text("_hparams_/experiment", 0, "lr")]
    for attempt, past in (("1", 0), ("2", 5)):
        write(tmp_path / attempt / FILE, epochs(5, 5))
        write(tmp_path / attempt / "20250101000000/network_train/123.4/events.out.tfevents.1.host.2.1", settings)
        Curves(tmp_path / "low", past, past // 5).follow(tmp_path / attempt)
    assert len(points(tmp_path / "low", "_hparams_/experiment")) == 1
    assert len(points(tmp_path / "low")) == 10


def test_what_is_half_there_is_waited_for_at_every_byte(tmp_path: Path) -> None:
    whole = b"".join(map(record, epochs(3, 3)))
    path = write(tmp_path / "1" / FILE, [])
    curves = Curves(tmp_path / "low", 7, 1)
    with path.open("ab", buffering=0) as file:
        for byte in range(len(whole)):
            file.write(whole[byte : byte + 1])
            curves.follow(tmp_path / "1")
    assert points(tmp_path / "low") == [(8, 1), (9, 2), (10, 3)]
    assert points(tmp_path / "low", "loss/epoch") == [(2, 3)]


def test_a_kill_while_our_own_file_grew_costs_what_was_half_there(tmp_path: Path) -> None:
    content = newest(merged(tmp_path, 4)).read_bytes()
    write(tmp_path / "2" / FILE, epochs(2, 5, 100))
    for size in range(len(content) + 1):
        out = tmp_path / f"killed-{size}"
        out.mkdir()
        (out / "events.out.tfevents.wanwrap-0001").write_bytes(content[:size])
        Curves(out, 4, 0).follow(tmp_path / "2")
        found = points(out)
        assert found[-2:] == [(5, 101), (6, 102)]
        assert found[:-2] == [(step, step) for step in range(1, len(found) - 1)]
        assert VERSION[9:] in rows(out)[0]
    assert len(found) == 6


KILLED = """
import os, sys
from pathlib import Path
import google_crc32c, fcntl
from wanwrap.curves import Curves
left = int(sys.argv[2])
def hook(what, _):
    global left
    if what in ("open", "os.rename", "os.truncate", "os.remove"):
        left -= 1
        if not left:
            os._exit(9)
sys.addaudithook(hook)
Curves(Path(sys.argv[1]), 10, 2)
"""


@pytest.mark.skipif(os.name == "nt", reason="the moments are those of POSIX")
def test_a_kill_at_any_moment_leaves_the_old_curves_or_the_new(tmp_path: Path) -> None:
    old, new = list(range(1, 13)), list(range(1, 11))
    ended = list[list[int]]()
    for moment in range(1, 50):
        out = merged(tmp_path / str(moment))
        argv = [sys.executable, "-c", KILLED, str(out), str(moment)]
        done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": str(ROOT)})
        ended.append([step for step, _ in points(out)])
        assert all(each.name[-4:] in ("0001", "0002") for each in out.glob("*tfevents*"))
        Curves(out, 10, 2)
        assert [step for step, _ in points(out)] == new
        assert sum(each.stat().st_size > 0 for each in out.glob("*tfevents*")) == 1
        if done.returncode == 0:
            break
        assert done.returncode == 9
    assert ended[0] == old and ended[-2:] == [new, new] and all(each in (old, new) for each in ended)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 7))
def test_garbage_ends_no_training(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, bit: int) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    path = write(folder / "1" / FILE, epochs(3, 5))
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1 << bit
    path.write_bytes(content)
    (path.parent / "tfevents noise").write_bytes(noise)
    (path.parent / "tfevents no protobuf").write_bytes(record(noise))
    curves = Curves(folder / "low", 5, 1)
    for _ in range(2):
        curves.follow(folder / "1")
        assert curves.seen < 4
    if curves.seen:
        assert points(folder / "low") == [(5 + step, step) for step in range(1, curves.seen + 1)]
    Curves(folder / "low", 6, 1)


def test_what_is_not_there_yet_is_no_error(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "low", 0, 0)
    curves.follow(tmp_path / "nowhere")
    (tmp_path / "1" / "a.tfevents").mkdir(parents=True)
    curves.follow(tmp_path / "1")
    assert (curves.seen, curves.broken, (tmp_path / "low").exists()) == (0, 0, False)


def test_a_loss_that_is_no_number_is_counted_from_the_newest_back(tmp_path: Path) -> None:
    curves, losses = Curves(tmp_path / "low", 0, 0), list[bytes]()
    for value, broken in ((1.0, 0), (NAN, 1), (INF, 2), (-INF, 3), (0.5, 0), (NAN, 1)):
        losses += [
            scalar("loss/current", len(losses) // 2 + 1, value),
            scalar("loss/average", len(losses) // 2 + 1, NAN),
        ]
        write(tmp_path / "1" / FILE, losses)
        curves.follow(tmp_path / "1")
        assert curves.broken == broken
    write(tmp_path / "1" / FILE, [*losses, tensor("loss/current", 7, NAN), tensor("loss/current", 8, INF)])
    curves.follow(tmp_path / "1")
    assert (curves.broken, curves.seen) == (3, 8)
    assert Curves(tmp_path / "low", 7, 0).broken == 0


def test_two_event_files_of_one_attempt_become_one_and_are_cut_alike(tmp_path: Path) -> None:
    write(tmp_path / "1" / "20250101000000/events.out.tfevents.1", epochs(6, 5))
    write(
        tmp_path / "1" / "20250101000009/events.out.tfevents.2",
        [VERSION, *(scalar("other", n, n) for n in range(1, 7))],
    )
    Curves(tmp_path / "low", 0, 0).follow(tmp_path / "1")
    Curves(tmp_path / "low", 4, 0)
    assert points(tmp_path / "low") == points(tmp_path / "low", "other") == [(n, n) for n in range(1, 5)]
    assert points(tmp_path / "low", "loss/epoch") == []


def test_beginning_anew_replaces_what_lies_there(tmp_path: Path) -> None:
    out = merged(tmp_path)
    write(tmp_path / "2" / FILE, epochs(3, 5, 100))
    curves = Curves(out, 0, 0)
    assert all(each.stat().st_size == 0 for each in out.iterdir())
    curves.follow(tmp_path / "2")
    assert points(out) == [(1, 101), (2, 102), (3, 103)]


def test_an_attempt_that_is_read_again_from_its_beginning_gives_the_same(tmp_path: Path) -> None:
    """What a killed wanwrap has missed, while upstream trained on, is in the attempt's own files."""
    out = merged(tmp_path, 3)
    write(tmp_path / "1" / FILE, epochs(12, 5))
    Curves(out, 0, 0).follow(tmp_path / "1")
    Curves(out, 10, 2)
    assert points(out) == [(step, step) for step in range(1, 11)]


def test_many_attempts_leave_one_file_and_an_empty_one(tmp_path: Path) -> None:
    out = merged(tmp_path, 5)
    for attempt in range(1, 12):
        write(tmp_path / "n" / FILE, epochs(5, 5))
        Curves(out, 5 * attempt, attempt).follow(tmp_path / "n")
    assert sorted(each.name[-4:] for each in out.iterdir()) == ["0011", "0012"]
    assert [step for step, _ in points(out)] == list(range(1, 61))
    assert [epoch for epoch, _ in points(out, "loss/epoch")] == list(range(1, 13))


def test_a_disk_that_is_full_or_a_folder_that_is_away_is_tried_again(tmp_path: Path) -> None:
    path = write(tmp_path / "1" / FILE, epochs(2, 5))
    (tmp_path / "low").write_text("in the way")
    curves = Curves(tmp_path / "low", 0, 0)
    curves.follow(tmp_path / "1")
    curves.follow(tmp_path / "1")
    assert curves.seen == 2
    (tmp_path / "low").unlink()
    curves.follow(tmp_path / "1")
    assert points(tmp_path / "low") == [(1, 1), (2, 2)]
    newest(tmp_path / "low").unlink()  # by somebody who tidies up
    path.write_bytes(path.read_bytes() + record(scalar("loss/current", 3, 3)))
    curves.follow(tmp_path / "1")
    assert points(tmp_path / "low") == [(3, 3)]
    path.write_bytes(path.read_bytes() + 9 * record(scalar("loss/current", 4, 4)))
    curves.follow(tmp_path / "1")
    os.truncate(newest(tmp_path / "low"), 500)
    path.write_bytes(path.read_bytes() + record(scalar("loss/current", 5, 5)))
    curves.follow(tmp_path / "1")
    assert points(tmp_path / "low") == [(5, 5)]


def test_large_records_go_through_in_pieces(tmp_path: Path) -> None:
    one = record(text("samples", 1, "x" * 3000))
    write(tmp_path / "1" / FILE, []).write_bytes(one * 1000)
    Curves(tmp_path / "low", 0, 0).follow(tmp_path / "1")
    assert newest(tmp_path / "low").read_bytes().endswith(one * 1000)
    assert len(rows(tmp_path / "low")) == 1002


def test_a_file_that_is_not_ours_ends_no_training(tmp_path: Path) -> None:
    write(tmp_path / "low" / "events.out.tfevents.wanwrap-0001", [b"\xff", VERSION, scalar("loss/current", 1, 1)])
    write(tmp_path / "low" / "events.out.tfevents.wanwrap-0000", [])
    Curves(tmp_path / "low", 5, 1)
    assert points(tmp_path / "low") == [(1, 1)]
