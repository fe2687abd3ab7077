"""Pictures and clips as upstream will read them: by Pillow and PyAV, ignoring EXIF, rotation and alpha."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wanwrap.errors import listing

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["image", "video"]

# What upstream looks for, all in lower or all in upper case (dataset/media_utils.py).
IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"}
VIDEOS = {".mp4", ".webm", ".avi", ".mkv", ".mov", ".flv", ".wmv", ".m4v", ".mpg", ".mpeg"}
# What it passes over, and `wanwrap prepare` converts.
OTHER_IMAGES = {".heic", ".heif", ".hif", ".tif", ".tiff", ".gif", ".apng", ".jpe", ".jfif", ".jp2", ".tga", ".ppm"}
OTHER_VIDEOS = {".mts", ".m2ts", ".ts", ".mpe", ".m2v", ".vob", ".3gp", ".3g2", ".ogv", ".mxf", ".asf", ".f4v", ".qt"}
JUNK = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}  # what systems leave in folders, beside hidden files

CAPTION = ".txt"
SAME_FPS = 0.01  # 23.976 and 24 are the same to an eye; 24 and 30 are not
UNEVEN = 1 / 16  # seconds: a frame this far from its even place is another frame to Wan
ORIENTATION = 0x0112  # EXIF
SMALL = 4_000_000  # bytes
SEEN = 200  # pixels of what is looked at for likeness


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture, or a clip with its frames: `size` is (width, height) in pixels, as upstream sees it.

    `mark` is a hash of the content and `look` one of what is to be seen (`alike`); both only where all of the
    file was read.
    """

    path: Path
    size: tuple[int, int]
    frames: int | None = None
    fps: float | None = None
    turned: bool = False  # by EXIF or a rotation, which upstream ignores
    alpha: bool = False  # something is transparent, and upstream trains what lies under it
    cmyk: bool = False
    moving: bool = False  # a picture with several frames, of which upstream takes the first
    uneven: float = 0.0  # seconds by which a frame lies from where an even rate has it, at most
    mark: str = ""
    look: int | None = None
    caption: str = ""


def kind_of(path: Path) -> Kind | None:
    """What upstream takes a file for, by its name alone; None where it passes it over."""
    suffix = path.suffix
    if path.name[0] == "." or suffix not in (suffix.lower(), suffix.upper()):
        return None
    return meant(path, IMAGES, VIDEOS)


MEANT = IMAGES | OTHER_IMAGES, VIDEOS | OTHER_VIDEOS


def meant(path: Path, images: set[str] = MEANT[0], videos: set[str] = MEANT[1]) -> Kind | None:
    """What a person takes a file for, by its name alone."""
    suffix = path.suffix.lower()
    return "image" if suffix in images else "video" if suffix in videos else None


def read(path: Path, kind: Kind, whole: bool) -> Item:
    """One file: from its header and packets, or with `whole` decoded to its end, as upstream does while caching.

    Raises:
        whatever a decoder raises: the file is what is wrong. ValueError: upstream would train it wrongly.
    """
    return _picture(path, whole) if kind == "image" else _clip(path, whole)


def why(path: Path, error: Exception) -> str:
    """Why a file can't be read, in a decoder's words."""
    text = str(getattr(error, "strerror", None) or error)  # PyAV's errors name its functions beside
    return text.replace(str(path), path.name).strip() or type(error).__name__


def middle(path: Path) -> Image:
    """The frame in the middle of a clip, unturned. Raises whatever its decoder raises."""
    import av

    half, frame = (_clip(path, whole=False).frames or 0) // 2, None
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in islice(container.decode(video=0), half + 1):  # noqa: B007  the last of them is meant
            continue
    if frame is None:
        raise ValueError("none of its frames can be decoded")
    image: Image = frame.to_image()
    return image


def _picture(path: Path, whole: bool) -> Item:
    import warnings

    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # upstream only warns, too; twice as large fails
    with Image.open(path) as picture:
        if picture.mode[0] in "IF":
            raise ValueError("its 16 or 32 bits a channel would turn white in upstream; `wanwrap prepare` converts it")
        found: dict[str, Any] = {
            "size": picture.size,
            "turned": picture.getexif().get(ORIENTATION, 1) != 1,
            "cmyk": picture.mode == "CMYK",
            "moving": picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1,
            "alpha": picture.has_transparency_data,
        }
        return Item(path=path, **{**found, **(_seen(path, picture, found["alpha"]) if whole else {})})


def _seen(path: Path, picture: Image, alpha: bool) -> dict[str, Any]:
    """What only decoding tells."""
    from wanwrap.alike import look

    plain = picture.convert("RGB")
    plain.thumbnail((SEEN, SEEN))
    clear = alpha and picture.convert("RGBA").getchannel("A").getextrema()[0] != 255
    return {"mark": _mark(path), "look": look(plain), "alpha": clear}


def _mark(path: Path) -> str:
    import hashlib

    from wanwrap.source import sha256

    small = path.stat().st_size < SMALL  # for which the other one's buffer would be the work
    return hashlib.sha256(path.read_bytes()).hexdigest() if small else sha256(path)


def _clip(path: Path, whole: bool) -> Item:
    """Packets are counted rather than trusting the header, which many files leave at 0."""
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 2
        header = float(stream.average_rate or 0)
        film = _Film()
        for packet in container.demux(stream):
            film.take(packet, whole)
        if film.packets < stream.frames - 1:
            raise ValueError(f"it is cut off: {film.packets} of {stream.frames} frames are there")
        size = film.size or (stream.codec_context.width, stream.codec_context.height)
    times = sorted(film.times)
    if not film.frames or not all(size):
        raise ValueError("it holds no frames")
    fps = _rate(times, header) or (16.0 if film.frames == 1 else 0.0)
    if not fps:
        raise ValueError("nothing in it tells its frame rate; `wanwrap prepare` can convert it")
    return Item(
        path=path,
        size=size,
        frames=film.frames,
        fps=fps,
        turned=film.turned,
        uneven=_uneven(times, fps),
        mark=_mark(path) if whole else "",
        look=film.look,
    )


class _Film:
    """What a clip's packets and frames tell, one after the other."""

    def __init__(self) -> None:
        self.packets = self.frames = 0
        self.times = list[float]()
        self.size: tuple[int, int] | None = None
        self.look: int | None = None
        self.turned = False

    def take(self, packet: Any, whole: bool) -> None:
        """Count a packet; with `whole` decode it."""
        self.packets += bool(packet.size)
        if whole:
            for frame in packet.decode():
                self._frame(frame)
        elif packet.size and not packet.is_discard:
            self._count(packet.pts, packet.time_base)

    def _count(self, pts: int | None, base: Any) -> None:
        self.frames += 1
        if pts is not None:
            self.times.append(float(pts * base))

    def _frame(self, frame: Any) -> None:
        from wanwrap.alike import look

        if frame.is_corrupt:
            raise ValueError(f"it is damaged at {frame.time or 0:.1f} s")
        self._count(frame.pts, frame.time_base)
        self.turned |= bool(getattr(frame, "rotation", 0))
        if self.size is None:
            first = frame.to_image()
            first.thumbnail((SEEN, SEEN))
            self.size, self.look = (frame.width, frame.height), look(first)


def _rate(times: Sequence[float], header: float) -> float:
    """Frames per second: the header's where the frames' own times agree, else theirs."""
    if len(times) < 2 or times[-1] <= times[0]:
        return header
    measured = (len(times) - 1) / (times[-1] - times[0])
    return header if abs(header - measured) <= SAME_FPS * measured else measured


def _uneven(times: Sequence[float], fps: float) -> float:
    """Seconds between a frame and its place at an even rate, at most."""
    return max((abs(time - times[0] - index / fps) for index, time in enumerate(times)), default=0.0)


def caption_of(path: Path, suffix: str = CAPTION) -> str:
    """The caption beside a picture or clip, as upstream reads it.

    Raises:
        ValueError: there is none that can be trained.
    """
    file = path.with_name(path.stem + suffix)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"its caption {file.name} is missing; write what is to be seen into it") from None
    except UnicodeDecodeError:
        raise ValueError(f"its caption {file.name} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"its caption {file.name} can't be read: {error.strerror}") from None
    if "\0" in text:
        raise ValueError(f"its caption {file.name} is not UTF-8 but UTF-16; save it as UTF-8")
    if not text.strip("\ufeff \t\r\n"):
        raise ValueError(f"its caption {file.name} is empty; describe what is to be seen")
    return text.strip()


def warnings(items: Iterable[Item]) -> list[str]:
    """What upstream will train otherwise than a viewer shows it."""
    told = {
        "turned by their own metadata, which upstream ignores": [i for i in items if i.turned],
        "transparent in part, and upstream trains what lies under it": [i for i in items if i.alpha],
        "CMYK, whose colours upstream shifts": [i for i in items if i.cmyk],
        "animated, of which upstream takes the first frame": [i for i in items if i.moving],
        "whose captions begin with a byte order mark, which is trained": [
            i for i in items if i.caption[:1] == "\ufeff"
        ],
    }
    return [f"{what}: {listing(i.path.name for i in which)}." for what, which in told.items() if which]


def awkward(path: Path) -> str | None:
    """Why upstream would pass a file over or end on it, for its name alone."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8, in which lists and data sets are written; rename it"
    if kind_of(path) is None:
        if meant(path, IMAGES, VIDEOS):
            return "upstream passes over an ending in mixed case; write it in small letters"
        return f"upstream reads no {path.suffix}; `wanwrap prepare` converts it"
    if not path.is_file():
        return "it can't be read as a file, on which upstream ends; remove it"
    if len(os.fsencode(path.stem)) > LONGEST:
        return f"its name is too long for the cache, which adds {255 - LONGEST} letters; shorten it"
    return None


LONGEST = 255 - len("_00000-129_1280x0720_wan.safetensors")
