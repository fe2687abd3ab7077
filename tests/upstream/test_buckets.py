"""Upstream's arithmetic, by figures that were seen in upstream; upstream/test_real.py compares at random."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from wanwrap.data.dataset import Entry
from wanwrap.data.media import Item
from wanwrap.upstream import buckets


@pytest.mark.parametrize(("fps", "needed"), [(24.0, 121), (25.0, 126), (30.0, 152), (60.0, 302), (16.0, 81)])
def test_frames_needed_for_81(fps: float, needed: int) -> None:
    assert buckets.frames_at_16(needed, fps, 81) == 81
    assert buckets.frames_at_16(needed - 1, fps, 81) == 80
    assert buckets.frames_at_16(1000, 8.0, 81) == 41  # never doubled


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"target_frames": [1, 21]}, {(0, 1), (0, 21)}),
        ({"target_frames": [23]}, {(0, 21)}),
        ({"target_frames": [25], "frame_extraction": "chunk"}, {(0, 25)}),
        ({"target_frames": [9], "frame_extraction": "slide", "frame_stride": 16}, {(0, 9), (16, 9), (32, 9)}),
        ({"target_frames": [45], "frame_extraction": "uniform", "frame_sample": 2}, {(0, 45), (3, 45)}),
        ({"target_frames": [45], "frame_extraction": "uniform", "frame_sample": 9}, {(i, 45) for i in range(4)}),
        ({"target_frames": [45], "frame_extraction": "uniform"}, {(0, 45)}),
        ({"frame_extraction": "full"}, {(0, 45)}),
        ({"frame_extraction": "full", "max_frames": 20}, {(0, 17)}),
        ({"target_frames": [49]}, set()),
        ({}, {(0, 1)}),
    ],
)
def test_windows_of_a_clip_of_48_frames(how: dict[str, object], expected: set[tuple[int, int]]) -> None:
    assert buckets.windows(48, how) == expected


def test_small_pictures_keep_their_size_with_no_upscale() -> None:
    assert buckets.bucket((650, 390), (720, 1280), no_upscale=True) == (640, 384)
    assert buckets.bucket((12, 20), (960, 960), no_upscale=True) == (0, 16)
    assert buckets.bucket((650, 390), (720, 1280)) != (640, 384)


def entry(kind: Literal["image", "video"], sizes: list[tuple[int, int]], **options: object) -> Entry:
    items = tuple(Item(path=Path(f"{n}"), kind=kind, size=size, frames=9, fps=16.0) for n, size in enumerate(sizes))
    return Entry(kind=kind, directory=Path(), items=items, options={"enable_bucket": True, **options})


def test_repeats_and_batches() -> None:
    made = entry("image", [(960, 544)] * 3 + [(544, 960)], resolution=(960, 544), batch_size=4, num_repeats=3)
    assert buckets.batches(made.keys, made.options) == 3 + 1  # ceil(9/4) + ceil(3/4)
    assert [buckets.steps_per_epoch(7, 1, gpus) for gpus in (1, 2, 4, 8)] == [7, 4, 2, 1]
    assert [buckets.steps_per_epoch(7, 4), buckets.steps_per_epoch(13, 2, 3)] == [2, 3]


def test_small_clips_of_other_sizes_share_the_bucket_that_they_are_cached_in() -> None:
    clips = entry("video", [(416, 240), (624, 360)], resolution=(832, 480), bucket_no_upscale=True, target_frames=(5,))
    assert len(set(clips.keys)) == 1


def test_tokens() -> None:
    found = [buckets.tokens(shape) for shape in ((1280, 720), (960, 544, 45), (1280, 720, 21))]
    assert found == [3600, 24480, 21600]
