"""One source: whether anything is to be done, and doing it, with its captions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wanwrap.data.media import CAPTION, filled, why
from wanwrap.errors import FULL, WanwrapError
from wanwrap.prepare import clip, picture
from wanwrap.prepare.manifest import Made
from wanwrap.prepare.preparation import Preparation
from wanwrap.prepare.sources import Source
from wanwrap.system.files import atomic_file


def as_it_was(source: Source, row: Made, work: Preparation) -> Made | None:
    """What was made of a source as it is now, as far as it is still there; None where it is to be made anew.

    What somebody has removed since is not wanted, whatever the settings.
    """
    if not row.outputs or (row.size, row.mtime_ns) != (source.size, source.mtime_ns):
        return None
    there = [name for name in row.outputs if (work.out / name).is_file()]
    if removed := len(row.outputs) - len(there):
        reason = f"{removed} of {len(row.outputs)} removed from the data set (--again makes them anew)"
        return None if work.again else replace(row, source=source.name, there=there, action="left out", reason=reason)
    same = row.settings.items() <= work.settings().items()
    return replace(row, source=source.name, there=there) if same else None


def make(source: Source, row: Made, work: Preparation) -> Made:
    """Make the outputs of a source; its row is a new one, which counts unless it has failed.

    Raises:
        OSError: the data set can't be written.
        KeyboardInterrupt: all is being ended.
    """
    made = replace(row, source=source.name, size=source.size, mtime_ns=source.mtime_ns)
    try:
        _make(source, made, work)
    except WanwrapError:
        raise
    except Exception as error:  # whatever a decoder raises, the file is what is wrong
        ours = isinstance(error, OSError) and work.out in Path(str(error.filename)).parents
        if ours or getattr(error, "errno", None) in FULL:
            raise
        reason = f"it can't be read: {why(source.path, error)}" if isinstance(error, OSError) else str(error)
        return replace(row, source=source.name, action="failed", reason=reason or type(error).__name__)
    made.there = made.outputs
    if not work.dry_run:
        _remove(row, {*row.outputs} - {*made.outputs}, work.out)
    return made


def _make(source: Source, made: Made, work: Preparation) -> None:
    if source.moving:
        clip.make(clip.look(source.path, work), made, work)
        return
    still = picture.look(source.path)
    if still.seconds:
        clip.make(clip.animation(source.path, still, work), made, work)
    else:
        picture.make(source.path, still, made, work)


def _remove(row: Made, names: set[str], out: Path) -> None:
    """Outputs of what the source was before; a caption stays if the user has written into it."""
    for old in (out / name for name in names):
        old.unlink(missing_ok=True)
        caption = old.with_suffix(CAPTION)
        if caption.is_file() and _digest(caption.read_bytes()) == row.caption:
            caption.unlink()


def caption(source: Source, made: Made, work: Preparation) -> None:
    """Write the captions that are missing; one that differs stays, unless it is `prepare`'s own and asked for again.

    Raises OSError: the data set can't be written.
    """
    try:
        kind = "video" if any(name.startswith("videos/") for name in made.there) else "photo"
        text = work.caption(source.caption, source.path, kind)
    except OSError as error:
        text = None
        made.notes.append(f"its caption can't be read: {error.strerror or error}")
    places = [(work.out / name).with_suffix(CAPTION) for name in made.there]
    if text is not None and not work.dry_run:
        _write(places, text.encode("utf-8", "replace"), made, again=work.again)
    made.captioned = (text is not None and work.dry_run) or all(filled(place) for place in places)


def _write(places: Sequence[Path], data: bytes, made: Made, *, again: bool) -> None:
    kept, wrote = list[str](), False
    for place in places:
        there = place.read_bytes() if filled(place) else b""
        own = _digest(there) == made.caption
        if there == data:
            continue
        if there and not (own and again):
            why_not = (
                "differs from its source's, and stays (--again writes it anew)" if own else "has been edited, and stays"
            )
            kept.append(f"{place.name} {why_not}")
            continue
        with atomic_file(place) as file:
            file.write(data)
        wrote = True
        if made.action == "unchanged":
            made.reason = "caption written"
    made.notes += kept
    if wrote or not kept:
        made.caption = _digest(data)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
