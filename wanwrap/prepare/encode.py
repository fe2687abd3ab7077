"""A clip's frames: decoded, taken at even times, fitted, and written as H.264, a file a piece. All by PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanwrap.errors import PackageError
from wanwrap.prepare.picture import plain

if TYPE_CHECKING:
    from av import VideoFrame
    from PIL.Image import Image

AHEAD = Fraction(15, 32)  # of a source frame, see evenly()
SMALL = (320, 180)  # pixels at which scenes are told apart
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
CUT = 10  # % of the brightness by which a scene's first frame differs from the one before, and from its own pace

Piece = tuple[int, int]  # first frame, and the first that is no longer in it
Shown = Iterator[tuple[Fraction, "VideoFrame"]]  # seconds from the first frame to each


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What becomes of a clip's frames: `size` is (width, height) in pixels, rates are in frames a second."""

    size: tuple[int, int]
    rate: Fraction
    frames: int  # of the result, over all pieces
    gap: Fraction = Fraction(0)  # seconds between two source frames, the smallest
    last: Fraction = Fraction(0)  # seconds from the first source frame to the last
    scaled: bool = False  # else only cropped to even sides
    interlaced: bool = False
    turn: tuple[int, ...] = ()  # a key of UPRIGHT
    background: str | None = None  # where the source has alpha; #rrggbb
    tags: Mapping[str, int] = field(default_factory=dict)  # what the numbers of its frames mean, which stays


def check_encoder() -> None:
    """Raises PackageError: this build of av writes no H.264."""
    import av

    try:
        av.Codec("libx264", "w")
    except ValueError as error:
        raise PackageError(
            "this build of av has no libx264, which writes clips; "
            "python -m pip install --force-reinstall --only-binary av av brings one that has."
        ) from error


def decoded(path: Path, stream: int, recipe: Recipe, threads: int) -> Shown:
    """Each frame with its time, in seconds from the first.

    Raises:
        OSError, ValueError: it is damaged; PyAV's own errors are one of the two.
    """
    import av

    with av.open(str(path)) as container:
        video: Any = container.streams[stream]
        video.codec_context.options = {"err_detect": "explode"}  # av 14.0.1 crashes on MPEG where it is given to open()
        video.thread_type, video.codec_context.thread_count = "AUTO", threads
        frames: Iterable[VideoFrame] = container.decode(video)
        if recipe.interlaced:
            frames = _filtered(frames, [("bwdif", "mode=send_frame:deint=interlaced")])
        first, time = None, Fraction(0)
        for frame in frames:
            if frame.is_corrupt or frame.pts is None or frame.time_base is None:
                raise ValueError(f"it is damaged at {float(time):.1f} s")
            first = frame.pts if first is None else first
            time = (frame.pts - first) * frame.time_base
            yield time, _opaque(frame, recipe.background) if recipe.background else frame
        if recipe.last - time > 2 / recipe.rate:
            raise ValueError(f"only {float(time):.1f} of its {float(recipe.last):.1f} s can be decoded")


def _opaque(frame: VideoFrame, background: str) -> VideoFrame:
    from PIL import Image

    shown = frame.reformat(format="rgba")
    size, plane = (shown.width, shown.height), shown.planes[0]
    return _of_picture(
        plain(Image.frombuffer("RGBA", size, bytes(plane), "raw", "RGBA", plane.line_size, 1), background)
    )


def _of_picture(picture: Image) -> VideoFrame:
    from av import VideoFrame

    frame: VideoFrame = VideoFrame.from_image(picture)  # type: ignore[no-untyped-call, unused-ignore]
    return frame


def animated(pictures: Iterable[tuple[Fraction, Image]]) -> Shown:
    """The same of an animation's pictures."""
    return ((time, _of_picture(picture)) for time, picture in pictures)


def evenly(shown: Shown, recipe: Recipe) -> Iterator[VideoFrame]:
    """Frame k is what stands at k / rate seconds, or the next source frame where that is nearer.

    Containers round times, to milliseconds in mkv: of two equally near frames it is always the earlier one, by a bit of
    a frame. 24 fps then gives steps of 2, 1, 2, 1 frames, and not 2, 2, 1, 1.
    """
    before, number = None, 0
    for time, frame in shown:
        while before is not None and number / recipe.rate < time - recipe.gap * AHEAD:
            yield before
            number += 1
        before = frame
    while before is not None and number < recipe.frames:
        yield before
        number += 1


def fitted(frames: Iterable[VideoFrame], recipe: Recipe) -> Iterator[VideoFrame]:
    """Upright, in the recipe's size and the range of colours that players expect; cameras' full range would stay one."""
    width, height = recipe.size
    crop = [] if recipe.scaled else [("crop", f"{width}:{height}:0:0")]
    scale = f"{width}:{height}:flags=lanczos:out_range=tv:in_color_matrix={MATRIX}:out_color_matrix={MATRIX}"
    filters = [*crop, ("scale", scale), ("format", "yuv420p"), ("setsar", "1")]
    return _filtered(frames, [*UPRIGHT.get(recipe.turn, ()), *filters])


def _filtered(frames: Iterable[VideoFrame], filters: Sequence[tuple[str, str]]) -> Iterator[VideoFrame]:
    """Through ffmpeg's filters, one after the other."""
    graph: Any = None
    for frame in frames:
        graph = graph or _graph(frame, filters)
        graph.push(frame)
        yield from _pulled(graph)
    if graph:
        graph.push(None)
        yield from _pulled(graph)


def _graph(frame: VideoFrame, filters: Sequence[tuple[str, str]]) -> Any:
    from av.filter import Graph

    graph, base = Graph(), frame.time_base or Fraction(1, 1000)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
    graph.link_nodes(
        source, *(graph.add(name, text or None) for name, text in filters), graph.add("buffersink")
    ).configure()
    return graph


def _pulled(graph: Any) -> Iterator[VideoFrame]:
    with suppress(BlockingIOError, EOFError):  # it wants more; it is through
        while True:
            yield graph.pull()


def scenes(frames: Iterable[VideoFrame]) -> list[int]:
    """The first frames of scenes; the first is 0.

    A cut is where brightness changes by much more than from the frame before to that one, as ffmpeg's scdet has it.
    """
    from PIL import Image, ImageChops, ImageStat

    starts, before, pace = [0], None, 0.0
    for number, frame in enumerate(frames):
        plane = frame.reformat(*SMALL, format="gray").planes[0]
        now = Image.frombuffer("L", SMALL, bytes(plane), "raw", "L", plane.line_size, 1)
        if before is not None:
            change = ImageStat.Stat(ImageChops.difference(before, now)).mean[0] * 100 / 256
            starts += [number] if min(change, abs(change - pace)) >= CUT else []
            pace = change
        before = now
    return starts


def _write(file: Path, frames: Iterable[VideoFrame], recipe: Recipe, threads: int) -> int:
    """One piece; how many frames it has."""
    import av

    # without B-frames each piece begins at 0 and needs no edit list
    options = {"preset": "medium", "crf": "16", "bf": "0", "threads": str(threads)}
    number = 0
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("libx264", rate=recipe.rate, options=options)
        (stream.width, stream.height), stream.pix_fmt = recipe.size, "yuv420p"
        codec = stream.codec_context
        codec.time_base, codec.color_range = 1 / recipe.rate, 1
        for name, value in recipe.tags.items():
            setattr(codec, name, value)
        for frame in frames:
            frame.pts, frame.time_base, frame.pict_type = (
                number,
                1 / recipe.rate,
                0,
            )  # its type is the encoder's to choose
            container.mux(stream.encode(frame))
            number += 1
        container.mux(stream.encode())
    return number


def write(frames: Iterator[VideoFrame], pieces: Mapping[Piece, Path | None], recipe: Recipe, threads: int) -> None:
    """Each piece in order into its file; one without a file is left out.

    Raises:
        ValueError: there are fewer frames. OSError: the disk is full. What the frames raise.
    """
    for (begin, end), file in pieces.items():
        part = islice(frames, end - begin)
        made = _write(file, part, recipe, threads) if file else sum(1 for _ in part)
        if made < end - begin:
            raise ValueError(f"only {begin + made} of its {recipe.frames} frames can be decoded")
