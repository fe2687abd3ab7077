"""Pictures and clips as upstream will read them: by Pillow and PyAV, ignoring EXIF, rotation and alpha."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["image", "video"]

# What upstream looks for, all in lower or all in upper case (dataset/media_utils.py).
READ: dict[str, Kind] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"), "image"),
    **dict.fromkeys((".mp4", ".webm", ".avi", ".mkv", ".mov", ".flv", ".wmv", ".m4v", ".mpg", ".mpeg"), "video"),
}
# What it passes over, and `wanwrap prepare` converts.
OTHER_IMAGES = (".heic", ".heif", ".hif", ".tif", ".tiff", ".gif", ".apng", ".jpe", ".jfif", ".jp2", ".tga", ".ppm")
OTHER_VIDEOS = (".mts", ".m2ts", ".ts", ".mpe", ".m2v", ".vob", ".3gp", ".3g2", ".ogv", ".mxf", ".asf", ".f4v", ".qt")
MEANT: dict[str, Kind] = {**READ, **dict.fromkeys(OTHER_IMAGES, "image"), **dict.fromkeys(OTHER_VIDEOS, "video")}
JUNK = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}  # what systems leave in folders, beside hidden files

CAPTION = ".txt"
SEEN = 200  # pixels of what is looked at for likeness

# What of a file is trained otherwise than a viewer shows it.
TURNED = "turned by its metadata, which upstream ignores"
TRANSPARENT = "transparent in part, and upstream trains what lies under it"
MARKED = "a byte order mark begins its caption, and is trained"


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture or a clip, as upstream sees it: `size` is (width, height) in pixels, `fps` frames a second.

    `odd` tells what of it is trained otherwise than a viewer shows it; `problem` why it is not trained, and `stops`
    whether a run stops at that. `mark` is a hash of the content and `look` one of what is to be seen (`alike`); both
    only where all of the file was read.
    """

    path: Path
    kind: Kind
    size: tuple[int, int] = (0, 0)  # where it can't be read
    frames: int = 0
    fps: float = 0.0  # 0 for a picture
    odd: tuple[str, ...] = ()
    mark: str = ""
    look: int | None = None
    caption: str = ""
    problem: str | None = None
    stops: bool = True


def kind_of(path: Path) -> Kind | None:
    """What upstream takes a file for, by its name alone; None where it passes it over."""
    suffix = path.suffix
    passed_over = path.name[0] == "." or suffix not in (suffix.lower(), suffix.upper())
    return None if passed_over else READ.get(suffix.lower())


def meant(path: Path) -> Kind | None:
    """What a person takes a file for, by its name alone."""
    return MEANT.get(path.suffix.lower())


class Unfit(ValueError):
    """A file that would not train as it is; the message says why, and what to do."""


def why(path: Path, error: Exception) -> str:
    """Why a file can't be read, in a decoder's words."""
    text = str(getattr(error, "strerror", None) or error)  # PyAV's errors name its functions beside
    return text.replace(str(path), path.name).strip() or type(error).__name__


def caption_of(path: Path, suffix: str = CAPTION) -> str:
    """The caption beside a picture or clip, as upstream reads it.

    Raises:
        Unfit: there is none that can be trained.
    """
    way = "write what is to be seen, or `wanwrap caption` does"
    file = os.path.splitext(path)[0] + suffix  # noqa: PTH122  plain words: there may be 10,000 of them
    if not os.path.isfile(file):  # noqa: PTH113
        raise Unfit(f"it has no caption ({suffix}); {way}")
    if sys.platform == "win32" and (there := _other_case(file)) and kind_of(path) == "image":
        raise Unfit(
            f"its caption is called {there}, and upstream wants {path.stem}{suffix}, letter by letter; rename it"
        )
    try:
        with open(file, encoding="utf-8") as content:  # noqa: PTH123
            text = content.read().strip()
    except OSError as error:
        raise Unfit(f"its caption ({suffix}) can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unfit(f"its caption ({suffix}) is not UTF-8; save it as UTF-8") from None
    if "\0" in text:
        raise Unfit(f"its caption ({suffix}) holds bytes of 0, as UTF-16 does; save it as plain UTF-8")
    if not text.strip("\ufeff").strip():
        raise Unfit(f"its caption ({suffix}) is empty; {way}")
    return text


def _other_case(file: str) -> str | None:
    """A file's name as the disk has it, where only small and large letters are others; Windows finds it all the same."""
    asked, there = Path(file).name, os.path.basename(os.path.realpath(file))  # noqa: PTH119
    return there if there != asked and there.lower() == asked.lower() else None


def filled(caption: Path) -> bool:
    """Whether a caption's file holds anything, in whatever encoding; one that can't be read is somebody's, too."""
    try:
        return caption.is_file() and bool(caption.read_bytes().removeprefix(b"\xef\xbb\xbf").strip())
    except OSError:
        return True


def holds(caption: str, word: str) -> bool:
    """Whether a word, or several, stands in a caption as such, in large letters or small."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE) is not None


def led_by(word: str | None, caption: str) -> str:
    """The caption with the word in front, where it lacks it."""
    return f"{word}, {caption}" if word and not holds(caption, word) else caption
