"""Frames through ffmpeg's filters, and into a file of H.264."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanwrap.errors import PackageError

if TYPE_CHECKING:
    from av import VideoFrame

# without B-frames each piece begins at 0 and needs no edit list
OPTIONS = {"preset": "medium", "crf": "16", "bf": "0"}

Filter = tuple[str, str]  # one of ffmpeg's, and its options


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


def write(
    frames: Iterable[VideoFrame],
    file: Path,
    *,
    size: tuple[int, int],
    rate: Fraction,
    tags: Mapping[str, int],
    threads: int,
) -> int:
    """An mp4 of frames of that size in pixels, `rate` a second; how many it has. `tags` tell what their numbers mean."""
    import av

    made, options = 0, {**OPTIONS, "threads": str(threads)}
    with av.open(str(file), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options=options)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        codec = stream.codec_context
        codec.time_base, codec.color_range = 1 / rate, 1
        for name, value in tags.items():
            setattr(codec, name, value)
        for made, frame in enumerate(frames, 1):
            frame.pts, frame.time_base = made - 1, 1 / rate
            frame.pict_type = 0  # type: ignore[assignment, unused-ignore]  # the encoder's to choose
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return made


def upright(turn: tuple[int, ...]) -> list[Filter]:
    """Filters that turn a frame as players do, by the signs of a display matrix's a, b, c, d."""
    a, b, c, d = turn or (1, 0, 0, 1)
    mirrored = [("hflip", "")] * (a + c < 0) + [("vflip", "")] * (b + d < 0)
    return [("transpose", "cclock_flip"), *mirrored] if not a else mirrored


def filtered(frames: Iterable[VideoFrame], filters: Sequence[Filter]) -> Iterator[VideoFrame]:
    """Through ffmpeg's filters, one after the other."""
    graph: Any = None
    for frame in chain(frames, [None]):  # None: that was all
        graph = graph or (frame and _graph(frame, filters))
        if graph:
            graph.push(frame)
            with suppress(BlockingIOError, EOFError):  # it wants more; it is through
                while True:
                    yield graph.pull()


def _graph(frame: VideoFrame, filters: Sequence[Filter]) -> Any:
    from av.filter import Graph

    graph, base = Graph(), frame.time_base or Fraction(1, 1000)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
    nodes = (graph.add(name, text or None) for name, text in filters)
    graph.link_nodes(source, *nodes, graph.add("buffersink")).configure()
    return graph
