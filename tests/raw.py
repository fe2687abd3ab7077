"""Raw media for the tests of `prepare`: clips whose frames say which one they are, pictures of every sort."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image

BITS, BLOCK = 10, 16  # a row of black and white blocks, 16 pixels each: the frame's number
SIZE = (BITS * BLOCK, 48)


def ffmpeg(*argv: object) -> None:
    """Write what PyAV can't: rotations, other streams' sound, deep PNGs."""
    import imageio_ffmpeg  # the training Python, which reads with this module, has none

    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *map(str, argv)], check=True)


def pattern(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A frame that says its number, the highest bit at the left."""
    picture = Image.new("L", (BITS, 1))
    picture.putdata([255 * (number >> bit & 1) for bit in reversed(range(BITS))])
    return picture.resize(size, resample=0).convert("RGB")


def number(picture: Image.Image) -> int:
    """What such a frame says, whatever size it has now."""
    row = picture.convert("L").resize((BITS, 1), resample=4).tobytes()
    return sum((value > 127) << (BITS - 1 - index) for index, value in enumerate(row))


def noise(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Nothing that repeats, and the same each time."""
    return Image.frombytes("L", size, random.Random(seed).randbytes(size[0] * size[1])).convert("RGB")


def numbers(path: Path) -> list[int]:
    """What the frames of a clip say, decoded as upstream decodes them."""
    with av.open(str(path)) as container:
        return [number(frame.to_image()) for frame in container.decode(video=0)]


def footage(
    path: Path,
    frames: int,
    fps: Fraction | int = 16,
    *,
    times: Iterable[Fraction] | None = None,
    pictures: Iterable[Image.Image] | None = None,
    size: tuple[int, int] = SIZE,
    codec: str = "libx264",
    form: str = "yuv420p",
    options: Mapping[str, str] | None = None,
) -> Path:
    """A clip whose frame i says i and is shown at i / fps seconds, or at `times`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    base = 1 / Fraction(fps) if times is None else Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps), options=dict(options or {"crf": "10"}))
        stream.width, stream.height, stream.pix_fmt = *size, form
        when = list(times or [Fraction(i) / fps for i in range(frames)])
        stream.codec_context.time_base = base
        shown = list(pictures or [pattern(i, size) for i in range(frames)])
        for picture, time in zip(shown, when, strict=True):
            frame = av.VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]
            frame.pts = round(time / base)
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
