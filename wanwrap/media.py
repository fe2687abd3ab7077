"""Pictures and clips as upstream will read them: by Pillow and PyAV, ignoring EXIF and rotation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wanwrap.errors import DatasetError, listing

Kind = Literal["image", "video"]

# What upstream looks for, all in lower or all in upper case (dataset/media_utils.py).
IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"}
VIDEOS = {".mp4", ".webm", ".avi", ".mkv", ".mov", ".flv", ".wmv", ".m4v", ".mpg", ".mpeg"}


ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture, or a clip with its frames: `size` is (width, height) in pixels."""

    path: Path
    size: tuple[int, int]
    frames: int | None = None
    fps: float | None = None
    turned: bool = False  # by EXIF or a rotation, which upstream ignores


def kind_of(path: Path) -> Kind | None:
    """What upstream takes a file for, by its name alone; None where it passes it over."""
    suffix = path.suffix
    if path.name.startswith(".") or suffix not in (suffix.lower(), suffix.upper()):
        return None
    return "image" if suffix.lower() in IMAGES else "video" if suffix.lower() in VIDEOS else None


def probe(
    paths: Iterable[Path], kind: Kind, *, whole: bool = False, done: Callable[[], object] = bool
) -> tuple[Item, ...]:
    """Sizes and frame counts: from headers and packets, or with `whole` by decoding every file.

    Upstream decodes each file while caching, and ends the run at the first damaged one.

    Raises:
        DatasetError: files that can't be read, all of them named.
    """
    reader, failed = (_picture if kind == "image" else _clip), dict[Path, str]()

    def one(path: Path) -> Item | None:
        try:
            return reader(path, whole)
        except Exception as error:  # whatever a decoder raises, the file is what is wrong
            failed[path] = str(error).replace(str(path), path.name) or type(error).__name__
            return None
        finally:
            done()

    with ThreadPoolExecutor() as pool:
        items = list(pool.map(one, paths))
    if failed:
        reasons = listing(f"{path} ({reason})" for path, reason in sorted(failed.items()))
        raise DatasetError(f"{len(failed)} file(s) can't be read: {reasons}; replace or remove them.")
    return tuple(item for item in items if item)


def _picture(path: Path, whole: bool) -> Item:
    from PIL import Image

    with Image.open(path) as picture:
        if picture.mode[0] in "IF":
            raise ValueError("its 16 or 32 bits a channel would turn white in upstream; save it with 8")
        if whole:
            picture.convert("RGB")
        return Item(path=path, size=picture.size, turned=picture.getexif().get(ORIENTATION, 1) != 1)


def _clip(path: Path, whole: bool) -> Item:
    """Packets are counted rather than trusting the header, which many files leave at 0."""
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        size, rate = (stream.codec_context.width, stream.codec_context.height), stream.average_rate
        if whole:
            stream.thread_type = "AUTO"
            turns = [getattr(frame, "rotation", 0) for frame in container.decode(video=0)]
        else:
            turns = [0 for packet in container.demux(stream) if packet.size and not packet.is_discard]
    if not turns or not rate or not all(size):
        raise ValueError("it holds no frames")
    return Item(path=path, size=size, frames=len(turns), fps=float(rate), turned=any(turns))
