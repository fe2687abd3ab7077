"""Raw pictures: which upstream reads rightly as they are, and how the others become plain 8-bit sRGB."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanwrap.data.media import SEEN
from wanwrap.data.pictures import ORIENTATION

if TYPE_CHECKING:
    from av import VideoFrame
    from PIL.Image import Image

# What upstream's Pillow opens: the ending each is kept under. MPO is the JPEG of cameras with a second view.
KEPT = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "AVIF": ".avif"}
MOVING = {"GIF", "PNG", "WEBP", "AVIF"}
SAME = 3  # of 255: a profile that changes no colour by more is sRGB under another name
QUICKEST = 20  # milliseconds; browsers show shorter and missing durations as 100


@dataclass(frozen=True, kw_only=True)
class Still:
    """A picture: `reasons` why it must be converted (none: it can stay), `frames` of an animation."""

    suffix: str
    reasons: tuple[str, ...]
    size: tuple[int, int]
    frames: int = 1
    notes: tuple[str, ...] = ()


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """Open a picture of any of the formats. Raises OSError, ValueError and others of Pillow's."""
    import warnings

    import pillow_heif
    from PIL import Image

    pillow_heif.register_heif_opener()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as large is an error, and stays one
    with Image.open(path) as picture:
        yield picture


def look(path: Path) -> Still:
    """Read all of it, and tell what it is."""
    with opened(path) as picture:
        form, count = picture.format or "?", getattr(picture, "n_frames", 1)
        if form in MOVING and count > 1:
            return Still(suffix=".mp4", reasons=(f"moving {form}",), size=picture.size, frames=count)
        picture.load()
        with path.open("rb") as file:  # Pillow shows some PNGs of 16 bits as 8
            deep = form == "PNG" and file.read(25)[24:] == b"\x10"
        reasons = (
            (form, form not in KEPT),
            ("16 bits a channel", picture.mode[0] in "IF" or deep),
            (picture.mode, picture.mode in ("CMYK", "YCbCr", "HSV")),
            ("turned by EXIF", picture.getexif().get(ORIENTATION, 1) != 1),
            ("transparent", transparent(picture)),
            ("colour profile", wide(picture)),
        )
        notes = (f"only the first of its {count} pages",) if form == "TIFF" and count > 1 else ()
        why = tuple(reason for reason, true in reasons if true)
        return Still(suffix=".png" if why else KEPT[form], reasons=why, size=picture.size, notes=notes)


def transparent(picture: Image) -> bool:
    """Whether any pixel lets the background through."""
    if not picture.has_transparency_data:
        return False
    lowest: Any = picture.convert("RGBA").getchannel("A").getextrema()
    return bool(lowest[0] < 255)


def wide(picture: Image) -> bool:
    """Whether its profile shows its colours otherwise than sRGB would."""
    from PIL import ImageChops

    if "icc_profile" not in picture.info or picture.mode not in ("RGB", "RGBA", "L", "P"):
        return False
    small = picture.convert("L" if picture.mode == "L" else "RGB")
    small.thumbnail((SEEN, SEEN))
    change = ImageChops.difference(small.convert("RGB"), _srgb(small, picture.info["icc_profile"]))
    return max(change.tobytes()) > SAME


def _srgb(picture: Image, profile: bytes) -> Image:
    """RGB through a profile; a profile that is broken, or for another mode, is none."""
    from PIL import ImageCms

    try:
        made = ImageCms.profileToProfile(
            picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        made = None
    return made or picture.convert("RGB")


def png(path: Path, background: str) -> bytes:
    """The picture as a PNG that looks in upstream as the original does in a viewer."""
    with opened(path) as picture:
        out, made = io.BytesIO(), plain(picture, background)
        made.info.clear()  # or its profile is written too
        made.save(out, "PNG")
        return out.getvalue()


def plain(picture: Image, background: str) -> Image:
    """8-bit sRGB, upright, on the background."""
    from PIL import Image, ImageOps

    profile = picture.info.get("icc_profile")
    upright = ImageOps.exif_transpose(picture)
    shallow = _eight(upright)
    alpha = shallow.convert("RGBA").getchannel("A") if transparent(shallow) else None
    if profile and shallow.mode in ("L", "CMYK"):
        colours = _srgb(shallow, profile)
    else:
        colours = shallow.convert("RGBA").convert("RGB") if alpha else shallow.convert("RGB")
        colours = _srgb(colours, profile) if profile else colours
    if alpha is None:
        return colours
    return Image.composite(colours, Image.new("RGB", colours.size, background), alpha)


def _eight(picture: Image) -> Image:
    """16 bits scaled to 8. Raises ValueError: 32 bits, whose white nobody can know, or CIELAB."""
    if picture.mode in ("I", "F", "LAB"):
        what = "is in CIELAB" if picture.mode == "LAB" else "has 32 bits a channel"
        raise ValueError(f"it {what}; save it as RGB with 8 bits or 16")
    if picture.mode[0] != "I":
        return picture
    return picture.convert("F").point(lambda value: value * (255 / 65535) + 0.5).convert("L")


def moving(path: Path, background: str) -> Iterator[tuple[Fraction, VideoFrame]]:
    """An animation's pictures, each with the seconds after which it is shown."""
    from av import VideoFrame

    time = Fraction(0)
    for picture, milliseconds in _frames(path):
        yield time, VideoFrame.from_image(plain(picture, background))  # type: ignore[no-untyped-call, unused-ignore]
        time += Fraction(milliseconds, 1000)


def _frames(path: Path) -> Iterator[tuple[Image, int]]:
    """Each with the milliseconds that it stands."""
    from PIL import ImageSequence

    with opened(path) as picture:
        for frame in ImageSequence.Iterator(picture):
            frame.load()
            told = frame.info.get("duration", 0) or 0
            yield frame, round(told) if told >= QUICKEST else 100


def seconds(path: Path) -> Fraction:
    """How long an animation is; all of it is decoded."""
    return Fraction(sum(milliseconds for _, milliseconds in _frames(path)), 1000)
