"""Media that a captioner can be asked of, and what it has written beside them."""

from __future__ import annotations

from pathlib import Path

import av
from PIL import Image
from weightfiles import rows

QWEN = rows("qwen2.5-vl-7b", "BF16")


def colour(path: Path, name: str, size: tuple[int, int] = (640, 384)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, name).save(path)
    return path


def film(path: Path, colours: list[str], size: tuple[int, int] = (320, 320)) -> Path:
    """A clip with ten frames of each colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for name in (each for each in colours for _ in range(10)):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", size, name))))  # type: ignore[no-untyped-call]
        container.mux(stream.encode())
    return path


def media_of(folder: Path) -> dict[Path, tuple[bytes, int]]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".txt", ".jsonl")]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def texts(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text(encoding="utf-8-sig").strip() for path in folder.rglob("*.txt")}
