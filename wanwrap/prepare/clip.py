"""A clip's way: looked at, split, decoded, taken at even times, fitted, and written as H.264. All by PyAV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanwrap.data.clips import HDR, Film, standard
from wanwrap.prepare import picture
from wanwrap.prepare.encode import filtered, write
from wanwrap.prepare.manifest import Made
from wanwrap.prepare.preparation import Preparation
from wanwrap.system.files import PART, put, sync
from wanwrap.upstream.buckets import FPS

if TYPE_CHECKING:
    from av import VideoFrame

TAGS = ("color_primaries", "color_trc", "colorspace")
AHEAD = Fraction(15, 32)  # of a source frame, see frames()
CUT = 0.1  # of the brightness by which a scene's first frame differs
# filters that turn a frame as players do, by the signs of a display matrix's a, b, c, d
UPRIGHT: dict[tuple[int, ...], list[tuple[str, str]]] = {
    (0, 1, -1, 0): [("transpose", "clock")],
    (0, -1, 1, 0): [("transpose", "cclock")],
    (-1, 0, 0, -1): [("hflip", ""), ("vflip", "")],
    (1, 0, 0, -1): [("vflip", "")],
    (-1, 0, 0, 1): [("hflip", "")],
    (0, 1, 1, 0): [("transpose", "cclock_flip")],
    (0, -1, -1, 0): [("transpose", "clock_flip")],
}
MATRIX = "bt601"  # the same before and after, whatever it is: the frames' numbers stay, and their tags with them

Piece = tuple[int, int]  # from a frame to another, which is no longer in it


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip or an animation, and what becomes of it: `size`, `rate` and `frames` are those of the result."""

    path: Path
    size: tuple[int, int]  # in pixels
    rate: Fraction  # frames a second
    frames: int  # over all pieces
    changes: tuple[str, ...]  # why it can't stay as it is, in words
    stream: int | None = None  # None: an animation, which Pillow reads
    gap: Fraction = Fraction(0)  # seconds between two source frames, the smallest
    last: Fraction = Fraction(0)  # seconds from the first source frame to the last
    interlaced: bool = False
    turn: tuple[int, ...] = ()  # a key of UPRIGHT
    tags: Mapping[str, int] = field(default_factory=dict)  # what the numbers of its frames mean, which stays
    notes: tuple[str, ...] = ()


def make(clip: Clip, made: Made, work: Preparation) -> None:
    """Cut it, and encode it into the data set, or copy it where nothing is to be changed; `made` tells it.

    Raises:
        OSError, ValueError: it is damaged, or the disk is full; nothing of it stays.
        KeyboardInterrupt: all is being ended.
    """
    scenic = work.scenes and clip.stream is not None and not work.dry_run  # a dry run does not decode
    pieces = split(clip, _scenes(clip, work) if scenic else [0], work.max_seconds)
    kept = [piece for piece in pieces if piece[1] - piece[0] >= work.min_seconds * clip.rate]
    _tell(clip, pieces, kept, made, work)
    if work.dry_run or not kept:
        return
    if made.action == "copied":
        for _ in frames(clip, work):  # damage is met by decoding alone
            continue
        work.copy(clip.path, made.outputs[0])
    else:
        _encode(clip, pieces, dict(zip(kept, made.outputs, strict=True)), work)


def look(path: Path, work: Preparation) -> Clip:
    """Read all packets and the first frames, and tell what to make of it.

    Raises:
        ValueError: it holds no video, or one whose times or colours can't be told, or not all of it.
        OSError: it can't be read (PyAV's errors are OSError or ValueError too).
    """
    import av

    film = Film()
    with av.open(str(path)) as container:
        stream: Any = container.streams.best("video")  # no cover
        if stream is None:
            raise ValueError("it holds no video")
        for packet in container.demux(stream):
            film.take(packet, whole=False)
        film.check_whole(path, container, stream)
        with av.open(str(path)) as anew:  # not every container can be wound back
            first = list[Any](islice(anew.decode(anew.streams[stream.index]), 5))
        if not first:
            raise ValueError("none of its frames can be decoded")
        film.see(first[0])
        if film.alpha:
            raise ValueError("it has an alpha channel, and upstream would train what lies under it; write it without")
        return _plan(stream, film, first, path, work, alone=len(container.streams) == 1)


def _plan(stream: Any, film: Film, first: list[VideoFrame], path: Path, work: Preparation, *, alone: bool) -> Clip:
    gaps, seconds = film.spacing(stream.average_rate)
    gap, longest = min(gaps, default=seconds), max(gaps, default=seconds)
    rate = standard(len(film.times) / seconds)
    made = rate if work.keep_fps and rate >= FPS else Fraction(int(FPS))
    codec, form, interlaced = stream.codec_context, first[0].format, any(frame.interlaced_frame for frame in first)
    shown = _shown(first[0], film, Fraction(1))
    size = fitted(_shown(first[0], film, stream.sample_aspect_ratio or Fraction(1)), work.area)
    made_of = f"{codec.name} {form.name} in {path.suffix[1:].lower()}"
    changes = {
        f"{float(rate):.4g} fps to {float(made):.4g}": rate != made,
        "variable frame rate": longest - gap > 2 * film.base,
        "turned": bool(film.turn),
        "interlaced": interlaced,
        f"{shown[0]}x{shown[1]} to {size[0]}x{size[1]}": size != shown,
        made_of: made_of != "h264 yuv420p in mp4",
        "sound left out": not alone,
    }
    hdr = HDR.get(int(codec.color_trc or 0))
    return Clip(
        path=path,
        size=size,
        rate=made,
        frames=_count(seconds, made),
        changes=tuple(words for words, true in changes.items() if true),
        stream=stream.index,
        gap=gap,
        last=film.seconds,
        interlaced=interlaced,
        turn=film.turn,
        tags={} if form.is_rgb else {name: int(getattr(codec, name) or 0) for name in TAGS},
        notes=(f"HDR ({hdr}): upstream takes it for SDR, and its colours look pale",) if hdr else (),
    )


def animation(path: Path, still: picture.Still, work: Preparation) -> Clip:
    """The same of a moving picture."""
    rate, size = Fraction(int(FPS)), fitted(still.size, work.area)
    return Clip(path=path, size=size, rate=rate, frames=_count(still.seconds, rate), changes=still.reasons)


def _shown(frame: VideoFrame, film: Film, aspect: Fraction) -> tuple[int, int]:
    """The size in which a player shows it: turned, and with square pixels, never more of them than there are."""
    width, height = frame.width, frame.height
    size = (width, round(height / aspect)) if aspect > 1 else (round(width * aspect), height)
    return size[::-1] if film.turn and not film.turn[0] else size


def _count(seconds: Fraction, rate: Fraction) -> int:
    """Frames of a length of time, of which containers round a bit away; at least one."""
    return max(1, math.floor(seconds * rate + Fraction(1, 10)))


def fitted(size: tuple[int, int], area: int) -> tuple[int, int]:
    """Shrunk to that many pixels where it has more, with even sides: H.264's colours come in blocks of 2x2."""
    factor = min(1.0, math.sqrt(area / (size[0] * size[1])))
    width, height = (max(2, int(side * factor + 1e-6) // 2 * 2) for side in size)
    return width, height


def _scenes(clip: Clip, work: Preparation) -> list[int]:
    """The first frames of scenes; the first is 0.

    A cut is where brightness changes by much more than from the frame before to that one.
    """

    def numbered() -> Iterator[VideoFrame]:
        for number, frame in enumerate(islice(frames(clip, work), clip.frames)):
            frame.pts = number
            yield frame

    cuts = filtered(numbered(), [("scale", "320:180"), ("select", f"gt(scene,{CUT})")])
    return [0, *(frame.pts or 0 for frame in cuts)]


def split(clip: Clip, starts: Sequence[int], seconds: Fraction) -> list[Piece]:
    """Each scene in as few pieces of equal length as are not too long; `starts` are the scenes' first frames."""
    pieces, longest = list[Piece](), _count(seconds, clip.rate)
    for begin, end in pairwise([*starts, clip.frames]):
        count = math.ceil((end - begin) / longest)
        edges = [begin + (end - begin) * i // count for i in range(count + 1)]
        pieces += list(pairwise(edges))
    return pieces


def _tell(clip: Clip, pieces: Sequence[Piece], kept: Sequence[Piece], made: Made, work: Preparation) -> None:
    """What becomes of it, in its row."""
    cut, length = len(pieces) > 1, f"{float(clip.frames / clip.rate):.1f} s"
    numbers = [f"_{i:02}" if cut else "" for i in range(1, len(kept) + 1)]
    made.outputs = [f"videos/{made.name}{number}.mp4" for number in numbers]
    made.settings = work.settings()
    if clip.stream is not None:
        del made.settings["background"]
    made.seconds, made.fps = float(sum(end - begin for begin, end in kept) / clip.rate), float(clip.rate)
    if not kept:
        what = "all its pieces are" if cut else f"it is {length} long,"
        made.action, made.reason = "left out", f"{what} less than {float(work.min_seconds):g} s (--min_seconds)"
        return
    made.action = "cut" if cut else "converted" if clip.changes else "copied"
    made.reason = ", ".join((f"{length} into {len(kept)}", *clip.changes) if cut else clip.changes)
    short = [piece for piece in pieces if piece not in kept]
    made.notes = [
        *clip.notes,
        *(f"left out: {float((b - a) / clip.rate):.1f} s at {float(a / clip.rate):.1f} s" for a, b in short),
    ]


def frames(clip: Clip, work: Preparation) -> Iterator[VideoFrame]:
    """Its frames at an even rate: k is what stands at k / rate seconds, or the next source frame where that is nearer.

    Containers round times, to milliseconds in mkv: of two equally near frames it is always the earlier one, by a bit of
    a frame. 24 fps then gives steps of 2, 1, 2, 1 frames, and not 2, 2, 1, 1.

    Raises:
        OSError, ValueError: it is damaged; PyAV's own errors are one of the two.
        KeyboardInterrupt: all is being ended.
    """
    before, number = None, 0
    for time, frame in picture.moving(clip.path, work.background) if clip.stream is None else _decoded(clip, work):
        if work.stop.is_set():
            raise KeyboardInterrupt
        while before is not None and number / clip.rate < time - clip.gap * AHEAD:
            yield before
            number += 1
        before = frame
    while before is not None and number < clip.frames:
        yield before
        number += 1


def _decoded(clip: Clip, work: Preparation) -> Iterator[tuple[Fraction, VideoFrame]]:
    import av

    with av.open(str(clip.path)) as container:
        video: Any = container.streams[clip.stream or 0]
        video.codec_context.options = {"err_detect": "explode"}  # av 14.0.1 crashes on MPEG where it is given to open()
        video.thread_type, video.codec_context.thread_count = "AUTO", work.threads
        decoded: Iterable[VideoFrame] = container.decode(video)
        if clip.interlaced:
            decoded = filtered(decoded, [("bwdif", "mode=send_frame:deint=interlaced")])
        first, time = None, Fraction(0)
        for frame in decoded:
            if frame.is_corrupt or frame.pts is None or frame.time_base is None:
                raise ValueError(f"it is damaged at {float(time):.1f} s")
            first = frame.pts if first is None else first
            time = (frame.pts - first) * frame.time_base
            yield time, frame
        if clip.last - time > 2 / clip.rate:
            raise ValueError(f"only {float(time):.1f} of its {float(clip.last):.1f} s can be decoded")


def _encode(clip: Clip, pieces: Sequence[Piece], names: Mapping[Piece, str], work: Preparation) -> None:
    """Each piece in order into its file, upright and in its size; one without a name is left out.

    Players expect the range that is written; the full range of cameras would stay one.
    """
    width, height = clip.size
    scale = f"{width}:{height}:flags=lanczos:out_range=tv:in_color_matrix={MATRIX}:out_color_matrix={MATRIX}"
    filters = [*UPRIGHT.get(clip.turn, ()), ("scale", scale), ("format", "yuv420p"), ("setsar", "1")]
    shown = filtered(frames(clip, work), filters)
    parts = {piece: (work.out / name).with_name(Path(name).name + PART) for piece, name in names.items()}
    try:
        for begin, end in pieces:
            wanted, part = islice(shown, end - begin), parts.get((begin, end))
            count = write(clip, wanted, part, work.threads) if part else sum(1 for _ in wanted)
            if count < end - begin:
                raise ValueError(f"only {begin + count} of its {clip.frames} frames can be decoded")
        for piece, part in parts.items():  # all are whole
            with part.open("r+b") as file:
                sync(file)
                put(file, part, work.out / names[piece])
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
