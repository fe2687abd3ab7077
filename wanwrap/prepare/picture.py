"""Raw pictures: which upstream reads rightly as they are, and how the others become plain 8-bit sRGB."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.data.media import SEEN, Unfit
from wanwrap.data.pictures import ORIENTATION, transparent
from wanwrap.prepare.manifest import Made
from wanwrap.prepare.preparation import Preparation, check_size
from wanwrap.system.files import atomic_file

if TYPE_CHECKING:
    from av import VideoFrame
    from PIL.Image import Image

# What upstream's Pillow opens: the ending each is kept under. MPO is the JPEG of cameras with a second view.
KEPT = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "AVIF": ".avif"}
MOVING = {"GIF", "PNG", "WEBP", "AVIF"}
SAME = 3  # of 255: a profile that changes no colour by more is sRGB under another name
QUICKEST = 20  # milliseconds; browsers show shorter and missing durations as 100


def opened(path: Path) -> Image:
    """Open a picture of any of the formats. Raises OSError, ValueError and others of Pillow's."""
    import warnings

    import pillow_heif
    from PIL import Image

    pillow_heif.register_heif_opener()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as large is an error, and stays one
    return Image.open(path)


def moves(path: Path) -> bool:
    """Whether it is an animation."""
    with opened(path) as picture:
        return picture.format in MOVING and getattr(picture, "n_frames", 1) > 1


def make(path: Path, made: Made, work: Preparation) -> None:
    """Copy it into the data set, or convert it where upstream would misread it; `made` tells it.

    Raises OSError, ValueError and others of Pillow's: it is damaged, or the disk is full; nothing of it stays.
    """
    with opened(path) as picture:
        check_size(picture.size)
        changes = _changes(path, picture)
        suffix = ".png" if changes else KEPT[picture.format or ""]
        made.action, made.reason = "converted" if changes else "copied", ", ".join(changes)
        made.outputs = [f"images/{made.name}{suffix}"]
        if changes and not work.dry_run:
            with atomic_file(work.out / made.outputs[0]) as file:
                shown = plain(picture, work.background)
                shown.info.clear()  # or its profile is written too
                shown.save(file, "PNG")
    if not (changes or work.dry_run):
        work.copy(path, made.outputs[0])


def _changes(path: Path, picture: Image) -> list[str]:
    """Why it can't stay as it is, in words; all of it is read."""
    form, pages = picture.format or "?", getattr(picture, "n_frames", 1)
    picture.load()
    with path.open("rb") as file:  # Pillow shows some PNGs of 16 bits as 8
        deep = form == "PNG" and file.read(25)[24:] == b"\x10"
    changes = {
        form: form not in KEPT,
        f"the first of {pages} pages": form == "TIFF" and pages > 1,
        "16 bits a channel": picture.mode[0] in "IF" or deep,
        "CMYK": picture.mode == "CMYK",
        "turned by EXIF": picture.getexif().get(ORIENTATION, 1) != 1,
        "transparent": transparent(picture),
        "colour profile": wide(picture),
    }
    return [words for words, true in changes.items() if true]


def wide(picture: Image) -> bool:
    """Whether its profile shows its colours otherwise than sRGB would."""
    from PIL import ImageChops

    if "icc_profile" not in picture.info or picture.mode not in ("RGB", "RGBA", "L", "P"):
        return False
    small = picture.convert("L" if picture.mode == "L" else "RGB")
    small.thumbnail((SEEN, SEEN))
    change = ImageChops.difference(small.convert("RGB"), _srgb(small, picture.info["icc_profile"]))
    return max(change.tobytes()) > SAME


def _srgb(picture: Image, profile: bytes | None) -> Image:
    """RGB through a profile; one that is broken, or for another mode, is none."""
    from PIL import ImageCms

    made = None
    if profile:
        with suppress(ImageCms.PyCMSError, OSError):
            source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            made = ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB")
    return made or picture.convert("RGB")


def plain(picture: Image, background: str) -> Image:
    """8-bit sRGB, upright, on the background: as it looks in a viewer."""
    from PIL import Image, ImageOps

    upright = _eight(ImageOps.exif_transpose(picture))
    bare = upright if upright.mode in ("L", "CMYK") else upright.convert("RGBA").convert("RGB")
    colours = _srgb(bare, picture.info.get("icc_profile"))
    if not transparent(upright):
        return colours
    alpha = upright.convert("RGBA").getchannel("A")
    return Image.composite(colours, Image.new("RGB", colours.size, background), alpha)


def _eight(picture: Image) -> Image:
    """16 bits scaled to 8. Raises Unfit: 32 bits, whose white nobody can know, or CIELAB."""
    if picture.mode in ("I", "F", "LAB"):
        what = "is in CIELAB" if picture.mode == "LAB" else "has 32 bits a channel"
        raise Unfit(f"it {what}; save it as RGB with 8 bits or 16")
    if picture.mode[0] != "I":
        return picture
    return picture.convert("F").point(lambda value: value * (255 / 65535) + 0.5).convert("L")


def moving(path: Path, background: str) -> Iterator[tuple[Fraction, VideoFrame]]:
    """An animation's pictures, each with the seconds after which it is shown."""
    from av import VideoFrame
    from PIL import ImageSequence

    time = Fraction(0)
    with opened(path) as picture:
        for frame in ImageSequence.Iterator(picture):
            stands = _stands(frame)
            yield time, VideoFrame.from_image(plain(frame, background))  # type: ignore[no-untyped-call, unused-ignore]
            time += stands


def _stands(frame: Image) -> Fraction:
    """The seconds that a picture of an animation is shown."""
    frame.load()
    told = frame.info.get("duration", 0) or 0
    return Fraction(round(told) if told >= QUICKEST else 100, 1000)


def seconds(picture: Image) -> Fraction:
    """The length of an animation."""
    from PIL import ImageSequence

    return sum(map(_stands, ImageSequence.Iterator(picture)), Fraction(0))
