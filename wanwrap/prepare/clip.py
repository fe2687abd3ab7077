"""A clip's way: looked at, split, decoded, taken at even times, fitted, and written as H.264. All by PyAV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanwrap.data.clips import HDR, Film, standard
from wanwrap.data.media import Unfit
from wanwrap.prepare import picture
from wanwrap.prepare.encode import filtered, upright, write
from wanwrap.prepare.manifest import Made
from wanwrap.prepare.preparation import Preparation, check_size
from wanwrap.system.files import PART, opened, put, remove, sync
from wanwrap.system.process import check_interrupted
from wanwrap.upstream.buckets import FPS

if TYPE_CHECKING:
    from av import VideoFrame

TAGS = ("color_primaries", "color_trc", "colorspace")
AHEAD = Fraction(15, 32)  # of a source frame, see frames()
CUT = 0.1  # of the brightness by which a scene's first frame differs
MATRIX = "bt601"  # the same before and after, whatever it is: the frames' numbers stay, and their tags with them

Piece = tuple[int, int]  # from a frame to another, which is no longer in it
Shown = Iterator[tuple[Fraction, "VideoFrame"]]  # frames, each with the seconds after which it is shown


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip or an animation, and what becomes of it: `size`, `rate` and `frames` are those of the result."""

    path: Path
    size: tuple[int, int]  # in pixels
    rate: Fraction  # frames a second
    frames: int  # over all pieces
    changes: tuple[str, ...]  # why it can't stay as it is, in words
    shown: Callable[[], Shown]  # its own frames
    gap: Fraction = Fraction(0)  # seconds between two source frames, the smallest
    last: Fraction = Fraction(0)  # seconds from the first source frame to the last
    turn: tuple[int, ...] = ()  # see upright()
    tags: Mapping[str, int] = field(default_factory=dict)  # what the numbers of its frames mean, which stays
    notes: tuple[str, ...] = ()


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
            raise Unfit("it has an alpha channel, and upstream would train what lies under it; write it without")
        beside = {other.type for other in container.streams if other is not stream}
        return _plan(stream, film, first, path, work, beside)


def _plan(stream: Any, film: Film, first: list[VideoFrame], path: Path, work: Preparation, beside: set[str]) -> Clip:
    gaps, seconds = film.spacing(stream.average_rate)
    gap, longest = min(gaps, default=seconds), max(gaps, default=seconds)
    rate = standard(len(film.times) / seconds)
    made = rate if work.keep_fps and rate >= FPS else Fraction(int(FPS))
    codec, form, interlaced = stream.codec_context, first[0].format, any(frame.interlaced_frame for frame in first)
    before = first[0].width, first[0].height
    across = film.turn[:1] == (0,)
    size = fitted(before, work.area, stream.sample_aspect_ratio or Fraction(1), across=across)
    made_of = f"{codec.name} {form.name} in {path.suffix[1:].lower()}"
    changes = {
        f"{float(rate):.4g} fps to {float(made):.4g}": rate != made,
        "variable frame rate": longest - gap > 2 * film.base,
        "turned": bool(film.turn),
        "interlaced": interlaced,
        f"{before[0]}x{before[1]} to {size[0]}x{size[1]}": size != before,
        made_of: made_of != "h264 yuv420p in mp4",
        "sound left out": "audio" in beside,
        "cover or data left out": bool(beside - {"audio"}),
    }
    hdr = HDR.get(int(codec.color_trc or 0))
    return Clip(
        path=path,
        size=size,
        rate=made,
        frames=_count(seconds, made),
        changes=tuple(words for words, true in changes.items() if true),
        shown=partial(_decoded, path, stream.index, interlaced, work.threads),
        gap=gap,
        last=film.seconds,
        turn=film.turn,
        tags={} if form.is_rgb else {name: int(getattr(codec, name) or 0) for name in TAGS},
        notes=(f"HDR ({hdr}): upstream takes it for SDR, and its colours look pale",) if hdr else (),
    )


def animation(path: Path, work: Preparation) -> Clip:
    """The same of a moving picture."""
    rate = Fraction(int(FPS))
    with picture.opened(path) as moving:
        return Clip(
            path=path,
            size=fitted(moving.size, work.area),
            rate=rate,
            frames=_count(picture.seconds(moving), rate),
            changes=(f"moving {moving.format}",),
            shown=partial(picture.moving, path, work.background),
        )


def _count(seconds: Fraction, rate: Fraction) -> int:
    """Frames of a length of time, of which containers round a bit away; at least one."""
    return max(1, math.floor(seconds * rate + Fraction(1, 10)))


def fitted(
    size: tuple[int, int], area: int, aspect: Fraction = Fraction(1), *, across: bool = False
) -> tuple[int, int]:
    """The size in which a player shows it: with square pixels, never more of them than there are, turned where it lies
    `across`. Shrunk to `area` pixels where it has more, with even sides: H.264's colours come in blocks of 2x2.
    """
    width, height = size
    square = (width, round(height / aspect)) if aspect > 1 else (round(width * aspect), height)
    factor = min(1.0, math.sqrt(area / (square[0] * square[1])))
    width, height = (max(2, int(side * factor + 1e-6) // 2 * 2) for side in square)
    return (height, width) if across else (width, height)


def make(clip: Clip, made: Made, work: Preparation) -> None:
    """Cut it, and encode it into the data set, or copy it where nothing is to be changed; `made` tells it.

    Raises:
        OSError, ValueError: it is damaged, or the disk is full; nothing of it stays.
        KeyboardInterrupt: all is being ended.
    """
    check_size(clip.size)
    scenic = work.scenes and clip.last and not work.dry_run  # an animation cuts all the time; a dry run does not decode
    pieces = split(clip, scenes(clip) if scenic else [0], work.max_seconds)
    kept = [piece for piece in pieces if piece[1] - piece[0] >= work.min_seconds * clip.rate]
    _tell(clip, pieces, kept, made, work)
    if work.dry_run or not kept:
        return
    if made.action == "copied":
        for _ in frames(clip):  # damage is met by decoding alone
            continue
        work.copy(clip.path, made.outputs[0])
    else:
        _encode(clip, dict(zip(kept, made.outputs, strict=True)), work)


def scenes(clip: Clip) -> list[int]:
    """The first frames of scenes; the first is 0.

    A cut is where brightness changes by much more than from the frame before to that one.
    """

    def numbered() -> Iterator[VideoFrame]:
        for number, frame in enumerate(islice(frames(clip), clip.frames)):
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
    made.outputs = [f"videos/{made.name}{f'_{i:02}' if cut else ''}.mp4" for i, _ in enumerate(kept, 1)]
    made.seconds, made.fps = float(sum(end - begin for begin, end in kept) / clip.rate), float(clip.rate)
    if not kept:
        what = f"{length} long" if not cut else "all its pieces are"
        made.action, made.reason = "left out", f"{what}, less than {float(work.min_seconds):g} s (--min_seconds)"
        return
    made.action = "cut" if cut else "converted" if clip.changes else "copied"
    made.reason = ", ".join((f"{length} into {len(kept)}", *clip.changes) if cut else clip.changes)
    made.notes = [
        *clip.notes,
        *(
            f"left out: {float((end - begin) / clip.rate):.1f} s at {float(begin / clip.rate):.1f} s"
            for begin, end in pieces
            if (begin, end) not in kept
        ),
    ]


def _encode(clip: Clip, names: Mapping[Piece, str], work: Preparation) -> None:
    """Each piece into its file, upright and in its size; the files get their names when all are whole.

    Players expect the range that is written; the full range of cameras would stay one.
    """
    width, height = clip.size
    scale = f"{width}:{height}:flags=lanczos:out_range=tv:in_color_matrix={MATRIX}:out_color_matrix={MATRIX}"
    shown = filtered(frames(clip), [*upright(clip.turn), ("scale", scale), ("format", "yuv420p"), ("setsar", "1")])
    parts, at = {name: work.out / f"{name}{PART}" for name in names.values()}, 0
    try:
        for (begin, end), name in names.items():
            piece = islice(shown, begin - at, end - at)
            count = write(piece, parts[name], size=clip.size, rate=clip.rate, tags=clip.tags, threads=work.threads)
            if count < end - begin:
                raise ValueError(f"only {begin + count} of its {clip.frames} frames can be decoded")
            at = end
        for name, part in parts.items():
            with opened(part, "r+b") as file:
                sync(file)
                put(file, part, work.out / name)
    finally:
        for part in parts.values():
            remove(part)


def frames(clip: Clip) -> Iterator[VideoFrame]:
    """Its frames at an even rate: k is what stands at k / rate seconds, or the next source frame where that is nearer.

    Containers round times, to milliseconds in mkv: of two equally near frames it is always the earlier one, by a bit of
    a frame. 24 fps then gives steps of 2, 1, 2, 1 frames, and not 2, 2, 1, 1.

    Raises:
        OSError, ValueError: it is damaged; PyAV's own errors are one of the two.
        KeyboardInterrupt: all is being ended.
    """
    before, number, time = None, 0, Fraction(0)
    for time, frame in clip.shown():
        check_interrupted()
        while before is not None and number / clip.rate < time - clip.gap * AHEAD:
            yield before
            number += 1
        before = frame
    if clip.last - time > 2 / clip.rate:
        raise ValueError(f"only {float(time):.1f} of its {float(clip.last):.1f} s can be decoded")
    while before is not None and number < clip.frames:
        yield before
        number += 1


def _decoded(path: Path, index: int, interlaced: bool, threads: int) -> Shown:
    import av

    with av.open(str(path)) as container:
        video: Any = container.streams[index]
        video.codec_context.options = {"err_detect": "explode"}  # av 14.0.1 crashes on MPEG where it is given to open()
        video.thread_type, video.codec_context.thread_count = "AUTO", threads
        decoded: Iterable[VideoFrame] = container.decode(video)
        if interlaced:
            decoded = filtered(decoded, [("bwdif", "mode=send_frame:deint=interlaced")])
        first, time = None, Fraction(0)
        for frame in decoded:
            if frame.is_corrupt or frame.pts is None or frame.time_base is None:
                raise ValueError(f"it is damaged at {float(time):.1f} s")
            first = frame.pts if first is None else first
            time = (frame.pts - first) * frame.time_base
            yield time, frame
