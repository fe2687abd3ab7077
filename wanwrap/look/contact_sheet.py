"""A page that shows a data set as it will be trained: one file of HTML, which loads nothing and sends nothing.

All pictures are in it as data; its policy allows its own style and script alone, by their sha256, so that nothing
in a caption or a name could run or load anything even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from itertools import repeat
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from wanwrap.data.check import Key, Row, bucket_name
from wanwrap.data.media import Item, Kind
from wanwrap.errors import OptionError
from wanwrap.paths import folder
from wanwrap.system.process import cores
from wanwrap.upstream.buckets import Size

if TYPE_CHECKING:
    from PIL import Image

GENERATOR = b'content="wanwrap contact sheet"'  # as the template has it
LONGEST = 200  # pixels of a thumbnail's longer side
QUALITY = 80
THREADS = min(8, cores())  # each may hold a picture of 100 MP
AHEAD = 4 * THREADS  # thumbnails
DROPPED = "Dropped"
NO_TEXT = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # bytes of a name that is not UTF-8 come as these


def check_place(place: Path) -> None:
    """Raises OptionError: something else would be written over."""
    if place.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--contact_sheet {place} is no .html; give the page such a name.")
    ours = place.is_file() and GENERATOR in place.read_bytes()[:1000]
    if os.path.lexists(place) and not ours:
        raise OptionError(f"{place} is there, and no contact sheet of wanwrap's; give another name.")


def page(title: str, summary: Sequence[str], rows: Sequence[Row], done: Callable[[], object] = bool) -> Iterator[str]:
    """The pieces of the page, to be written in UTF-8 one after the other; few thumbnails are in memory at a time.

    A file comes under each bucket that it lands in, in the order of their first; what is dropped comes last. `done` is
    called after each figure. A file that can't be read is shown without a picture.
    """
    head, tail = _template(title, summary)
    yield head
    with ThreadPoolExecutor(THREADS) as pool:
        for key, group in _groups(rows).items():
            heading = bucket_name(key) if key else DROPPED
            yield f"<section>\n<h2>{text(heading)} <small>({len(group)})</small></h2>\n<div>\n"
            for start in range(0, len(group), AHEAD):
                for figure in pool.map(_figure, group[start : start + AHEAD], repeat(key)):
                    yield figure
                    done()
            yield "</div>\n</section>\n"
    yield tail


def text(words: str) -> str:
    """Words as HTML that shows them and does nothing else; what is no text is shown as U+FFFD."""
    return escape(NO_TEXT.sub("\ufffd", words))


def _template(title: str, summary: Sequence[str]) -> tuple[str, str]:
    """What comes before the groups, and after them."""
    page = (folder("templates") / "contact_sheet.html").read_text(encoding="utf-8")
    words = {
        "style": _sha256(page, "style"),
        "script": _sha256(page, "script"),
        "title": text(title),
        "summary": "\n".join(f"<li>{text(line)}</li>" for line in summary),
    }
    head, _, tail = page.partition("$groups")
    return Template(head).substitute(words), tail


def _sha256(page: str, tag: str) -> str:
    """A part of the page, as its policy names it."""
    part = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"


def _groups(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    groups, dropped = dict[Key, list[Row]](), list[Row]()
    for row in rows:
        if row.item.problem:
            dropped.append(row)
        for key in dict.fromkeys(row.keys):
            groups.setdefault(key, []).append(row)
    return {**groups, (): dropped} if dropped else groups


def _figure(row: Row, key: Key) -> str:
    item = row.item
    remarks = [f"{DROPPED}: {item.problem}"] if item.problem else []
    remarks += [f"Note: {remark}" for remark in row.remarks]
    picture = _picture(item, (key[0], key[1]) if key else None)
    facts = f"{row.facts}, first frame shown" if item.kind == "video" and "<img" in picture else row.facts
    caption = f'<p lang="" dir=auto>{text(item.caption)}</p>' if item.caption else "<p class=none>no caption</p>"
    return (
        f"<figure{' class=dropped' if item.problem else ''}>\n{picture}\n<figcaption>\n"
        f'<h3 title="{text(str(item.path))}"><bdi>{text(item.path.name)}</bdi></h3>\n<small>{text(facts)}</small>\n'
        + "".join(f"<strong>{text(remark)}</strong>\n" for remark in remarks)
        + f"{caption}\n</figcaption>\n</figure>\n"
    )


def _picture(item: Item, bucket: Size | None) -> str:
    try:
        small = thumbnail(item.path, item.kind, bucket)
    except Exception:  # whatever a decoder raises, the file is what is wrong
        return "<div class=none>can't be shown</div>"
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" width={small.width} height={small.height} '
        f'alt="{text(item.path.name)}" loading=lazy decoding=async>'
    )


def thumbnail(path: Path, kind: Kind, bucket: Size | None) -> Image.Image:
    """What is trained in `bucket`, or all there is without one; `LONGEST` pixels on the longer side, or fewer.

    A clip by its first frame. RGB as upstream makes it: not turned, and what is transparent with its hidden colour. Of
    what sticks out of the bucket the same goes on both sides (dataset/media_utils.py: resize_image_to_bucket).

    Raises:
        Exception: whatever a decoder raises; the file is what is wrong.
    """
    from PIL import Image, ImageOps

    with _first_frame(path) if kind == "video" else Image.open(path) as picture:
        width, height = bucket or picture.size
        scale = min(1, LONGEST / max(width, height))
        small = max(1, round(width * scale)), max(1, round(height * scale))
        covers = max(small[0] / picture.width, small[1] / picture.height)
        # a JPEG is decoded at a fraction of its size: far faster
        picture.draft("RGB", (math.ceil(picture.width * covers), math.ceil(picture.height * covers)))
        picture.info.pop("transparency", None)  # it is dropped, about which Pillow would warn
        return ImageOps.fit(picture.convert("RGB"), small, Image.Resampling.LANCZOS)


def _first_frame(path: Path) -> Image.Image:
    import av

    with av.open(str(path)) as container:
        frame: Image.Image = next(container.decode(video=0)).to_image()
        return frame
