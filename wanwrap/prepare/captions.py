"""Captions of what was made: the source's own, or the template's, in UTF-8 and led by the trigger."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from wanwrap.data.media import CAPTION, Unfit, filled, led_by
from wanwrap.errors import OptionError
from wanwrap.prepare.manifest import Made
from wanwrap.prepare.preparation import Preparation
from wanwrap.prepare.sources import Source
from wanwrap.system.files import atomic_file, decode, remove

PLACEHOLDERS = ("{trigger}", "{name}", "{folder}", "{kind}")


def check_template(work: Preparation) -> None:
    """Raises OptionError: it can't be filled in, or says nothing."""
    ways = f"its placeholders are {', '.join(PLACEHOLDERS)}, the first with --trigger"
    try:
        if work.template is not None and not _from_template(work, work.out, "photo").strip():
            raise OptionError(f"--template is empty; {ways}.")
    except (ValueError, LookupError, AttributeError) as error:
        raise OptionError(f"--template {work.template!r} can't be filled in ({error}); {ways}.") from error


def write_captions(source: Source, made: Made, work: Preparation) -> None:
    """Write those that are missing; one that differs stays, unless it is `prepare`'s own and asked for again.

    Raises OSError: the data set can't be written.
    """
    try:
        text = _text(source, work, "video" if any(name.startswith("videos/") for name in made.there) else "photo")
    except (OSError, Unfit) as error:
        text = None
        made.notes.append(f"its caption can't be read: {getattr(error, 'strerror', None) or error}")
    places = [(work.out / name).with_suffix(CAPTION) for name in made.there]
    if text is not None and not work.dry_run:
        _write(places, text.encode("utf-8", "replace"), made, again=work.again)
    made.captioned = (text is not None and work.dry_run) or all(filled(place) for place in places)


def _write(places: Sequence[Path], data: bytes, made: Made, *, again: bool) -> None:
    stay, behind = list[str](), False
    for place in places:
        there = place.read_bytes() if filled(place) else b""
        own = _digest(there) == made.caption
        if there == data:
            continue
        if not there or (own and again):
            with atomic_file(place) as file:
                file.write(data)
            if made.action == "unchanged":
                made.reason = "caption written"
        elif own:
            behind = True
            stay.append(f"{place.name} differs from its source's, and stays (--again writes it anew)")
        else:
            stay.append(f"{place.name} has been edited, and stays")
    made.notes += stay
    if not behind:  # else what is there would be taken for the user's
        made.caption = _digest(data)


def remove_output(path: Path, made: Made) -> None:
    """Remove a picture or clip; its caption stays if the user has written into it."""
    remove(path)
    caption = path.with_suffix(CAPTION)
    if caption.is_file() and _digest(caption.read_bytes()) == made.caption:
        remove(caption)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _text(source: Source, work: Preparation, kind: str) -> str | None:
    """None where there is neither caption nor template. Raises OSError, Unfit: the caption can't be read."""
    caption = source.path.with_suffix(CAPTION)
    if os.path.lexists(caption) and not caption.is_file():
        raise Unfit("it is no regular file, or a link to none")
    text = decoded(caption.read_bytes()) if caption.is_file() else ""
    if not text.strip():
        if work.template is None:
            return None
        text = _from_template(work, source.path, kind)
    return led_by(work.trigger, text.lstrip())


def _from_template(work: Preparation, path: Path, kind: str) -> str:
    words = {"name": re.sub(r"[_\-\s]+", " ", path.stem).strip(), "folder": path.parent.name, "kind": kind}
    return (work.template or "").format(**words, **({"trigger": work.trigger} if work.trigger else {}))


def decoded(data: bytes) -> str:
    """A text in whatever an editor wrote: UTF-8, UTF-16, else Windows' own; `\\n` alone between lines. Raises Unfit."""
    try:
        text = decode(data)
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    if "\0" in text:  # UTF-16 without a mark, or damage: it would be a guess
        raise Unfit("it holds bytes of 0, as UTF-16 does; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")
