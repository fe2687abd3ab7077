"""Draw the sample data set in templates/sample: a red balloon over hills, as pictures and a clip.

python scripts/make_sample.py
"""

from __future__ import annotations

import math
from pathlib import Path

import av
from PIL import Image, ImageDraw

SAMPLE = Path(__file__).resolve().parent.parent / "templates" / "sample"
FRAMES, FPS = 81, 16  # 5 seconds, enough for every preset's clips

CAPTIONS = {
    "morning": "a flat illustration of wwballoon, a red hot-air balloon with a yellow stripe, low over green hills at sunrise. the sky is pale orange and the sun stands on the left.",
    "noon": "a flat illustration of wwballoon, a red hot-air balloon with a yellow stripe, high in a clear blue sky over green hills. the sun stands above it.",
    "evening": "a flat illustration of wwballoon, a red hot-air balloon with a yellow stripe, seen from close by in front of a violet evening sky. dark hills lie below.",
    "flight": "a flat illustration in motion. wwballoon, a red hot-air balloon with a yellow stripe, rises slowly and drifts from left to right over green hills under a blue sky.",
}


def draw(
    size: tuple[int, int], sky: str, hills: str, sun: tuple[float, float], balloon: tuple[float, float, float]
) -> Image.Image:
    """One scene; places are parts of the width and height, the balloon's third number is its radius."""
    width, height = size
    picture = Image.new("RGB", size, sky)
    pen = ImageDraw.Draw(picture)
    x, y = sun[0] * width, sun[1] * height
    pen.ellipse((x - height / 14, y - height / 14, x + height / 14, y + height / 14), fill="#ffe9a0")
    for row, shade in ((0.72, hills), (0.82, "#2f5d34")):
        points = [(i, height * (row + 0.05 * math.sin(9 * row + i / width * 7))) for i in range(width + 1)]
        pen.polygon([*points, (width, height), (0, height)], fill=shade)
    x, y, radius = balloon[0] * width, balloon[1] * height, balloon[2] * height
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill="#c8322b")
    pen.rectangle((x - radius * 0.97, y - radius / 6, x + radius * 0.97, y + radius / 6), fill="#f2c23e")
    pen.polygon(
        [(x - radius * 0.6, y + radius * 0.8), (x + radius * 0.6, y + radius * 0.8), (x, y + radius * 1.7)],
        fill="#c8322b",
    )
    pen.rectangle((x - radius / 5, y + radius * 1.6, x + radius / 5, y + radius * 1.95), fill="#6b4a2b")
    return picture


def pictures() -> None:
    """Three pictures of three shapes, so that they land in three buckets."""
    draw((640, 384), "#f6cfa4", "#5f8f4f", (0.2, 0.62), (0.62, 0.45, 0.14)).save(SAMPLE / "morning.jpg", quality=88)
    draw((512, 512), "#8cc4ee", "#6aa355", (0.5, 0.14), (0.45, 0.42, 0.13)).save(SAMPLE / "noon.png", optimize=True)
    draw((384, 576), "#7b6ba8", "#3e4f47", (0.85, 0.66), (0.5, 0.36, 0.22)).save(SAMPLE / "evening.jpg", quality=88)


def clip() -> None:
    """The balloon's flight, 5 seconds at the rate that Wan is trained at."""
    with av.open(str(SAMPLE / "flight.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 416, 240, "yuv420p"
        stream.options = {"crf": "26"}
        for index in range(FRAMES):
            along = index / (FRAMES - 1)
            scene = draw((416, 240), "#8cc4ee", "#6aa355", (0.8, 0.15), (0.2 + 0.5 * along, 0.6 - 0.3 * along, 0.13))
            container.mux(stream.encode(av.VideoFrame.from_image(scene)))  # type: ignore[no-untyped-call]
        container.mux(stream.encode())


if __name__ == "__main__":
    SAMPLE.mkdir(parents=True, exist_ok=True)
    pictures()
    clip()
    for name, text in CAPTIONS.items():
        (SAMPLE / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
