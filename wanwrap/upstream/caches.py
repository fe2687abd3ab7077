"""How upstream names what it caches for Wan (dataset/image_video_dataset.py).

Its names tell neither content nor resolution nor mode (T14), and it trains whatever lies in a cache folder (T15).
"""

from __future__ import annotations

import re
from typing import Literal

from wanwrap.upstream.buckets import Size

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
    return f"{stem}_{_size(size)}{LATENTS}"


def window_name(stem: str, first: int, count: int, size: Size) -> str:
    """The latents of a window of a clip, by the (width, height) of its bucket: upstream has resized it before."""
    return f"{stem}_{first:05d}-{count:03d}_{_size(size)}{LATENTS}"


def _size(size: Size) -> str:
    return f"{size[0]:04d}x{size[1]:04d}"
