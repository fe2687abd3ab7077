"""A page that shows a data set as it will be trained: one file of HTML, which loads nothing and sends nothing.

All pictures are in it as data; its policy allows its own style and script alone, by their sha256, so that nothing
in a caption or a name could run or load anything even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path
from string import Template

from wanwrap.data.media import Kind
from wanwrap.errors import OptionError
from wanwrap.look.crop import Size, thumbnail
from wanwrap.paths import folder

GENERATOR = b'content="wanwrap contact sheet"'  # as the template has it
LONGEST = 200  # pixels of a thumbnail's longer side
QUALITY = 80
THREADS = min(8, os.cpu_count() or 1)  # each may hold a picture of 100 MP
DROPPED = "Dropped"
NO_TEXT = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")  # bytes of a name that is not UTF-8 come as these


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture or a clip with what is to be said of it: `bucket` is (width, height) in pixels."""

    path: Path
    kind: Kind
    group: str  # the heading it comes under; what is dropped has one of its own
    bucket: Size | None  # None where it is dropped
    facts: str
    caption: str | None
    notes: tuple[str, ...] = ()  # what upstream reads otherwise than one sees it
    reason: str | None = None  # why it is dropped


def check_place(place: Path) -> None:
    """Raises OptionError: something else would be written over."""
    if place.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--contact_sheet {place} is no .html; give the page such a name.")
    ours = place.is_file() and GENERATOR in place.read_bytes()[:1000]
    if os.path.lexists(place) and not ours:
        raise OptionError(f"{place} is there, and no contact sheet of wanwrap's; give another name.")


def page(
    title: str, summary: Sequence[str], items: Sequence[Shown], done: Callable[[], object] = bool
) -> Iterator[str]:
    """The pieces of the page, to be written in UTF-8 one after the other; few thumbnails are in memory at a time.

    Groups come in the order of their first item, what is dropped last. `done` is called after each item. A file
    that can't be read is shown without a picture.
    """
    head, tail = _template(title, summary)
    yield head
    for heading, group in _groups(items).items():
        yield f"<section>\n<h2>{text(heading)} <small>({len(group)})</small></h2>\n<div>\n"
        for figure in _ahead(_figure, group):
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


def _groups(items: Iterable[Shown]) -> dict[str, list[Shown]]:
    groups = dict[str, list[Shown]]()
    for item in sorted(items, key=lambda item: item.reason is not None):
        groups.setdefault(item.group if item.reason is None else DROPPED, []).append(item)
    return groups


def _ahead(make: Callable[[Shown], str], items: Iterable[Shown]) -> Iterator[str]:
    """`map` in threads, in order, that never runs far ahead of who writes the results."""
    waiting, rest = deque[Future[str]](), iter(items)
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            waiting.extend(pool.submit(make, item) for item in islice(rest, 4 * THREADS))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(make, item) for item in islice(rest, 1))
        finally:  # nobody waits for the rest after Ctrl-C
            for future in waiting:
                future.cancel()


def _figure(item: Shown) -> str:
    remarks = [f"Note: {note}" for note in item.notes]
    if item.reason is not None:
        remarks.insert(0, f"{DROPPED}: {item.reason}")
    picture = _picture(item)
    facts = f"{item.facts}, first frame shown" if item.kind == "video" and "<img" in picture else item.facts
    caption = (
        "<p class=none>no caption</p>" if item.caption is None else f'<p lang="" dir=auto>{text(item.caption)}</p>'
    )
    return (
        f"<figure{' class=dropped' if item.reason is not None else ''}>\n{picture}\n<figcaption>\n"
        f'<h3 title="{text(str(item.path))}"><bdi>{text(item.path.name)}</bdi></h3>\n<small>{text(facts)}</small>\n'
        + "".join(f"<strong>{text(remark)}</strong>\n" for remark in remarks)
        + f"{caption}\n</figcaption>\n</figure>\n"
    )


def _picture(item: Shown) -> str:
    try:
        small = thumbnail(item.path, item.kind, item.bucket, LONGEST)
    except Exception:  # whatever a decoder raises, the file is what is wrong
        return "<div class=none>can't be shown</div>"
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" width={small.width} height={small.height} '
        f'alt="{text(item.path.name)}" loading=lazy decoding=async>'
    )
