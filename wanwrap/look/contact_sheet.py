"""A page that shows a data set as it will be trained: one file of HTML, with all its pictures in it as data."""

from __future__ import annotations

import base64
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.data import clips
from wanwrap.data.check import Key, Row, bucket_name
from wanwrap.data.media import Item
from wanwrap.errors import OptionError
from wanwrap.look import template
from wanwrap.system import console
from wanwrap.system.process import cores

if TYPE_CHECKING:
    from PIL import Image

GENERATOR = b'content="wanwrap contact sheet"'  # as the template has it
LONGEST = 200  # pixels of a thumbnail's longer side
Figure = tuple[Row, dict[str, object]]  # with the attributes of its picture; none where it can't be shown


def check_place(place: Path) -> None:
    """Raises OptionError: something else would be written over."""
    if place.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--contact_sheet {place} is no .html; give the page such a name.")
    ours = place.is_file() and GENERATOR in place.read_bytes()[:1000]
    if os.path.lexists(place) and not ours:
        raise OptionError(f"{place} is there, and no contact sheet of wanwrap's; give another name.")


def write(place: Path, title: str, summary: Sequence[str], rows: Sequence[Row]) -> None:
    """Write the page. Raises OSError, OutputError: it can't be written."""
    template.write(place, page(title, summary, rows))
    console.say(f"the contact sheet: {place}")


def page(title: str, summary: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """The pieces of the page.

    A file comes under each bucket that it lands in, in the order of their first; what is dropped comes last. A file that
    can't be read is shown without a picture.
    """
    buckets = defaultdict[Key, list[Row]](list)
    for row in rows:
        for key in dict.fromkeys(row.keys) or [()]:
            buckets[key].append(row)
    pool = ThreadPoolExecutor(min(8, cores()))  # each may hold a picture of 100 MP
    with console.bar("thumbnails", sum(map(len, buckets.values()))) as done:

        def figures(group: list[Row], key: Key) -> Iterator[Figure]:
            for figure in pool.map(_figure, group, repeat(key)):
                done()
                yield figure

        ordered = sorted(buckets.items(), key=lambda pair: not pair[0])
        sections = [(bucket_name(key) if key else "Dropped", len(group), figures(group, key)) for key, group in ordered]
        try:
            yield from template.render("contact_sheet.html", title=title, summary=summary, sections=sections)
        finally:
            pool.shutdown(cancel_futures=True)


def _figure(row: Row, key: Key) -> Figure:
    file = io.BytesIO()
    try:
        picture = thumbnail(row.item, key)
        picture.save(file, "JPEG", quality=80)
    except Exception:  # whatever a decoder raises, the file is what is wrong
        return row, {}
    data = base64.b64encode(file.getvalue()).decode()
    return row, {"src": f"data:image/jpeg;base64,{data}", "width": picture.width, "height": picture.height}


def thumbnail(item: Item, key: Key) -> Image.Image:
    """What is trained in a bucket, or all there is without one; `LONGEST` pixels on the longer side, or fewer.

    A clip by its first frame. RGB as upstream makes it: not turned, and what is transparent with its hidden colour. Of
    what sticks out of the bucket the same goes on both sides (dataset/media_utils.py: resize_image_to_bucket).

    Raises:
        Exception: whatever a decoder raises; the file is what is wrong.
    """
    from PIL import Image, ImageOps

    with clips.middle(item.path, 1) if item.kind == "video" else Image.open(item.path) as picture:
        width, height = key[:2] or picture.size
        scale = min(1, LONGEST / max(width, height))
        small = max(1, round(width * scale)), max(1, round(height * scale))
        covers = max(small[0] / picture.width, small[1] / picture.height)
        # a JPEG is decoded at a fraction of its size: far faster
        picture.draft("RGB", (math.ceil(picture.width * covers), math.ceil(picture.height * covers)))
        picture.info.pop("transparency", None)  # it is dropped, about which Pillow would warn
        return ImageOps.fit(picture.convert("RGB"), small, Image.Resampling.LANCZOS)
