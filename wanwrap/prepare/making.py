"""One source: whether anything is to be done, and doing it."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.data.media import CAPTION, filled
from wanwrap.prepare import encode, picture
from wanwrap.prepare.caption_text import Wording
from wanwrap.prepare.clip import Limits
from wanwrap.prepare.decide import Action, Decision, Unusable, decide, reading
from wanwrap.prepare.encode import Recipe
from wanwrap.prepare.manifest import Entry
from wanwrap.prepare.sources import Source
from wanwrap.system.files import atomic_file, put, sync

if TYPE_CHECKING:
    from av import VideoFrame


@dataclass(kw_only=True)
class Result:
    """What became of a source: `outputs` are paths in the data set, `seconds` and `fps` those of clips."""

    source: str
    action: Action
    reason: str = ""
    outputs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    fps: float = 0.0
    captioned: bool = True
    entry: Entry | None = None  # to be remembered


@dataclass
class Maker:
    """Makes outputs of sources; its methods may be called by several threads."""

    out: Path
    work: Path
    limits: Limits
    wording: Wording
    threads: int  # of each decoder and encoder
    again: bool = False  # make anew what was removed from the data set
    stop: threading.Event = field(default_factory=threading.Event)  # all is being ended

    def current(self, source: Source, entry: Entry) -> bool:
        """Whether all was made of a source as it is now; what has been removed since is not wanted."""
        if entry.outputs is None or (entry.size, entry.mtime_ns) != (source.size, source.mtime_ns):
            return False
        removed = [name for name in entry.outputs if not (self.out / name).is_file()]
        if removed and (self.again or removed == entry.outputs):
            return not self.again  # whatever the settings
        return all(self._settings.get(name) == value for name, value in entry.settings.items())

    @cached_property
    def _settings(self) -> dict[str, object]:
        limits = {name: str(value) for name, value in asdict(self.limits).items()}
        return {**limits, "recipe": "1"}  # another number when clips come out otherwise

    def plan(self, source: Source, entry: Entry) -> Result:
        """What `make` would do; scenes it can't know."""
        if self.current(source, entry):
            return self._same(source, entry)
        try:
            decision = decide(source, self.limits)
        except Unusable as error:
            return Result(source=source.name, action="failed", reason=str(error))
        return self._told(source, decision, self._names(entry, decision))

    def make(self, source: Source, entry: Entry) -> Result:
        """Make what is not there yet, its captions too.

        Raises:
            OSError: the data set can't be written.
            KeyboardInterrupt: all is being ended.
        """
        try:
            if self.current(source, entry):
                return self._captions(source, entry, self._same(source, entry))
            decision = decide(source, self.limits, self._scenes if self.limits.scenes else None)
            names = self._names(entry, decision)
            self._carry_out(source, entry, decision, names)
        except Unusable as error:
            return Result(source=source.name, action="failed", reason=str(error))
        return self._captions(source, entry, self._told(source, decision, names))

    def _same(self, source: Source, entry: Entry) -> Result:
        """What was made of it before, as far as it is still there."""
        outputs = entry.outputs or []
        there = [name for name in outputs if (self.out / name).is_file()]
        result = Result(source=source.name, action="unchanged", outputs=there, entry=entry)
        result.captioned = all(filled((self.out / name).with_suffix(CAPTION)) for name in there)
        if there:
            result.seconds, result.fps = entry.seconds * len(there) / len(outputs), entry.fps
        if not outputs:
            result.action, result.reason = "left out", entry.reason
        elif len(there) < len(outputs):
            missing = f"{len(outputs) - len(there)} of {len(outputs)} removed from the data set"
            result.action, result.reason = "left out", f"{missing} (--again makes them anew)"
        return result

    def _told(self, source: Source, decision: Decision, names: Sequence[str]) -> Result:
        rate = decision.recipe.rate if decision.recipe else Fraction(1)
        frames = sum(end - begin for begin, end in decision.pieces)
        short = [
            f"left out: {float((end - begin) / rate):.1f} s at {float(begin / rate):.1f} s"
            for begin, end in decision.dropped
        ]
        return Result(
            source=source.name,
            action=decision.action,
            reason=decision.reason,
            outputs=list(names),
            notes=[*decision.notes, *short],
            seconds=float(frames / rate),
            fps=float(rate) if decision.pieces else 0.0,
            captioned=bool(self.wording.template or (source.caption and filled(source.caption))),
        )

    def _names(self, entry: Entry, decision: Decision) -> list[str]:
        """Outputs in the data set; pieces are numbered from 1."""
        count = len(decision.pieces) if decision.recipe else 1
        digits = max(2, len(str(count)))
        numbers = [""] if count == 1 and decision.action != "cut" else [f"_{i + 1:0{digits}}" for i in range(count)]
        return [f"{decision.folder}/{entry.name}{number}{decision.suffix}" for number in numbers]

    def _scenes(self, path: Path, stream: int, recipe: Recipe) -> list[int]:
        with reading():
            shown = encode.decoded(path, stream, recipe, self.threads)
            return [start for start in encode.scenes(self._even(shown, recipe)) if start < recipe.frames]

    def _even(self, shown: encode.Shown, recipe: Recipe) -> Iterator[VideoFrame]:
        """Raises KeyboardInterrupt: all is being ended."""
        for frame in encode.evenly(shown, recipe):
            if self.stop.is_set():
                raise KeyboardInterrupt
            yield frame

    def _carry_out(self, source: Source, entry: Entry, decision: Decision, names: Sequence[str]) -> None:
        recipe = decision.recipe
        if decision.action == "copied":
            if recipe and decision.stream is not None:
                with reading():
                    for _ in self._even(encode.decoded(source.path, decision.stream, recipe, self.threads), recipe):
                        continue  # damage is met by decoding alone
            self._write(names[0], _chunks(source.path))
        elif recipe is None:
            with reading():
                content = picture.png(source.path, self.limits.background)
            self._write(names[0], [content])
        elif names:
            self._encode(source, entry, decision, recipe, names)
        for old in set(entry.outputs or ()) - set(names):
            self._remove(self.out / old, entry)

    def _write(self, name: str, chunks: Iterable[bytes]) -> None:
        with atomic_file(self.out / name) as file:
            file.writelines(chunks)

    def _remove(self, old: Path, entry: Entry) -> None:
        """An output of what the source was before; a caption stays if the user has written into it."""
        caption = old.with_suffix(CAPTION)
        old.unlink(missing_ok=True)
        if caption.is_file() and _digest(caption.read_bytes()) == entry.caption:
            caption.unlink()

    def _encode(self, source: Source, entry: Entry, decision: Decision, recipe: Recipe, names: Sequence[str]) -> None:
        """Encode beside the place; each piece gets its name when all of them are whole."""
        work = self.work / entry.name
        work.mkdir()
        try:
            named = dict(zip(decision.pieces, names, strict=True))
            pieces = {
                piece: work / Path(named[piece]).name if piece in named else None
                for piece in sorted([*decision.pieces, *decision.dropped])
            }
            with reading():
                frames = encode.fitted(self._even(self._shown(source, decision, recipe), recipe), recipe)
                encode.write(frames, pieces, recipe, self.threads)
            for name in names:
                file = work / Path(name).name
                with file.open("r+b") as whole_file:
                    sync(whole_file)
                    put(whole_file, file, self.out / name)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _shown(self, source: Source, decision: Decision, recipe: Recipe) -> encode.Shown:
        if decision.stream is None:
            return encode.animated(picture.moving(source.path, self.limits.background))
        return encode.decoded(source.path, decision.stream, recipe, self.threads)

    def _captions(self, source: Source, entry: Entry, result: Result) -> Result:
        """Write captions that are new; those that the user has changed in the data set stay."""
        try:
            kind = "video" if any(name.startswith("videos/") for name in result.outputs) else "photo"
            text = self.wording.caption(source.caption, source.path, kind)
        except OSError as error:
            text = None
            result.notes.append(f"its caption can't be read: {error.strerror or error}")
        data = None if text is None else text.encode("utf-8", "replace")
        for name in result.outputs if data is not None else ():
            self._caption((self.out / name).with_suffix(CAPTION), data or b"", entry.caption, result)
        result.captioned = all(filled((self.out / name).with_suffix(CAPTION)) for name in result.outputs)
        if result.entry is None:  # it was made just now
            of_clips = kind == "video" or not result.outputs
            settings = self._settings if of_clips else {name: self._settings[name] for name in ("background", "recipe")}
            row = {name: getattr(result, name) for name in ("outputs", "seconds", "fps", "reason")}
            entry = replace(entry, size=source.size, mtime_ns=source.mtime_ns, settings=settings, **row)
        caption = entry.caption if data is None else _digest(data)
        result.entry = replace(entry, caption=caption, pending=False)
        return result

    def _caption(self, path: Path, data: bytes, written: str | None, result: Result) -> None:
        there = path.read_bytes() if path.is_file() else None
        if there == data:
            return
        if there is not None and _digest(there) != written:
            result.notes.append(f"{path.name} has been edited, and stays")
            return
        with atomic_file(path) as file:
            file.write(data)
        if result.action == "unchanged":
            result.reason = "caption written anew"


def _chunks(path: Path) -> Iterator[bytes]:
    with reading(), path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
