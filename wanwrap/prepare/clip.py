"""Raw clips: what PyAV sees in them, and what they must become so that upstream reads them rightly."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from wanwrap.data.clips import HDR
from wanwrap.data.media import COUNTED
from wanwrap.prepare.encode import Piece, Recipe
from wanwrap.upstream.buckets import FPS

STANDARD = tuple(Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120))
HOLE = 60  # seconds without a frame: broken time stamps, or nothing to learn from
TIMED = (".mkv", ".webm")
TAGS = ("color_primaries", "color_trc", "colorspace")
ROUGH = 1 << 14  # of 1 << 16: what turns by 14 degrees or less is not turned
ROUNDING = Fraction(1, 10)  # of a frame: what containers round away of a clip's length


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the user asked for: `area` in pixels, lengths in seconds."""

    keep_fps: bool = False
    area: int = 1920 * 1080
    max_seconds: Fraction = Fraction(5)
    min_seconds: Fraction = Fraction(7, 5)
    scenes: bool = False
    background: str = "#ffffff"


@dataclass(frozen=True, kw_only=True)
class Footage:
    """A clip as it is: `size` is what a player shows, turned and with square pixels."""

    stream: int
    size: tuple[int, int]
    rate: Fraction  # frames a second, on average
    gap: Fraction  # seconds between two frames, the smallest
    seconds: Fraction
    stored: tuple[int, int]
    constant: bool
    turn: tuple[int, ...]  # a key of encode.UPRIGHT; nothing where it is upright
    interlaced: bool
    alpha: bool
    hdr: str | None
    last: Fraction  # seconds from the first frame to the last
    tags: Mapping[str, int]  # how its colours are to be read
    form: str  # what it is made of, in words; nothing where that is H.264 yuv420p in mp4, and no sound


def look(path: Path) -> Footage:
    """Read all packets and the first frames.

    Raises:
        ValueError: it holds no video, or none whose times can be told.
        OSError: it can't be read (PyAV's errors are OSError or ValueError too).
    """
    import av

    with av.open(str(path)) as container:
        stream = next((each for each in container.streams.video if not _cover(each)), None)
        if stream is None:
            raise ValueError("it holds no video")
        every = [p for p in container.demux(stream) if p.size]
        packets = [p for p in every if not p.is_discard]  # a trimmed clip keeps what it doesn't show
        times = sorted(p.pts for p in packets if p.pts is not None)
        base = stream.time_base
        if not times or len(times) < len(packets) or not base:
            raise ValueError(f"{len(packets) - len(times) or 'all'} of its frames have no time")
        if path.suffix.lower() in COUNTED and len(every) < stream.frames - 1:
            raise ValueError(f"it is cut off: {len(every)} of its {stream.frames} frames are there")
        gaps = [(after - before) * base for before, after in pairwise(times) if after > before]
        last = _last(packets, base, gaps, stream.average_rate)
        seconds = (times[-1] - times[0]) * base + last
        if seconds <= 0:
            raise ValueError("its header gives no frame rate, and its frames no times")
        if gaps and max(gaps) > HOLE:
            raise ValueError(f"{float(max(gaps)):.0f} s of it have no frames: its times are broken")
        _check_whole(path, container, stream, seconds)
        gap = min(gaps, default=last)
        fine = {"seconds": seconds, "gap": gap, "constant": max(gaps, default=gap) - gap <= 2 * base}
        fine["last"] = (times[-1] - times[0]) * base
        return _seen(path, container, stream, Fraction(len(times)) / seconds, fine)


def _check_whole(path: Path, container: Any, stream: Any, seconds: Fraction) -> None:
    """Raises ValueError: its end is missing, by what the header says of its length."""
    told = stream.metadata.get("DURATION", "") if path.suffix.lower() in TIMED else ""
    hours, minutes, rest = (*told.split(":"), "0", "0", "0")[:3] if told.count(":") == 2 else ("0", "0", "0")
    meant = int(hours) * 3600 + int(minutes) * 60 + float(rest)
    if not told and path.suffix.lower() in TIMED and len(container.streams) == 1:
        meant = (container.duration or 0) / 1_000_000
    if seconds < 0.95 * meant - 0.5:
        raise ValueError(f"it is cut off: {float(seconds):.1f} of its {meant:.1f} s are there")


def _cover(stream: Any) -> bool:
    """A picture that music carries along."""
    return "ATTACHED_PIC" in str(getattr(stream, "disposition", "")).upper()


def _last(packets: list[Any], base: Fraction, gaps: list[Fraction], rate: Fraction | None) -> Fraction:
    """How long the last frame stands: what its packet says, if it is no longer than the others, else their mean."""
    told = max(packets, key=lambda packet: packet.pts).duration
    mean = sum(gaps, Fraction(0)) / len(gaps) if gaps else (1 / rate if rate else Fraction(0))
    return told * base if told and (not gaps or told * base <= 2 * max(gaps)) else mean


def _seen(path: Path, container: Any, stream: Any, rate: Fraction, fine: dict[str, Any]) -> Footage:
    """The rest, which the first frames tell."""
    frames = list(islice(_decoded(path, stream.index), 5))
    if not frames:
        raise ValueError("none of its frames can be decoded")
    first, codec = frames[0], stream.codec_context
    stored = width, height = first.width, first.height
    turn, aspect = _turn(first), stream.sample_aspect_ratio or Fraction(1)
    # square pixels, and never more of them than there are
    shown = (width, round(height / aspect)) if aspect > 1 else (round(width * aspect), height)
    made_of = (codec.name, first.format.name, path.suffix[1:].lower())
    forms = ["{} {} in {}".format(*made_of)] if made_of != ("h264", "yuv420p", "mp4") else []
    forms += ["sound left out"] if len(container.streams) > 1 else []
    return Footage(
        stream=stream.index,
        size=shown[::-1] if turn and not turn[0] else shown,
        rate=_standard(rate),
        stored=stored,
        turn=turn,
        interlaced=any(frame.interlaced_frame for frame in frames),
        alpha=any(component.is_alpha for component in first.format.components) or first.format.name == "pal8",
        hdr=HDR.get(int(codec.color_trc or 0)),
        tags={} if first.format.is_rgb else {name: int(getattr(codec, name) or 0) for name in TAGS},
        form=", ".join(forms),
        **fine,
    )


def _turn(frame: Any) -> tuple[int, ...]:
    """How players turn and mirror it: signs of the a, b, c, d of libavutil's display matrix, rows (a, b, u), (c, d, v)."""
    for data in frame.side_data:
        if "DISPLAYMATRIX" in str(data.type):
            a, b, _, c, d = struct.unpack_from("<5i", bytes(data))
            turn = tuple((value > ROUGH) - (value < -ROUGH) for value in (a, b, c, d))
            return () if turn == (1, 0, 0, 1) else turn
    return ()


def _decoded(path: Path, index: int) -> Any:
    """Frames from the start: not every container can be wound back."""
    import av

    with av.open(str(path)) as container:
        yield from container.decode(container.streams[index])


def _standard(rate: Fraction) -> Fraction:
    """The rate that is meant: containers round times, and phones keep a rate only nearly."""
    near = min(STANDARD, key=lambda each: abs(each - rate))
    whole = Fraction(round(rate)) if rate > 1 else rate
    best = min((near, whole), key=lambda each: abs(each - rate))
    return best if abs(best - rate) <= rate / 1000 else rate.limit_denominator(1001)


def recipe(seen: Footage, limits: Limits) -> Recipe:
    """What to make of a clip."""
    rate = seen.rate if limits.keep_fps and seen.rate >= FPS else Fraction(int(FPS))
    size = fitted(seen.size, limits.area)
    return Recipe(
        size=size,
        rate=rate,
        frames=max(1, math.floor(seen.seconds * rate + ROUNDING)),
        gap=seen.gap,
        last=seen.last,
        scaled=size != even(seen.size) or seen.size not in (seen.stored, seen.stored[::-1]),
        interlaced=seen.interlaced,
        turn=seen.turn,
        background=limits.background if seen.alpha else None,
        tags={} if seen.alpha else seen.tags,
    )


def longest(recipe: Recipe, limits: Limits) -> int:
    """Most frames of a piece."""
    return max(1, math.floor(limits.max_seconds * recipe.rate + ROUNDING))


def split(scenes: Sequence[int], frames: int, longest: int) -> list[Piece]:
    """Each scene in as few pieces of equal length as are not longer than that."""
    pieces = []
    for begin, end in pairwise([*scenes, frames]):
        count = math.ceil((end - begin) / longest)
        edges = [begin + (end - begin) * i // count for i in range(count + 1)]
        pieces += list(pairwise(edges))
    return pieces


def fitted(size: tuple[int, int], area: int) -> tuple[int, int]:
    """Shrunk to that many pixels where it has more, with even sides."""
    factor = min(1.0, math.sqrt(area / (size[0] * size[1])))
    return even((int(size[0] * factor + 1e-6), int(size[1] * factor + 1e-6))) if factor < 1 else even(size)


def even(size: tuple[int, int]) -> tuple[int, int]:
    """H.264's colours come in blocks of 2x2."""
    return max(2, size[0] // 2 * 2), max(2, size[1] // 2 * 2)


def changes(seen: Footage, made: Recipe) -> list[str]:
    """Why a clip can't stay as it is, in words; none where it can."""
    fps = f"{float(seen.rate):.4g} fps"
    told = {
        f"{fps} to {float(made.rate):.4g}": seen.rate != made.rate,
        "variable frame rate": not seen.constant,
        "turned": bool(seen.turn),
        "interlaced": seen.interlaced,
        "transparent": seen.alpha,
        f"{seen.size[0]}x{seen.size[1]} to {made.size[0]}x{made.size[1]}": made.size != seen.size or made.scaled,
        seen.form: bool(seen.form),
    }
    return [words for words, true in told.items() if true]
