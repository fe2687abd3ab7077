"""One source: whether anything is to be done, and doing it."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.data.media import CAPTION, filled, why
from wanwrap.errors import FULL, WanwrapError
from wanwrap.prepare import clip, picture
from wanwrap.prepare.caption_text import Wording
from wanwrap.prepare.clip import Clip, Piece
from wanwrap.prepare.manifest import Limits, Made
from wanwrap.prepare.sources import Source
from wanwrap.system.files import atomic_file, put, sync

if TYPE_CHECKING:
    from av import VideoFrame

WORK = ".wanwrap-prepare.tmp"  # in the data set, so that a finished file is moved and not copied


@dataclass
class Maker:
    """Makes outputs of sources as the user asked for; its methods may be called by several threads."""

    out: Path
    limits: Limits
    wording: Wording
    again: bool = False  # make anew what was removed from the data set
    dry_run: bool = False  # only tell; scenes can't be known
    threads: int = 1  # of each decoder and encoder
    stop: threading.Event = field(default_factory=threading.Event)  # all is being ended

    def current(self, source: Source, row: Made) -> bool:
        """Whether all was made of a source as it is now; what has been removed since is not wanted."""
        if row.outputs is None or (row.size, row.mtime_ns) != (source.size, source.mtime_ns):
            return False
        removed = len(row.outputs) - len(self._there(row))
        if removed and (self.again or removed == len(row.outputs)):
            return not self.again  # whatever the settings
        now = self.limits.settings()
        return all(now.get(name) == value for name, value in row.settings.items())

    def _there(self, row: Made) -> list[str]:
        return [name for name in row.outputs or () if (self.out / name).is_file()]

    def make(self, source: Source, row: Made) -> Made:
        """Make what is not there yet, its captions too: the new row, which counts unless it has failed.

        Raises:
            OSError: the data set can't be written.
            KeyboardInterrupt: all is being ended.
        """
        try:
            made = self._same(row) if self.current(source, row) else self._anew(source, row)
        except WanwrapError:
            raise
        except Exception as error:  # whatever a decoder raises, the file is what is wrong
            ours = isinstance(error, OSError) and self.out in Path(str(error.filename)).parents
            if ours or getattr(error, "errno", None) in FULL:
                raise
            reason = f"it can't be read: {why(source.path, error)}" if isinstance(error, OSError) else str(error)
            return replace(row, action="failed", reason=reason or type(error).__name__)
        if not self.dry_run:
            self._captions(source, made)
        if not self.dry_run or made.action == "unchanged":
            made.captioned = all(filled((self.out / name).with_suffix(CAPTION)) for name in made.there)
        else:
            made.captioned = bool(self.wording.template or (source.caption and filled(source.caption)))
        return made

    def _same(self, row: Made) -> Made:
        """What was made of it before, as far as it is still there."""
        outputs, there = row.outputs or [], self._there(row)
        made = replace(row, there=there)
        if not outputs:
            made.action = "left out"
        elif len(there) < len(outputs):
            missing = f"{len(outputs) - len(there)} of {len(outputs)} removed from the data set"
            made.action, made.remark = "left out", f"{missing} (--again makes them anew)"
        else:
            made.remark = ""
        return made

    def _anew(self, source: Source, row: Made) -> Made:
        made = replace(row, size=source.size, mtime_ns=source.mtime_ns, settings=self.limits.settings())
        if source.moving:
            self._clip(clip.look(source.path, self.limits), made)
        else:
            still = picture.look(source.path)
            if still.frames > 1:
                self._clip(clip.animation(source.path, still, self.limits), made)
            else:
                self._picture(source.path, still, made)
        made.there = made.outputs or []
        if not self.dry_run:
            for old in set(row.outputs or ()) - set(made.there):
                self._remove(self.out / old, row)
        return made

    def _remove(self, old: Path, row: Made) -> None:
        """An output of what the source was before; a caption stays if the user has written into it."""
        caption = old.with_suffix(CAPTION)
        old.unlink(missing_ok=True)
        if caption.is_file() and _digest(caption.read_bytes()) == row.caption:
            caption.unlink()

    def _picture(self, path: Path, still: picture.Still, made: Made) -> None:
        made.action, made.reason = "converted" if still.reasons else "copied", ", ".join(still.reasons)
        made.notes, made.outputs = list(still.notes), [f"images/{made.name}{still.suffix}"]
        made.settings = {name: made.settings[name] for name in ("background", "recipe")}
        made.seconds = made.fps = 0.0
        if self.dry_run:
            return
        if still.reasons:
            content = picture.png(path, self.limits.background)
            with atomic_file(self.out / made.outputs[0]) as file:
                file.write(content)
        else:
            self._copy(path, made.outputs[0])

    def _copy(self, path: Path, name: str) -> None:
        with path.open("rb") as source, atomic_file(self.out / name) as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def _clip(self, film: Clip, made: Made) -> None:
        starts = [0]
        if self.limits.scenes and film.stream is not None and not self.dry_run:
            starts = [start for start in clip.scenes(self._frames(film)) if start < film.frames]
        pieces = clip.split(film, starts, self.limits)
        least = self.limits.min_seconds * film.rate
        kept = [piece for piece in pieces if piece[1] - piece[0] >= least]
        self._tell(film, pieces, kept, made)
        if self.dry_run or not kept:
            return
        if made.action == "copied":
            for _ in self._frames(film):
                continue  # damage is met by decoding alone
            self._copy(film.path, made.there[0])
        else:
            self._encode(film, pieces, dict(zip(kept, made.there, strict=True)), made.name)

    def _tell(self, film: Clip, pieces: list[Piece], kept: list[Piece], made: Made) -> None:
        """What becomes of it, in the row."""
        changes, length = list(film.changes), f"{float(film.frames / film.rate):.1f} s"
        made.action = "cut" if len(pieces) > 1 else "converted" if changes else "copied"
        if made.action == "cut":
            changes.insert(0, f"{length} into {len(kept)}")
        if not kept:
            what = "all its pieces are" if len(pieces) > 1 else f"it is {length} long,"
            made.action = "left out"
            changes = [f"{what} less than {float(self.limits.min_seconds):g} s (--min_seconds)"]
        made.reason, made.notes = ", ".join(changes), list(film.notes)
        for begin, end in pieces if kept else ():
            if (begin, end) not in kept:
                short, when = float((end - begin) / film.rate), float(begin / film.rate)
                made.notes.append(f"left out: {short:.1f} s at {when:.1f} s")
        digits = max(2, len(str(len(kept))))
        numbers = [f"_{i + 1:0{digits}}" for i in range(len(kept))] if len(pieces) > 1 else [""] * len(kept)
        made.outputs = [f"videos/{made.name}{number}.mp4" for number in numbers]
        made.there = made.outputs
        made.seconds = float(sum(end - begin for begin, end in kept) / film.rate)
        made.fps = float(film.rate) if kept else 0.0

    def _frames(self, film: Clip) -> Iterator[VideoFrame]:
        """Raises KeyboardInterrupt: all is being ended."""
        for frame in clip.frames(film, self.threads, self.limits.background):
            if self.stop.is_set():
                raise KeyboardInterrupt
            yield frame

    def _encode(self, film: Clip, pieces: list[Piece], names: dict[Piece, str], stem: str) -> None:
        """Encode beside the place; each piece gets its name when all of them are whole."""
        work = self.out / WORK / stem
        work.mkdir()
        try:
            files = {piece: work / Path(names[piece]).name if piece in names else None for piece in pieces}
            clip.write(film, self._frames(film), files, self.threads)
            for name in names.values():
                part = work / Path(name).name
                with part.open("r+b") as file:
                    sync(file)
                    put(file, part, self.out / name)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _captions(self, source: Source, made: Made) -> None:
        """Write captions that are new; those that the user has changed in the data set stay."""
        made.pending = False
        try:
            kind = "video" if any(name.startswith("videos/") for name in made.there) else "photo"
            text = self.wording.caption(source.caption, source.path, kind)
        except OSError as error:
            text = None
            made.notes.append(f"its caption can't be read: {error.strerror or error}")
        if text is not None:
            data = text.encode("utf-8", "replace")
            for name in made.there:
                self._caption((self.out / name).with_suffix(CAPTION), data, made)
            made.caption = _digest(data)

    def _caption(self, path: Path, data: bytes, made: Made) -> None:
        there = path.read_bytes() if path.is_file() else None
        if there == data:
            return
        if there is not None and _digest(there) != made.caption:
            made.notes.append(f"{path.name} has been edited, and stays")
            return
        with atomic_file(path) as file:
            file.write(data)
        if made.action == "unchanged":
            made.remark = "caption written anew"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
