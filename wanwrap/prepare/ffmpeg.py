"""ffmpeg: where it is, and the commands that make clips of constant rate and even size."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from wanwrap.errors import PackageError

PIECES = "%06d.mp4"
AHEAD = Fraction(15, 32)  # of a source frame: see `Recipe.filters`
SCENE = re.compile(r"lavfi\.scd\.time: *([0-9.]+)")


def find() -> str:
    """The system's ffmpeg, else the one that the package imageio-ffmpeg carries.

    Raises:
        PackageError: neither is there, or can write H.264 and see scene cuts.
    """
    import imageio_ffmpeg

    packaged = Path(imageio_ffmpeg.__file__).with_name("binaries").glob("ffmpeg-*")
    candidates = [shutil.which("ffmpeg"), *sorted(str(path) for path in packaged if path.suffix != ".md")]
    for each in candidates:
        if each and _able(each):
            return each
    raise PackageError(
        "there is no ffmpeg with libx264; python -m pip install --force-reinstall imageio-ffmpeg brings one."
    )


def _able(program: str) -> bool:
    """Some systems' builds lack libx264; some of many years ago scdet."""
    from wanwrap.system.process import capture

    try:
        return "libx264" in capture([program, "-v", "error", "-encoders"], {}) and " scdet " in capture(
            [program, "-v", "error", "-filters"], {}
        )
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What becomes of a clip's frames: `size` is (width, height) in pixels, rates are in frames a second."""

    size: tuple[int, int]
    rate: Fraction
    frames: int  # of the result, over all pieces
    gap: Fraction = Fraction(0)  # seconds between two source frames, the smallest
    scaled: bool = False  # else only cropped to even sides
    interlaced: bool = False
    background: str | None = None  # where the source has alpha; #rrggbb

    def filters(self) -> str:
        """Frame k shows the source at k / rate seconds.

        `fps` takes the last source frame that is not later. Containers round times, to milliseconds in mkv: the
        source is moved ahead by half a frame, so that it is the nearest one, and by a bit less, so that of two
        equally near ones it is always the same: 24 fps then gives steps of 2, 1, 2, 1 frames, and not 2, 2, 1, 1.
        """
        width, height = self.size
        steps = ["bwdif=mode=send_frame:deint=interlaced"] if self.interlaced else []
        if self.background:
            red, green, blue = bytes.fromhex(self.background[1:])
            fill = f"lutrgb=r={red}:g={green}:b={blue}:a=255"  # drawbox over alpha crashes some releases
            steps.append(f"format=rgba,split[a][b];[b]{fill}[c];[c][a]overlay=format=rgb")
        steps.append(f"settb=AVTB,setpts=PTS-STARTPTS-{round(self.gap * AHEAD * 1_000_000)}")
        steps.append(f"fps={self.rate}:round=up")
        steps.append(f"scale={width}:{height}:flags=lanczos" if self.scaled else f"crop={width}:{height}:0:0")
        steps.append("scale=out_range=tv,format=yuv420p")  # cameras' full range would stay one
        # the end of the last frame's time is rounded too: it may have to stand for one more
        return ",".join([*steps, "setsar=1", "tpad=stop_mode=clone:stop=2"])


def reading(source: Path, stream: int) -> list[str]:
    """Read one stream of a file, and stop at the first damage instead of painting over it."""
    return ["-xerror", "-err_detect", "explode", "-i", f"file:{source}", "-map", f"0:{stream}"]


def piped(size: tuple[int, int], rate: Fraction) -> list[str]:
    """Read bare RGB frames from standard input."""
    form = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-framerate", str(rate)]
    return [*form, "-i", "pipe:0", "-map", "0:0"]


def encoding(program: str, source: Sequence[str], recipe: Recipe, starts: Sequence[int], threads: int) -> list[str]:
    """One pass over the source that writes `%06d.mp4`, a file a piece; `starts` are the pieces' first frames."""
    # A key frame is forced a bit before its time: the first frame that is not earlier becomes one.
    keys = ",".join(f"{(start - 0.5) / recipe.rate:.6f}" for start in starts[1:])
    cut = ["-force_key_frames", keys, "-segment_frames", ",".join(map(str, starts[1:]))] if keys else []
    # without B-frames each piece begins at 0 and needs no edit list
    h264 = ["-c:v", "libx264", "-preset", "medium", "-crf", "16", "-bf", "0", "-pix_fmt", "yuv420p"]
    bare = ["-an", "-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1"]
    segments = ["-f", "segment", "-segment_format", "mp4", "-reset_timestamps", "1"]
    if not cut:  # the muxer's own default is a piece every 2 seconds
        segments += ["-segment_time", "1000000"]
    return [
        *_quiet(program, threads),
        *source,
        *("-vf", recipe.filters(), "-frames:v", str(recipe.frames), "-r", str(recipe.rate)),
        *(*h264, "-threads", str(threads), *bare, *segments, *cut, PIECES),
    ]


def checking(program: str, source: Path, stream: int, threads: int) -> list[str]:
    """Decode all of it, and write nothing."""
    return [*_quiet(program, threads), *reading(source, stream), "-f", "null", "-"]


def cuts(program: str, source: Path, stream: int, recipe: Recipe, threads: int) -> list[str]:
    """Tell scene cuts on stderr; `scenes` reads them."""
    small = "scale=320:180,scdet=threshold=10"
    quiet = [word if word != "error" else "info" for word in _quiet(program, threads)]
    return [*quiet, *reading(source, stream), "-vf", f"{recipe.filters()},{small}", "-f", "null", "-"]


def _quiet(program: str, threads: int) -> list[str]:
    return [program, "-hide_banner", "-nostats", "-v", "error", "-y", "-threads", str(threads)]


def scenes(told: str, recipe: Recipe) -> list[int]:
    """The first frames of scenes, in order, from what `cuts` said; the first is 0."""
    found = {round(Fraction(time) * recipe.rate) for time in SCENE.findall(told)}
    return [0, *sorted(start for start in found if 0 < start < recipe.frames)]


def even(scenes: Sequence[int], frames: int, longest: int) -> list[tuple[int, int]]:
    """Each scene split into as few pieces of equal length as are not longer than that: (begin, end) in frames."""
    pieces = []
    for begin, end in pairwise([*scenes, frames]):
        count = math.ceil((end - begin) / longest)
        edges = [begin + (end - begin) * i // count for i in range(count + 1)]
        pieces += list(pairwise(edges))
    return pieces
