"""Pictures as upstream will read them: by Pillow, unturned and without alpha."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanwrap.data.media import SEEN, Item, Unfit, content_mark

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
        found: dict[str, Any] = {
            "size": picture.size,
            "turned": _turned(picture),
            "cmyk": picture.mode == "CMYK",
            "moving": picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1,
            "alpha": picture.has_transparency_data,
        }
        return Item(path=path, **{**found, **(_seen(path, picture, found["alpha"]) if whole else {})})


def _turned(picture: Image) -> bool:
    with suppress(Exception):  # EXIF that is broken turns nothing
        return bool(picture.getexif().get(ORIENTATION, 1) != 1)
    return False


def _seen(path: Path, picture: Image, alpha: bool) -> dict[str, Any]:
    """What only decoding tells."""
    from wanwrap.data.alike import look

    plain = picture.convert("RGB")
    plain.thumbnail((SEEN, SEEN))
    clear = alpha and picture.convert("RGBA").getchannel("A").getextrema()[0] != 255
    return {"mark": content_mark(path), "look": look(plain), "alpha": clear}
