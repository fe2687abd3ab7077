"""One source: whether anything is to be done, and doing it."""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from wanwrap.data.media import CAPTION, filled
from wanwrap.prepare import ffmpeg, picture
from wanwrap.prepare.caption_text import Wording
from wanwrap.prepare.clip import Limits
from wanwrap.prepare.decide import Action, Decision, Unusable, decide, reading
from wanwrap.prepare.ffmpeg import Recipe
from wanwrap.prepare.manifest import Entry
from wanwrap.prepare.sources import Source
from wanwrap.system.crew import Crew
from wanwrap.system.files import atomic_file, put, sync

DAMAGE = re.compile(r"invalid|corrupt|truncat|prematurely|exceeds|damaged|error while decod", re.IGNORECASE)


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
    crew: Crew
    threads: int
    again: bool = False  # make anew what was removed from the data set

    @cached_property
    def ffmpeg(self) -> str:
        """Looked for when the first clip needs it."""
        return ffmpeg.find()

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
            return self._same(source, entry, entry.outputs or [])
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
                return self._captions(source, entry, self._same(source, entry, entry.outputs or []))
            decision = decide(source, self.limits, self._scenes if self.limits.scenes else None)
            names = self._names(entry, decision)
            self._carry_out(source, entry, decision, names)
        except Unusable as error:
            return Result(source=source.name, action="failed", reason=str(error))
        return self._captions(source, entry, self._told(source, decision, names))

    def _same(self, source: Source, entry: Entry, outputs: Sequence[str]) -> Result:
        there = [name for name in outputs if (self.out / name).is_file()]
        captioned = all(filled((self.out / name).with_suffix(CAPTION)) for name in there)
        if not outputs:
            return Result(source=source.name, action="left out", reason=entry.reason, entry=entry)
        if len(there) < len(outputs):
            why = f"{len(outputs) - len(there)} of {len(outputs)} removed from the data set (--again makes them anew)"
            return Result(
                source=source.name,
                action="left out",
                reason=why,
                outputs=there,
                seconds=entry.seconds * len(there) / len(outputs),
                fps=entry.fps if there else 0.0,
                captioned=captioned,
                entry=entry,
            )
        return Result(
            source=source.name,
            action="unchanged",
            outputs=list(outputs),
            seconds=entry.seconds,
            fps=entry.fps,
            captioned=captioned,
            entry=entry,
        )

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
        argv = ffmpeg.cuts(self.ffmpeg, path, stream, recipe, self.threads)
        return list(ffmpeg.scenes(self._ffmpeg(argv, self.out), recipe))

    def _carry_out(self, source: Source, entry: Entry, decision: Decision, names: Sequence[str]) -> None:
        if decision.action == "copied":
            if decision.stream is not None:
                argv = ffmpeg.checking(self.ffmpeg, source.path, decision.stream, self.threads)
                _check_sound(self._ffmpeg(argv, self.out))
            self._write(names[0], _chunks(source.path))
        elif decision.recipe is None:
            with reading():
                content = picture.png(source.path, self.limits.background)
            self._write(names[0], [content])
        elif names:
            self._encode(source, entry, decision, decision.recipe, names)
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
            self._encode_in(work, source, decision, recipe, names)
        finally:
            shutil.rmtree(work, ignore_errors=True)  # pieces that are left out take gigabytes

    def _encode_in(self, work: Path, source: Source, decision: Decision, recipe: Recipe, names: Sequence[str]) -> None:
        every = sorted([*decision.pieces, *decision.dropped])
        feed = None
        if decision.stream is None:
            reading = ffmpeg.piped(recipe.size, recipe.rate)
            feed = _guarded(picture.moving(source.path, self.limits.background, recipe.rate, recipe.size))
        else:
            reading = ffmpeg.reading(source.path, decision.stream)
        starts = [begin for begin, _ in every]
        argv = ffmpeg.encoding(self.ffmpeg, reading, recipe, starts, self.threads)
        _check_sound(self._ffmpeg(argv, work, feed))
        files = [work / (ffmpeg.PIECES % index) for index in range(len(every))]
        made = [_count(file) if file.exists() else 0 for file in files]
        if made != [end - begin for begin, end in every]:
            raise Unusable(f"only {sum(made)} of its {recipe.frames} frames can be decoded")
        kept = [file for file, piece in zip(files, every, strict=True) if piece in decision.pieces]
        for file, name in zip(kept, names, strict=True):
            with file.open("r+b") as whole_file:
                sync(whole_file)
                put(whole_file, file, self.out / name)

    def _ffmpeg(self, argv: Sequence[str], cwd: Path, feed: Iterable[bytes] | None = None) -> str:
        """What it told. Raises Unusable: the source is damaged; OSError: the disk is full."""
        status, told = self.crew.run(argv, cwd, feed)
        full = status == -getattr(signal, "SIGXFSZ", 0) != 0
        if full or (status and ("No space left" in told or "File too large" in told)):
            raise OSError(errno.ENOSPC, "the disk is full", str(self.out))
        if status:
            raise Unusable(f"ffmpeg can't decode it: {_words(told) or f'exit status {status}'}")
        return told

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
        settings = self._settings if kind == "video" or not result.outputs else _of_pictures(self._settings)
        before = entry.outputs is not None and result.entry is not None  # nothing was made of it just now
        settings = entry.settings if before else settings
        caption = entry.caption if data is None else _digest(data)
        result.entry = replace(
            entry,
            size=source.size,
            mtime_ns=source.mtime_ns,
            settings=settings,
            outputs=entry.outputs if before else result.outputs,
            seconds=entry.seconds if before else result.seconds,
            fps=entry.fps if before else result.fps,
            caption=caption,
            reason=entry.reason if before else result.reason,
            pending=False,
        )
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


def _of_pictures(settings: dict[str, object]) -> dict[str, object]:
    return {name: settings[name] for name in ("background", "recipe")}


def _guarded(frames: Iterator[bytes]) -> Iterator[bytes]:
    with reading():
        yield from frames


def _chunks(path: Path) -> Iterator[bytes]:
    with reading(), path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def _count(path: Path) -> int:
    """Frames of a finished piece."""
    import av

    with av.open(str(path)) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _check_sound(told: str) -> None:
    """Raises Unusable: containers that are damaged only make ffmpeg complain, and leave frames out."""
    if complaint := next((line for line in told.splitlines() if DAMAGE.search(line)), None):
        raise Unusable(f"it is damaged: {_words(complaint)}")


def _words(told: str) -> str:
    """ffmpeg's first complaint, without the address of who complains, and of what."""
    first = next((line.strip() for line in told.splitlines() if line.strip()), "")
    first = first.partition("] ")[2] if first.startswith("[") else first
    return first.rpartition(": ")[2] if first.startswith("file:") else first


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
