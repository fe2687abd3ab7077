"""Pictures as upstream will read them: by Pillow, unturned and without alpha."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.data.media import SEEN, TRANSPARENT, TURNED, Item, Unfit

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112  # EXIF


def read(path: Path, whole: bool) -> Item:
    """One picture: from its header, or with `whole` decoded to its end, as upstream does while caching.

    Raises:
        Unfit: upstream would train it wrongly. Else whatever Pillow raises: the file is what is wrong.
    """
    import warnings

    from PIL import Image

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # upstream only warns, too; twice as large fails
    with Image.open(path) as picture:
        if picture.mode[0] in "IF":
            raise Unfit("its 16 or 32 bits a channel would turn white in upstream; `wanwrap prepare` converts it")
        odd = {
            TURNED: _turned(picture),
            "CMYK, whose colours upstream shifts": picture.mode == "CMYK",
            "animated, of which upstream takes the first frame": (
                picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1
            ),
            TRANSPARENT: _transparent(picture, whole),
        }
        item = Item(path=path, kind="image", size=picture.size, odd=tuple(what for what, so in odd.items() if so))
        return _seen(item, picture) if whole else item


def _seen(item: Item, picture: Image) -> Item:
    """With the marks of its content and of what is to be seen."""
    import hashlib

    from wanwrap.data.alike import look

    plain = picture.convert("RGB")
    plain.thumbnail((SEEN, SEEN))
    return replace(item, mark=hashlib.sha256(item.path.read_bytes()).hexdigest(), look=look(plain))


def _transparent(picture: Image, whole: bool) -> bool:
    """By its header, or with `whole` by its pixels."""
    clear = picture.has_transparency_data
    return clear and not (whole and picture.convert("RGBA").getchannel("A").getextrema()[0] == 255)


def _turned(picture: Image) -> bool:
    with suppress(Exception):  # EXIF that is broken turns nothing
        return bool(picture.getexif().get(ORIENTATION, 1) != 1)
    return False
