"""Pictures as upstream will read them: by Pillow, unturned and without alpha."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.data.media import TRANSPARENT, TURNED, Item, Unfit
from wanwrap.system.safetensors import sha256

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

    from wanwrap.data.alike import look

    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # upstream only warns, too; twice as large fails
    with Image.open(path) as picture:
        if picture.mode[0] in "IF":
            raise Unfit("its 16 or 32 bits a channel would turn white in upstream; `wanwrap prepare` converts it")
        if whole:
            picture.load()  # before all else: of damage Pillow tells the first time only
        odd = {
            TURNED: _turned(picture),
            "CMYK, whose colours upstream shifts": picture.mode == "CMYK",
            "animated, of which upstream takes the first frame": (
                picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1
            ),
            TRANSPARENT: transparent(picture, whole),
        }
        return Item(
            path=path,
            kind="image",
            size=picture.size,
            odd=tuple(what for what, so in odd.items() if so),
            mark=sha256(path) if whole else "",
            look=look(picture) if whole else None,
        )


def transparent(picture: Image, whole: bool = True) -> bool:
    """Whether the background shows through: by its header, or with `whole` by its pixels."""
    clear = picture.has_transparency_data
    return clear and not (whole and picture.convert("RGBA").getchannel("A").getextrema()[0] == 255)


def _turned(picture: Image) -> bool:
    from PIL import Image

    with suppress(Exception):  # EXIF that is broken turns nothing
        return bool(Image.Image.getexif(picture).get(ORIENTATION, 1) != 1)  # PNG's own decodes all of it for that
    return False
