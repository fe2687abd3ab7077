"""What upstream trains of a picture: all of it that its bucket has room for, seen as upstream sees it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.data.media import Kind

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]  # (width, height) in pixels
Box = tuple[float, float, float, float]  # (left, top, right, bottom) in pixels


def covering(size: Size, bucket: Size) -> Size:
    """The size at which a picture covers its bucket: one side fits, the other may stick out.

    Upstream's arithmetic (dataset/media_utils.py: resize_image_to_bucket), which rounds halves up.
    """
    if size == bucket:
        return size
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def kept(size: Size, bucket: Size) -> Box:
    """The part of a picture of `size` that is trained, in the picture's own pixels: the middle."""
    wide, high = covering(size, bucket)
    left, top = (wide - bucket[0]) // 2, (high - bucket[1]) // 2
    x, y = size[0] / wide, size[1] / high
    return left * x, top * y, (left + bucket[0]) * x, (top + bucket[1]) * y


def thumbnail(path: Path, kind: Kind, bucket: Size | None, longest: int) -> Image.Image:
    """What is trained in `bucket`, or all there is without one; `longest` pixels on the longer side, or fewer.

    A clip by its first frame. RGB as upstream makes it: not turned, and what is transparent with its hidden colour.

    Raises:
        Exception: whatever a decoder raises; the file is what is wrong.
    """
    from PIL import Image

    with _first_frame(path) if kind == "video" else Image.open(path) as picture:
        size = picture.size
        bucket = bucket or size
        scale = min(1, longest / max(bucket))
        small = max(1, round(bucket[0] * scale)), max(1, round(bucket[1] * scale))
        picture.draft("RGB", covering(size, small))  # a JPEG is decoded at a fraction of its size: far faster
        picture.info.pop("transparency", None)  # it is dropped, about which Pillow would warn
        rgb: Image.Image = picture.convert("RGB")
    x, y = rgb.width / size[0], rgb.height / size[1]
    left, top, right, bottom = kept(size, bucket)
    box = left * x, top * y, min(right * x, rgb.width), min(bottom * y, rgb.height)
    return rgb.resize(small, Image.Resampling.LANCZOS, box, reducing_gap=2)


def _first_frame(path: Path) -> Image.Image:
    import av

    with av.open(str(path)) as container:
        frame: Image.Image = next(container.decode(video=0)).to_image()
        return frame
