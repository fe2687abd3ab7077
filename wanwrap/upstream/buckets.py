"""Upstream's arithmetic on a data set: buckets, windows of frames, batches, steps; and how it names what it caches.

Each function gives the number that musubi-tuner 0.3.4 arrives at, by the same floating-point
operations where those decide (dataset/bucket.py, media_utils.py, image_video_dataset.py, trainer_base.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

STEP = 16  # pixels: VAE 8 x patch 2
FPS = 16.0  # what Wan is trained at
MOST_FRAMES = 129  # upstream's default of max_frames

Size = tuple[int, int]


@lru_cache
def sizes(resolution: Size) -> tuple[Size, ...]:
    """All (width, height) that a resolution's area is cut to, sorted as upstream sorts them."""
    area, pairs = resolution[0] * resolution[1], set[Size]()
    side = int(math.sqrt(area))
    for width in range(side // 2 - side // 2 % STEP, side + STEP, STEP):
        height = area // width - area // width % STEP
        pairs |= {(width, height), (height, width)}
    return tuple(sorted(pairs))


@lru_cache(maxsize=100_000)
def bucket(size: Size, resolution: Size, *, enabled: bool = True, no_upscale: bool = False) -> Size:
    """The (width, height) that an item of `size` is resized and cropped to."""
    if not enabled:
        return resolution
    if no_upscale and size[0] * size[1] <= resolution[0] * resolution[1]:
        return size[0] - size[0] % STEP, size[1] - size[1] % STEP
    aspect = size[0] / size[1]
    return min(sizes(resolution), key=lambda pair: abs(pair[0] / pair[1] - aspect))


@lru_cache(maxsize=100_000)
def frames_at_16(frames: int, source_fps: float | None, end: int | None = None) -> int:
    """How many of a clip's frames upstream keeps: up to index `end`, dropping some to reach 16 fps."""
    if source_fps is None:
        return frames if end is None else min(frames, end)
    kept, position, previous = 0, 0.0, -1
    for _ in range(frames):
        index = int(position)
        position += FPS / source_fps
        if index == previous:
            continue
        previous = index
        if end is not None and index >= end:
            break
        kept += 1
    return kept


def windows(frames: int, options: Mapping[str, Any]) -> set[tuple[int, int]]:
    """The (first frame, number of frames) that upstream takes of a clip; empty where it drops the clip.

    `frames` are the file's own; `options` are the data set's (target_frames, frame_extraction, source_fps ...).
    """
    targets = [(count - 1) // 4 * 4 + 1 for count in options.get("target_frames") or (1,)]
    how, sample = options.get("frame_extraction", "head"), options.get("frame_sample", 1)
    if how == "uniform" and sample == 1:
        how = "head"
    kept = frames_at_16(frames, options.get("source_fps"), max(targets) if how == "head" else None)
    if how == "full":
        return {(0, (min(kept, options.get("max_frames", MOST_FRAMES)) - 1) // 4 * 4 + 1)}
    found = set[tuple[int, int]]()
    for count in targets:
        last = kept - count  # the start of the last window that fits
        if last < 0:
            continue
        if how == "head":
            starts = [0]
        elif how == "uniform":  # numpy.linspace(0, last, sample, dtype=int)
            starts = [*(math.floor(i * (last / (sample - 1))) for i in range(sample - 1)), last]
        else:
            starts = [*range(0, last + 1, count if how == "chunk" else options.get("frame_stride", 1))]
        found |= {(start, count) for start in starts}
    return found


def batches(keys: Sequence[object], options: Mapping[str, Any]) -> int:
    """Batches of one entry in an epoch, from the bucket of each of its items."""
    repeats, size = options.get("num_repeats", 1), options.get("batch_size", 1)
    return sum(math.ceil(count * repeats / size) for count in Counter(keys).values())


def most_in_batch(count: int, options: Mapping[str, Any]) -> int:
    """Things in the largest batch of a bucket that holds `count`."""
    return int(min(count * options.get("num_repeats", 1), options.get("batch_size", 1)))


def steps_per_epoch(batches_in_all: int, accumulation: int, gpus: int = 1) -> int:
    """Optimizer steps in an epoch, of which each GPU trains its share: the last group of an epoch may be smaller."""
    return math.ceil(batches_in_all / gpus / accumulation)


def tokens(shape: Sequence[int]) -> int:
    """What attention sees of (width, height) or (width, height, frames): ((frames - 1) / 4 + 1) * h / 16 * w / 16."""
    width, height, frames = (*shape, 1)[:3]
    return ((frames - 1) // 4 + 1) * (height // STEP) * (width // STEP)


# ---- caches: its names tell neither content nor resolution nor mode, and it trains whatever lies in a cache folder

What = Literal["latents", "text"]

TEXT, LATENTS = "_wan_te.safetensors", "_wan.safetensors"
# its names for latents and embeddings: anything else under their ending makes it fail, or goes
NAMED = re.compile(r"_\d{4,}x\d{4,}_wan\.safetensors$|_wan_te\.safetensors$")

# What of an entry is not part of what is encoded: a cache serves all of these.
NOT_CACHED = {
    "image": {"batch_size", "num_repeats"},
    "video": {"batch_size", "num_repeats", "enable_bucket", "bucket_no_upscale"},  # clips are cached in buckets anyway
}
SAME_LATENTS = {"vae_cache_cpu", "batch_size", "num_workers", "device"}  # how encoders work, not what they make


def text_name(stem: str) -> str:
    """The embedding of a caption."""
    return f"{stem}{TEXT}"


def picture_name(stem: str, size: Size) -> str:
    """The latents of a picture, by its own (width, height)."""
    return f"{stem}_{size[0]:04d}x{size[1]:04d}{LATENTS}"


def window_name(stem: str, first: int, count: int, size: Size) -> str:
    """The latents of a window of a clip, by the (width, height) of its bucket: upstream has resized it before."""
    return f"{stem}_{first:05d}-{count:03d}_{size[0]:04d}x{size[1]:04d}{LATENTS}"
