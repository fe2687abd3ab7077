"""Clips as upstream will read them: by PyAV, every frame of the first video, unturned."""

from __future__ import annotations

import gc
import re
import struct
from collections import deque
from fractions import Fraction
from itertools import count, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanwrap.data.media import TRANSPARENT, TURNED, Item, Unfit
from wanwrap.system.safetensors import sha256
from wanwrap.upstream.buckets import FPS

if TYPE_CHECKING:
    from av import VideoFrame
    from PIL.Image import Image

HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics, ITU-T H.273
_READ = count()
COUNTED = {".mp4", ".mov", ".m4v"}  # whose headers count their frames, and can be trusted
TIMED = {".mkv", ".webm"}  # whose headers tell how long they are
ROUGH = 1 << 14  # of 1 << 16: what turns by 14 degrees or less is not turned
USUAL = (*map(Fraction, (16, 24, 25, 30, 48, 50, 60, 120)), *(Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)))
SAME_FPS = 0.01  # 23.976 and 24 are the same to an eye; 24 and 30 are not
HOLE = 60  # seconds without a frame: broken time stamps, or nothing to learn from
UNEVEN = 1 / 16  # seconds: a frame this far from its even place is another frame to Wan


def read(path: Path, whole: bool) -> Item:
    """One clip: from its packets, or with `whole` by all of its frames.

    Packets are counted rather than trusting the header, which many files leave at 0.

    Raises:
        Unfit: upstream would train it wrongly. Else whatever PyAV raises: the file is what is wrong.
    """
    import av

    film = Film()
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # several clips are read at once; each thread would hold frames
        for packet in container.demux(stream):
            film.take(packet, whole)
        film.check_whole(path, container, stream)
        item = _item(path, film, stream, whole)
    if next(_READ) % 32 == 0:  # a container and its streams hold each other, and Python counts objects, not their bytes
        gc.collect()
    return item


def _item(path: Path, film: Film, stream: Any, whole: bool) -> Item:
    """What a clip is, after all of its packets. Raises Unfit, ValueError."""
    codec = stream.codec_context
    size = film.size or (codec.width, codec.height)  # where it changes midway, upstream goes by the first frame
    if not film.frames or not all(size):
        raise ValueError("it holds no frames")
    odd = {
        TURNED: bool(film.turn),
        TRANSPARENT: film.alpha,
        "squeezed: its pixels are no squares, and upstream takes them for such": (stream.sample_aspect_ratio or 1) != 1,
        "HDR, which upstream takes for SDR: its colours come out pale": int(codec.color_trc or 0) in HDR,
    }
    return Item(
        path=path,
        kind="video",
        size=size,
        frames=film.frames,
        fps=film.rate(float(stream.average_rate or 0)),
        odd=tuple(what for what, so in odd.items() if so),
        mark=sha256(path) if whole else "",
        look=film.look,
    )


class Film:
    """What a clip's packets and frames tell, one after the other: `times` and `end` in units of `base` seconds."""

    def __init__(self) -> None:
        self.packets = self.frames = 0
        self.times = list[int]()
        self.end = 0  # when the last frame goes; of packets alone
        self.base = Fraction(0)
        self.size: tuple[int, int] | None = None
        self.look: int | None = None
        self.turn: tuple[int, ...] = ()
        self.alpha = False

    @property
    def seconds(self) -> Fraction:
        """From the first frame to the last."""
        return (max(self.times) - min(self.times)) * self.base if self.times else Fraction(0)

    def take(self, packet: Any, whole: bool) -> None:
        """Count a packet that is shown; with `whole` the frames that it decodes to."""
        self.packets += bool(packet.size)
        frames = packet.decode() if whole else [packet] * (packet.size > 0 and not packet.is_discard)
        for each in frames:  # a trimmed clip keeps what it doesn't show
            if whole:
                self._look_at(each)
            else:
                self.end = max(self.end, (each.pts or 0) + (each.duration or 0))
            self.frames += 1
            if each.pts is not None and each.time_base:
                self.times.append(each.pts)
                self.base = each.time_base

    def check_whole(self, path: Path, container: Any, stream: Any) -> None:
        """Raises ValueError: its end is missing, by what its header says."""
        seconds, shown = float(self.seconds), float((stream.duration or 0) * (stream.time_base or 0))
        if path.suffix.lower() in COUNTED and self.packets < stream.frames - 1 and seconds < 0.9 * shown:
            raise ValueError(f"it is cut off: {self.packets} of its {stream.frames} frames are there")
        if path.suffix.lower() in TIMED and seconds < 0.95 * (told := _told(container, stream)) - 0.6:
            raise ValueError(f"it is cut off: {seconds:.1f} of its {told:.1f} s are there")

    def spacing(self, rate: Fraction | None) -> tuple[list[Fraction], Fraction]:
        """Seconds from each frame to the next, and of all of them; `rate` is the header's.

        Raises:
            ValueError: they can't be told.
        """
        if not self.times or len(self.times) < self.frames or not self.base:
            raise ValueError(f"{self.frames - len(self.times) or 'all'} of its frames have no time")
        times = sorted(self.times)
        gaps = [(after - before) * self.base for before, after in pairwise(times) if after > before]
        mean = self.seconds / len(gaps) if gaps else 1 / rate if rate else Fraction(0)
        last = (self.end - times[-1]) * self.base  # by its packet, where that says no more than others stand
        seconds = self.seconds + (last if last and (not gaps or last <= 2 * max(gaps)) else mean)
        if seconds <= 0:
            raise ValueError("its header gives no frame rate, and its frames no times")
        if gaps and max(gaps) > HOLE:
            raise ValueError(f"{float(max(gaps)):.0f} s of it have no frames: its times are broken")
        return gaps, seconds

    def see(self, frame: VideoFrame) -> None:
        """What the first frame tells of all."""
        self.size = frame.width, frame.height
        self.alpha = any(component.is_alpha for component in frame.format.components)
        self.turn = turn(frame)

    def _look_at(self, frame: Any) -> None:
        from wanwrap.data.alike import look

        if frame.is_corrupt:
            raise ValueError(f"it is damaged at {frame.time or 0:.1f} s")
        if not self.frames:
            self.see(frame)
        if not self.frames & (self.frames - 1):  # the 0th, 1st, 2nd, 4th ...: the last one lies beyond the middle
            self.look = look(frame.to_image())

    def rate(self, header: float) -> float:
        """Frames per second that are meant, by the frames' own times, without those by the header. Raises Unfit."""
        times = [float(time * self.base) for time in sorted(self.times)]
        fps = (len(times) - 1) / float(self.seconds) if self.seconds else header or FPS * (self.frames == 1)
        if not fps:
            raise Unfit("nothing in it tells its frame rate; write it anew with another program, or remove it")
        off = max((abs(time - times[0] - index / fps) for index, time in enumerate(times)), default=0.0)
        if off > UNEVEN:
            raise Unfit(
                f"its frames come at uneven times, up to {off:.2f} s off, and upstream takes them as even; "
                "`wanwrap prepare` mends it"
            )
        return float(standard(Fraction(fps)))


def _told(container: Any, stream: Any) -> float:
    """Seconds that the header of a mkv or webm gives its video; 0 where it doesn't."""
    match = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))
    told = int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else 0.0
    alone = len(container.streams) == 1  # else it is the length of the sound
    return told or (container.duration or 0) / 1_000_000 * alone


def standard(rate: Fraction) -> Fraction:
    """The frame rate that is meant: the usual one that is nearest, within 1 %, since containers round times and phones
    keep a rate only nearly; else the rate to 2 digits.
    """
    near = min(USUAL, key=lambda usual: abs(usual - rate))
    return near if abs(near - rate) <= SAME_FPS * near else round(rate, 2)


def turn(frame: VideoFrame) -> tuple[int, ...]:
    """How players turn and mirror it, by the signs of libavutil's display matrix; nothing where they don't.

    They are those of a, b, c, d in its rows (a, b, u), (c, d, v). PyAV tells it itself only after 14.0.1, upstream's
    pin.
    """
    for data in frame.side_data:
        if "DISPLAYMATRIX" in str(data.type):  # type: ignore[attr-defined, unused-ignore]
            a, b, _, c, d = struct.unpack_from("<5i", bytes(data))  # type: ignore[arg-type, unused-ignore]
            signs = tuple((value > ROUGH) - (value < -ROUGH) for value in (a, b, c, d))
            return () if signs == (1, 0, 0, 1) else signs
    return ()


def middle(path: Path, frames: int) -> Image:
    """The frame in the middle of a clip of so many, unturned. Raises whatever its decoder raises."""
    import av

    with av.open(str(path)) as container:
        last = deque(islice(container.decode(video=0), frames // 2 + 1), maxlen=1)
    if not last:
        raise ValueError("none of its frames can be decoded")
    image: Image = last[0].to_image()  # type: ignore[no-untyped-call, unused-ignore]
    return image
