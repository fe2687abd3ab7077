"""`wanwrap prepare`: what comes out shows what went in, at its time; nothing is done twice; originals stay."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import pytest
from helpers import PYTHONPATH, Wanwrap, captioned, picture
from PIL import Image, ImageCms, ImageDraw
from raw import SIZE, footage, noise, number, numbers, pattern

from wanwrap.data import clips
from wanwrap.data.clips import turn
from wanwrap.errors import DatasetError, PackageError
from wanwrap.prepare.encode import check_encoder
from wanwrap.prepare.naming import LONGEST, Names, safe
from wanwrap.prepare.preparation import decoded

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()  # writes what PyAV can't: rotations, other streams' sound
RATES = [Fraction(16), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


Prepare = Callable[..., dict[str, Any]]


@pytest.fixture
def prepare(wanwrap: Wanwrap, raw: Path, out: Path) -> Prepare:
    """Run it, and have what it tells; `code` is the exit code that it must end with."""

    def call(*options: object, code: int = 0, **env: str) -> dict[str, Any]:
        least = () if "--min_seconds" in options else ("--min_seconds", 0)  # most clips here are short
        done = wanwrap("prepare", raw, "--out", out, "--json", *least, *options, **env)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    return call


def item(told: dict[str, Any], source: str) -> dict[str, Any]:
    """What was told of one source."""
    found = [each for each in told["items"] if each["source"] == source]
    assert len(found) == 1, told
    return dict(found[0])


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that may not change: places, kinds, contents, times."""
    found = dict[str, tuple[object, ...]]()
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else None
        found[str(path)] = (about.st_mode, about.st_ino, about.st_mtime_ns, about.st_size, content)
    return found


def prepared(told: dict[str, Any], out: Path, source: str) -> list[int]:
    """The numbers of the frames of all pieces, one after the other."""
    return [n for name in item(told, source)["outputs"] for n in numbers(out / name)]


def stream(path: Path) -> Any:
    with av.open(str(path)) as container:
        assert [each.type for each in container.streams] == ["video"]
        codec = container.streams.video[0]
        times = [packet.pts * packet.time_base for packet in container.demux(codec) if packet.size]
        assert {b - a for a, b in itertools.pairwise(times)} <= {1 / codec.average_rate}
        assert times[0] == 0
        assert (codec.codec_context.name, codec.codec_context.pix_fmt) == ("h264", "yuv420p")
        return codec.average_rate, (codec.codec_context.width, codec.codec_context.height), len(times)


# clips


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("fps", RATES, ids=lambda fps: f"{float(fps):.4g}")
def test_each_frame_shows_what_stood_there_at_its_time(prepare: Prepare, raw: Path, out: Path, fps: Fraction, ending: str) -> None:  # fmt: skip
    frames = int(Fraction(123, 10) * fps)
    footage(raw / f"clip.{ending}", frames, fps)
    told = prepare("--template", "a clip")
    outputs = item(told, f"clip.{ending}")["outputs"]
    assert outputs == ["videos/clip_01.mp4", "videos/clip_02.mp4", "videos/clip_03.mp4"]
    lengths = []
    for name in outputs:
        rate, size, count = stream(out / name)
        assert (rate, size) == (16, SIZE)
        lengths.append(count)
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= 80
    assert abs(sum(lengths) - Fraction(frames) / fps * 16) <= 1
    for k, shown in enumerate(prepared(told, out, f"clip.{ending}")):
        # the frame that stands at k/16 s, or the next one where that is nearer; mkv rounds times to 1 ms
        assert abs(Fraction(shown) / fps - Fraction(k, 16)) <= Fraction(17, 32) / fps + Fraction(1, 1000), k


def test_nothing_is_lost_or_doubled_at_16_fps(prepare: Prepare, raw: Path, out: Path) -> None:
    footage(raw / "clip.mkv", 200)
    assert prepared(prepare("--template", "x"), out, "clip.mkv") == list(range(200))


def test_variable_frame_rate(prepare: Prepare, raw: Path, out: Path) -> None:
    """A second at 30 fps, a frame that stands for one, a second at 20."""
    times = [Fraction(i, 30) for i in range(30)] + [Fraction(1)] + [2 + Fraction(i, 20) for i in range(20)]
    footage(raw / "clip.mp4", len(times), 30, times=times)
    told = prepare("--template", "x")
    assert "variable frame rate" in item(told, "clip.mp4")["reason"]
    shown = prepared(told, out, "clip.mp4")
    assert 47 <= len(shown) <= 49
    for k, n in enumerate(shown[:47]):
        standing = max(i for i, when in enumerate(times) if when <= Fraction(k, 16))
        assert n in (standing, standing + 1), k
        assert abs(times[n] - Fraction(k, 16)) <= Fraction(1, 60) or n == standing


def test_keep_fps(prepare: Prepare, raw: Path, out: Path, wanwrap: Wanwrap) -> None:
    footage(raw / "fast.mkv", 80, 30)
    footage(raw / "slow.mp4", 30, 12)
    told = prepare("--keep_fps", "--template", "x")
    assert prepared(told, out, "fast.mkv") == list(range(80))
    assert stream(out / "videos/fast.mp4")[0] == 30
    assert stream(out / "videos/slow.mp4")[0] == 16  # slower than upstream takes
    assert "16, 30 fps" in wanwrap("prepare", raw, "--out", out, "--keep_fps").stdout


def test_what_is_right_is_copied(prepare: Prepare, raw: Path, out: Path) -> None:
    clip = footage(raw / "clip.mp4", 40)
    told = prepare("--template", "x")
    assert item(told, "clip.mp4")["action"] == "copied"
    assert (out / "videos/clip.mp4").read_bytes() == clip.read_bytes()


def test_150_frames_of_ntsc_are_one_piece(prepare: Prepare, raw: Path, out: Path) -> None:
    """5.005 s: nobody wants two halves for the sake of 5 ms."""
    footage(raw / "clip.mp4", 150, Fraction(30000, 1001))
    assert item(prepare("--template", "x"), "clip.mp4")["outputs"] == ["videos/clip.mp4"]
    assert stream(out / "videos/clip.mp4")[2] == 80


def test_sizes(prepare: Prepare, raw: Path, out: Path) -> None:
    footage(raw / "odd.mkv", 16, size=(161, 49), form="yuv444p")
    footage(raw / "large.mp4", 16, size=(640, 320))
    prepare("--max_size", "320x160", "--template", "x")
    assert stream(out / "videos/odd.mp4")[1] == (160, 48)
    assert stream(out / "videos/large.mp4")[1] == (320, 160)


def test_turned_by_metadata(prepare: Prepare, raw: Path, out: Path, tmp_path: Path) -> None:
    upright = footage(tmp_path / "upright.mp4", 24, size=(160, 48))
    turned = [
        FFMPEG,
        "-v",
        "error",
        "-display_rotation",
        "90",
        "-i",
        str(upright),
        "-c",
        "copy",
        str(raw / "clip.mp4"),
    ]
    if subprocess.run(turned).returncode:  # before ffmpeg 6 there was another way
        (raw / "clip.mp4").unlink(missing_ok=True)
        subprocess.run([FFMPEG, "-v", "error", "-i", upright, "-c", "copy", "-metadata:s:v", "rotate=-90", raw / "clip.mp4"], check=True)  # fmt: skip
    with av.open(str(raw / "clip.mp4")) as container:
        across, angle = turn(next(container.decode(video=0)))[:2]
    assert (across, abs(angle)) == (0, 1)
    told = prepare("--template", "x")
    assert "turned" in item(told, "clip.mp4")["reason"]
    assert stream(out / "videos/clip.mp4")[1] == (48, 160)
    with av.open(str(out / "videos/clip.mp4")) as container:
        frames = list(container.decode(video=0))
    assert not any(turn(frame) for frame in frames)
    back = [number(frame.to_image().rotate(90 * angle, expand=True)) for frame in frames]
    assert back == list(range(24))


def test_pixels_that_are_not_square(prepare: Prepare, raw: Path, out: Path, tmp_path: Path) -> None:
    plain = footage(tmp_path / "plain.mp4", 16, size=(160, 64))
    subprocess.run([FFMPEG, "-v", "error", "-i", plain, "-vf", "setsar=2", raw / "wide.mp4"], check=True)
    prepare("--template", "x")
    assert stream(out / "videos/wide.mp4")[1] == (160, 32)


def test_interlaced_and_10_bit(prepare: Prepare, raw: Path, out: Path) -> None:
    footage(raw / "old.mpg", 50, 25, codec="mpeg2video", options={"flags": "+ildct+ilme", "b": "4M"})
    footage(raw / "deep.mkv", 50, 25, codec="libx265", form="yuv420p10le", options={"x265-params": "log-level=none"})
    told = prepare("--template", "x")
    assert "interlaced" in item(told, "old.mpg")["reason"]
    assert "yuv420p10le" in item(told, "deep.mkv")["reason"]
    for name in ("old", "deep"):
        assert stream(out / f"videos/{name}.mp4")[2] == 32
        assert all(abs(n - k * 25 / 16) <= 1 for k, n in enumerate(numbers(out / f"videos/{name}.mp4")))


def test_hdr_is_said(prepare: Prepare, raw: Path, tmp_path: Path) -> None:
    plain = footage(tmp_path / "plain.mp4", 16)
    tags = ["-vf", "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"]
    subprocess.run([FFMPEG, "-v", "error", "-i", plain, *tags, raw / "hdr.mp4"], check=True)
    assert any("HDR" in note for note in item(prepare("--template", "x"), "hdr.mp4")["notes"])


def test_full_range(prepare: Prepare, raw: Path, out: Path) -> None:
    """As webcams and phones write it: the colours stay, the range is the usual one."""
    grays = [Image.new("RGB", SIZE, (200, 60, 30))] * 24
    footage(raw / "cam.avi", 24, pictures=grays, codec="mjpeg", form="yuvj420p", options={"qmin": "1", "qmax": "2"})
    prepare("--template", "x")
    assert stream(out / "videos/cam.mp4")[2] == 24
    with av.open(str(out / "videos/cam.mp4")) as container:
        shown: Any = next(container.decode(video=0)).to_image().getpixel((20, 20))
    assert all(abs(a - b) < 6 for a, b in zip(shown, (200, 60, 30), strict=True))


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m"])
def test_colours_stay(prepare: Prepare, raw: Path, out: Path, matrix: str) -> None:
    """Those of cameras are tagged, and read by their tags."""
    reds = [Image.new("RGB", (320, 96), (200, 60, 30))] * 24
    options = {"crf": "5", "x264-params": f"colormatrix={matrix}"}
    footage(raw / "cam.mkv", 24, 25, pictures=reds, size=(320, 96), options=options)
    prepare("--template", "x", "--max_size", "160x48")
    shown = []
    for path in (raw / "cam.mkv", out / "videos/cam.mp4"):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            shown.append((int(frame.colorspace), frame.to_image().getpixel((20, 20))))
    assert shown[0][0] == shown[1][0]
    assert all(abs(a - b) < 4 for a, b in zip(shown[0][1], shown[1][1], strict=True)), shown


def test_sound_and_the_short_are_told(prepare: Prepare, raw: Path, out: Path, tmp_path: Path) -> None:
    plain = footage(tmp_path / "plain.mp4", 16)
    sound = ["-f", "lavfi", "-i", "sine=d=1"]
    subprocess.run([FFMPEG, "-v", "error", "-i", plain, *sound, "-c:v", "copy", raw / "loud.mp4"], check=True)
    for _ in range(2):  # and told again
        told = item(prepare("--template", "x", "--min_seconds", "1.4", code=4), "loud.mp4")
        assert (told["action"], told["outputs"]) == ("left out", [])
        assert told["reason"] == "it is 1.0 s long, less than 1.4 s (--min_seconds)"
    told = item(prepare("--template", "x"), "loud.mp4")
    assert (told["action"], told["reason"]) == ("converted", "sound left out")
    stream(out / "videos/loud.mp4")


def test_transparent_clip(prepare: Prepare, raw: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (64, 48), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    argv = [
        FFMPEG,
        "-v",
        "error",
        "-framerate",
        "16",
        "-loop",
        "1",
        "-i",
        str(tmp_path / "clear.png"),
        "-t",
        "2",
    ]
    subprocess.run([*argv, "-c:v", "png", str(raw / "clear.mov")], check=True)
    told = prepare("--template", "x", code=4)
    assert (item(told, "clear.mov")["action"], item(told, "clear.mov")["outputs"]) == ("failed", [])
    assert "alpha channel" in item(told, "clear.mov")["reason"]


@pytest.mark.parametrize("form", ["gif", "png", "webp"])
def test_moving_pictures_are_clips(prepare: Prepare, raw: Path, out: Path, form: str) -> None:
    frames = [pattern(i) for i in range(20)]
    frames[0].save(raw / f"moving.{form}", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    picture(raw / f"still.{form}", caption=None)
    told = prepare("--template", "x")
    assert item(told, f"moving.{form}")["outputs"] == ["videos/moving.mp4"]
    assert stream(out / "videos/moving.mp4")[2] == 32
    assert numbers(out / "videos/moving.mp4") == [k * 10 // 16 for k in range(32)]
    assert item(told, f"still.{form}")["outputs"][0].startswith("images/still.")


def test_scenes(prepare: Prepare, raw: Path, out: Path) -> None:
    """7 s of one scene, 2 s of another, a crumb of a third."""
    shots = [("#204060", 112), ("#e0c080", 32), ("#108020", 10)]
    pictures = [Image.new("RGB", SIZE, colour) for colour, count in shots for _ in range(count)]
    footage(raw / "film.mp4", len(pictures), pictures=pictures)
    told = item(prepare("--scenes", "--min_seconds", "1.4", "--template", "x"), "film.mp4")
    assert [stream(out / name)[2] for name in told["outputs"]] == [56, 56, 32]
    assert told["notes"] == ["left out: 0.6 s at 9.0 s"]
    assert sorted(path.name for path in (out / "videos").glob("*.mp4")) == [f"film_0{i}.mp4" for i in (1, 2, 3)]


def test_damaged_clips_fail_and_leave_nothing(prepare: Prepare, raw: Path, out: Path) -> None:
    """In the middle, at the end, all of it; one that would be copied, one that would be cut."""
    grain = [noise(seed) for seed in range(200)]
    for name, count, fps in (("copied", 70, 16), ("cut", 200, 25)):
        clip = footage(raw / f"{name}.mp4", count, fps, pictures=grain[:count])
        data = bytearray(clip.read_bytes())
        third = len(data) // 3
        data[third : 2 * third] = (bytes(range(250)) * third)[:third]
        clip.write_bytes(data)
    short = footage(raw / "short.mkv", 100, pictures=grain[:100])
    short.write_bytes(short.read_bytes()[: short.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match="cut off"):  # `check` has the same reader
        clips.read(short, whole=False)
    (raw / "broken.mp4").write_bytes(b"no clip at all")
    footage(raw / "good.mp4", 40)
    told = prepare("--template", "x", code=4)
    for name in ("copied.mp4", "cut.mp4", "short.mkv", "broken.mp4"):
        assert item(told, name)["action"] == "failed", name
        assert item(told, name)["reason"]
    assert {path.name for path in (out / "videos").iterdir()} == {"good.mp4", "good.txt"}
    assert not list(out.glob("*.tmp"))


def test_damaged_container(prepare: Prepare, raw: Path) -> None:
    """The decoder sees no fault where whole clusters are missing."""
    grain = [noise(seed) for seed in range(100)]
    clip = footage(raw / "clip.webm", 100, 25, pictures=grain, codec="libvpx-vp9", options={"b": "2M", "cpu-used": "8", "deadline": "realtime"})  # fmt: skip
    data = bytearray(clip.read_bytes())
    third = len(data) // 3
    data[third : 2 * third] = (bytes(range(200)) * third)[:third]
    clip.write_bytes(data)
    assert item(prepare("--template", "x", code=4), "clip.webm")["action"] == "failed"


def test_trimmed_without_encoding(prepare: Prepare, raw: Path, out: Path, tmp_path: Path) -> None:
    """As phones trim: an edit list hides the frames before the cut, which stay in the file."""
    whole = footage(tmp_path / "whole.mp4", 200, 30, options={"crf": "10", "g": "60"})
    subprocess.run([FFMPEG, "-v", "error", "-ss", "1.3", "-i", whole, "-c", "copy", raw / "clip.mp4"], check=True)
    for k, shown in enumerate(prepared(prepare("--template", "x"), out, "clip.mp4")):
        assert abs(shown - 39 - k * 30 / 16) <= 1, k


# pictures


def test_what_upstream_reads_rightly_is_copied(prepare: Prepare, raw: Path, out: Path) -> None:
    for name in ("a.png", "b.JPG", "c.jpeg", "d.webp", "e.bmp", "f.avif"):
        picture(raw / name, caption=None)
    Image.new("L", (64, 64), 100).save(raw / "gray.png")
    Image.new("RGBA", (64, 64), (1, 2, 3, 255)).save(raw / "opaque.png")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (64, 64)).save(raw / "profile.png", icc_profile=srgb)
    told = prepare("--template", "x")
    assert {each["action"] for each in told["items"]} == {"copied"}
    for each in told["items"]:
        assert (out / each["outputs"][0]).read_bytes() == (raw / each["source"]).read_bytes()
    assert item(told, "b.JPG")["outputs"] == ["images/b.jpg"]
    assert item(told, "c.jpeg")["outputs"] == ["images/c.jpg"]


def colour(path: Path, place: tuple[int, int] = (5, 5)) -> tuple[int, ...]:
    """A pixel as upstream reads it: without EXIF, profile and alpha."""
    with Image.open(path) as shown:
        assert path.suffix == ".png"
        pixel: Any = shown.convert("RGB").getpixel(place)
        return tuple(pixel)


def size(path: Path) -> tuple[int, ...]:
    with Image.open(path) as shown:
        return tuple(shown.size)


def wide_profile() -> bytes:
    """An RGB profile with red and green exchanged: nothing shows better whether it was used."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    return bytes(data)


def test_pictures_that_upstream_misreads(prepare: Prepare, raw: Path, out: Path) -> None:
    import pillow_heif

    turned = Image.new("RGB", (60, 40), "blue")
    ImageDraw.Draw(turned).rectangle((0, 0, 9, 9), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what is top left comes to the top right
    turned.save(raw / "exif.jpg", exif=exif, quality=95)
    pillow_heif.from_pillow(turned).save(raw / "phone.HEIC", quality=-1)
    Image.new("I;16", (20, 20), 32768).save(raw / "deep.png")
    Image.new("I;16", (20, 20), 32768).save(raw / "deep.tif")
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(raw / "print.jpg", quality=100)
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(raw / "clear.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 128)).save(raw / "half.webp", lossless=True)
    Image.new("RGB", (20, 20), (255, 0, 0)).save(raw / "wide.png", icc_profile=wide_profile())
    gif = Image.new("P", (20, 20), 1)
    gif.putpalette([0, 0, 0, 9, 99, 199])
    gif.save(raw / "one.gif")
    gif.save(raw / "clear.gif", transparency=1)
    pages = [Image.new("RGB", (20, 20), colour) for colour in ((1, 2, 3), (4, 5, 6))]
    pages[0].save(raw / "paper.tiff", save_all=True, append_images=pages[1:])
    told = prepare("--template", "x")
    assert "2 pages" in item(told, "paper.tiff")["reason"]
    assert {each["action"] for each in told["items"]} == {"converted"}
    images = out / "images"
    assert size(images / "exif.png") == (40, 60)
    assert colour(images / "exif.png", (38, 2))[0] > 200
    assert size(images / "phone.png") == (60, 40)
    assert {colour(images / f"{name}.png") for name in ("deep",)} <= {(127,) * 3, (128,) * 3}
    assert [colour(images / Path(item(told, "deep.tif")["outputs"][0]).name)[0]] in ([127], [128])
    assert colour(images / "print.png")[0] > 200 > 60 > colour(images / "print.png")[1]
    assert colour(images / Path(item(told, "clear.png")["outputs"][0]).name) == (255, 255, 255)
    assert colour(images / Path(item(told, "clear.gif")["outputs"][0]).name) == (255, 255, 255)
    assert colour(images / "half.png") in ((127,) * 3, (126,) * 3, (128,) * 3)
    assert colour(images / "wide.png")[1] > 240 > 15 > colour(images / "wide.png")[0]
    assert colour(images / "one.png") == (9, 99, 199)
    assert colour(images / "paper.png") == (1, 2, 3)
    for path in images.glob("*.png"):
        with Image.open(path) as made:
            assert (made.mode, made.info.get("icc_profile"), dict(made.getexif())) == ("RGB", None, {})


def deep_png(path: Path, value: int) -> None:
    """An RGB PNG of 16 bits, which Pillow can't write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">H", value) * 3 * 20 for _ in range(20))
    head = struct.pack(">IIBBBBB", 20, 20, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))  # fmt: skip


def test_16_bits_in_three_colours(prepare: Prepare, raw: Path, out: Path) -> None:
    deep_png(raw / "deep.png", 32768)
    assert item(prepare("--template", "x"), "deep.png")["action"] == "converted"
    assert colour(out / "images/deep.png")[0] in (127, 128)


def test_depths_that_nobody_knows_the_white_of(prepare: Prepare, raw: Path) -> None:
    Image.new("F", (20, 20), 0.5).save(raw / "float.tif")
    Image.new("LAB", (20, 20)).save(raw / "lab.tif")
    told = prepare(code=4)
    assert "32 bits" in item(told, "float.tif")["reason"] and "CIELAB" in item(told, "lab.tif")["reason"]


def test_damaged_pictures(prepare: Prepare, raw: Path, out: Path) -> None:
    data = io.BytesIO()
    noise(0, (256, 256)).save(data, "JPEG")
    (raw / "cut.jpg").write_bytes(data.getvalue()[:5000])
    (raw / "none.png").write_bytes(b"")
    Image.new("1", (20000, 20000)).save(raw / "bomb.png")
    picture(raw / "good.png")
    told = prepare(code=4)
    assert told["counts"]["failed"] == 3
    assert sorted(path.name for path in (out / "images").iterdir()) == ["good.png", "good.txt"]


# names, folders


def test_names(prepare: Prepare, raw: Path) -> None:
    odd = [
        "Cat.png",
        "cat.jpg",
        "sub/cat.png",
        "-rf.png",
        "ein Bär & Söhne.png",
        "x" * 200 + ".png",
        "猫.png",
    ]
    for name in odd:
        picture(raw / name, (32, 32), caption=None)
    footage(raw / "CAT.mkv", 40)
    if os.name == "posix":
        picture(raw / os.fsdecode(b"caf\xe9.png"), (32, 32), caption=None)
    told = prepare("--template", "a {name}")
    outputs = [name for each in told["items"] for name in each["outputs"]]
    stems = [Path(name).stem.lower() for name in outputs]
    assert len(outputs) == len(odd) + 1 + (os.name == "posix")
    assert len(set(stems)) == len(stems)
    for name in outputs:
        stem = Path(name).stem
        assert stem.isascii()
        assert len(stem) <= 100
        assert not stem.startswith(("-", "."))
        assert set(stem) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert item(told, "ein Bär & Söhne.png")["outputs"] == ["images/ein_Bar_Sohne.png"]


def test_names_that_might_be_pieces() -> None:
    names = Names(["clip"])
    assert names.claim("clip_01", "a") != "clip_01"
    assert names.claim("shot_01", "b") == "shot_01"
    assert names.claim("shot_02", "c") == "shot_02"
    assert names.claim("shot", "d") != "shot"
    assert len(names.claim("y" * 300, "e")) == LONGEST
    assert safe("...") == "item"


def test_what_lies_about(prepare: Prepare, raw: Path) -> None:
    picture(raw / "a.png")
    picture(raw / "deep/er/b.png")
    for junk in (".hidden.png", "._a.png", "Thumbs.db", "desktop.ini", ".DS_Store", ".git/c.png"):
        (raw / junk).parent.mkdir(exist_ok=True)
        (raw / junk).write_bytes(b"junk")
    (raw / "notes.docx").write_bytes(b"x")
    (raw / "alone.txt").write_text("nobody's")
    (raw / "folder.png").mkdir()
    if os.name == "posix":
        (raw / "loop").symlink_to(raw)
        (raw / "dead.png").symlink_to(raw / "gone")
        os.mkfifo(raw / "pipe.mp4")
    told = prepare(code=4 if os.name == "posix" else 0)
    left = {each["source"] for each in told["items"] if each["action"] == "left out"}
    assert left == {"notes.docx", "alone.txt"}
    assert told["counts"]["copied"] == 2
    if os.name == "posix":
        assert item(told, "dead.png")["action"] == item(told, "pipe.mp4")["action"] == "failed"


def test_out_inside_the_folder(wanwrap: Wanwrap, raw: Path) -> None:
    picture(raw / "a.png")
    for _ in range(2):
        done = wanwrap("prepare", raw, "--out", raw / "set", "--json")
        assert [each["source"] for each in json.loads(done.stdout)["items"]] == ["a.png"]
    assert wanwrap("prepare", raw, "--out", raw).returncode == 7
    assert wanwrap("prepare", raw / "set/images", "--out", raw / "set").returncode == 7
    (raw / "images").mkdir()
    assert wanwrap("prepare", raw / "images", "--out", raw).returncode == 7
    assert wanwrap("prepare", raw, "--out", raw / "a.png").returncode == 7


def test_single_file(wanwrap: Wanwrap, raw: Path, out: Path) -> None:
    picture(raw / "a.png", caption="the a")
    picture(raw / "b.png")
    assert wanwrap("prepare", raw / "a.png", "--out", out).returncode == 0
    assert sorted(path.name for path in (out / "images").iterdir()) == ["a.png", "a.txt"]
    assert (out / "images/a.txt").read_text() == "the a"


def test_nothing_there(wanwrap: Wanwrap, raw: Path, out: Path) -> None:
    assert wanwrap("prepare", raw / "none", "--out", out).returncode == 4
    assert wanwrap("prepare", raw, "--out", out).returncode == 4


def test_what_others_put_there_stays(prepare: Prepare, raw: Path, out: Path) -> None:
    picture(raw / "a.png", caption="mine")
    theirs = picture(out / "images/a.jpg", caption="theirs")
    footage(raw / "clip.mp4", 40)
    before = tree(out)
    told = prepare("--template", "x")
    assert item(told, "a.png")["outputs"][0] not in ("images/a.png", "images/a.jpg")
    assert {path: about for path, about in tree(out).items() if path in before and Path(path).is_file()} == {
        path: about for path, about in before.items() if Path(path).is_file()
    }
    # and one that comes later, where a changed source would have pieces
    late = out / "videos/clip_02.mp4"
    late.write_bytes(b"theirs")
    footage(raw / "clip.mp4", 200, 25)
    told = prepare("--template", "x")
    assert late.read_bytes() == b"theirs"
    assert len(item(told, "clip.mp4")["outputs"]) == 2
    assert not (out / "videos/clip.mp4").exists()
    assert theirs.exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read and write everything")
def test_folder_that_may_not_be_read(prepare: Prepare, raw: Path) -> None:
    picture(raw / "a.png")
    (raw / "locked").mkdir(mode=0o000)
    assert item(prepare(code=4), "locked")["action"] == "failed"


def test_originals_stay_as_they_are(prepare: Prepare, raw: Path, tmp_path: Path) -> None:
    """In a folder that may not be written, if the tests don't run as root."""
    picture(raw / "a.png")
    Image.new("CMYK", (64, 64)).save(raw / "b.tif")
    captioned(footage(raw / "sub/c.mkv", 200, 25), "it flies")
    (raw / "broken.mp4").write_bytes(b"x")
    for folder in (raw / "sub", raw):
        folder.chmod(0o555)
    before = tree(tmp_path / "raw")
    try:
        prepare("--trigger", "ohwx", code=4)
        prepare("--trigger", "ohwx", "--scenes", code=4)
        assert tree(raw) == before
    finally:
        for folder in (raw, raw / "sub"):
            folder.chmod(0o755)


# captions


def test_captions_go_along(prepare: Prepare, raw: Path, out: Path) -> None:
    captioned(footage(raw / "long.mp4", 200, 25), None)
    (raw / "long.txt").write_bytes("it fl\u00fcgt\r\nfar".encode("cp1252"))
    picture(raw / "my_dog-2.png", caption=None)
    picture(raw / "ohwx.png", caption="An OHWX cat")
    told = prepare("--trigger", "ohwx", "--template", "a {kind} of {trigger}, {name} in {folder}")
    assert told["counts"]["without_caption"] == 0
    for piece in ("long_01", "long_02"):
        assert (out / f"videos/{piece}.txt").read_bytes() == "ohwx, it fl\u00fcgt\nfar".encode()
    assert (out / "images/my_dog-2.txt").read_text() == "a photo of ohwx, my dog 2 in raw"
    assert (out / "images/ohwx.txt").read_text() == "An OHWX cat"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_encodings(encoding: str) -> None:
    assert decoded("ein Bär\r\nzwei\rdrei\n".encode(encoding)) == "ein Bär\nzwei\ndrei\n"


@pytest.mark.parametrize("template", ["a {thing}", "a {", "{trigger}", " ", "{name.x}", "{0}", "{}"])
def test_templates_that_cannot_be_filled(template: str, wanwrap: Wanwrap, raw: Path, out: Path) -> None:
    done = wanwrap("prepare", raw, "--out", out, "--template", template)
    assert done.returncode == 7 and "--template" in done.stderr


def test_without_caption(wanwrap: Wanwrap, raw: Path, out: Path) -> None:
    picture(raw / "a.png", caption=None)
    done = wanwrap("prepare", raw, "--out", out, "--trigger", "ohwx")
    assert done.returncode == 0
    assert "1 has no caption" in done.stdout
    assert not (out / "images/a.txt").exists()


# again


def test_second_run_does_nothing(prepare: Prepare, raw: Path, out: Path) -> None:
    picture(raw / "a.png")
    Image.new("CMYK", (64, 64)).save(raw / "b.jpg")
    footage(raw / "c.mp4", 200, 25)
    prepare("--template", "x")
    before, record = tree(out / "images") | tree(out / "videos"), (out / ".wanwrap-prepare.json").read_text()
    told = prepare("--template", "x")
    assert {(each["action"], each["reason"]) for each in told["items"]} == {("unchanged", "")}
    assert json.loads((out / ".wanwrap-prepare.json").read_text()) == json.loads(record)
    assert tree(out / "images") | tree(out / "videos") == before
    assert told["counts"]["seconds"] == 8.0


def test_only_what_is_new_or_changed(prepare: Prepare, raw: Path, out: Path) -> None:
    picture(raw / "a.png")
    clip = footage(raw / "c.mp4", 200, 25)
    prepare("--template", "x")
    picture(raw / "b.png")
    footage(clip, 100, 25)
    told = prepare("--template", "x")
    assert [item(told, name)["action"] for name in ("a.png", "b.png", "c.mp4")] == ["unchanged", "copied", "converted"]
    assert sorted(path.name for path in (out / "videos").iterdir()) == ["c.mp4", "c.txt"]
    told = prepare("--template", "x", "--max_seconds", "2")  # of pictures nothing changes
    assert [item(told, name)["action"] for name in ("a.png", "b.png", "c.mp4")] == ["unchanged", "unchanged", "cut"]
    (raw / "b.png").unlink()
    told = prepare("--template", "x", "--max_seconds", "2")
    assert told["gone"] == ["images/b.png"]
    assert (out / "images/b.png").exists()
    (out / "images/a.png").unlink()  # looked at, and not wanted
    for _ in range(2):
        told = item(prepare("--template", "x", "--max_seconds", "2"), "a.png")
        assert told["action"] == "left out" and "1 of 1 removed from the data set" in told["reason"]
        assert not (out / "images/a.png").exists()
    assert item(prepare("--template", "x", "--max_seconds", "2", "--again"), "a.png")["action"] == "copied"


def test_a_folder_with_another_name(prepare: Prepare, raw: Path, out: Path) -> None:
    picture(raw / "my cat" / "a.png")
    prepare()
    (out / "images/a.txt").write_text("mine")
    (raw / "my cat").rename(raw / "cat")
    told = prepare()
    assert (item(told, "cat/a.png")["action"], told["gone"]) == ("unchanged", [])
    assert [path.name for path in (out / "images").iterdir()] in (["a.png", "a.txt"], ["a.txt", "a.png"])


def test_frames_of_the_same_name_and_size(prepare: Prepare, raw: Path, out: Path, tmp_path: Path) -> None:
    """Moved, nobody can tell which is which: each is made anew with its own caption, and the old ones are told."""
    for folder, colour in {"a": "red", "b": "blue"}.items():
        path = raw / folder / "x.bmp"
        path.parent.mkdir()
        Image.new("RGB", (64, 64), colour).save(path)
        path.with_suffix(".txt").write_text(f"words of {folder}")
        os.utime(path, (1_700_000_000, 1_700_000_000))
    before = prepare()
    raw.rename(tmp_path / "elsewhere")
    raw.mkdir()
    for folder in ("b", "a"):
        (tmp_path / "elsewhere" / folder).rename(raw / f"{folder}{folder}")
    told = prepare()
    assert sorted(told["gone"]) == sorted(name for each in before["items"] for name in each["outputs"])
    for folder in ("a", "b"):
        (name,) = item(told, f"{folder}{folder}/x.bmp")["outputs"]
        assert (out / name).with_suffix(".txt").read_text() == f"words of {folder}"
        assert (out / name).read_bytes() == (raw / f"{folder}{folder}/x.bmp").read_bytes()


def test_killed_while_a_clip_is_made_anew(prepare: Prepare, raw: Path, out: Path) -> None:
    """Its new pieces are there, and the record is the one from before: they are its own, and written over."""
    footage(raw / "c.mp4", 160)
    prepare("--template", "x")
    record = out / ".wanwrap-prepare.json"
    rows = json.loads(record.read_text())
    (row,) = rows["sources"].values()
    row["outputs"] = []
    prepare("--template", "x", "--max_seconds", "4")
    record.write_text(json.dumps(rows))
    prepare("--template", "x", "--max_seconds", "4")
    assert sorted(path.name for path in (out / "videos").glob("*.mp4")) == ["c_01.mp4", "c_02.mp4", "c_03.mp4"]


def test_what_was_removed_stays_out_whatever_the_settings(prepare: Prepare, raw: Path, out: Path) -> None:
    picture(raw / "a.png")
    prepare()
    (out / "images/a.png").unlink()
    prepare()
    told = prepare("--background", "black")
    assert item(told, "a.png")["action"] == "left out" and not (out / "images/a.png").exists()


def test_originals_behind_a_link(wanwrap: Wanwrap, raw: Path, out: Path) -> None:
    picture(raw / "a.png")
    out.mkdir()
    (out / "images").symlink_to(raw)
    done = wanwrap("prepare", raw, "--out", out)
    assert done.returncode == 7 and "holds a link to where the originals lie" in done.stderr
    assert sorted(path.name for path in raw.iterdir()) == ["a.png", "a.txt"]


def test_originals_behind_a_link_into_them(wanwrap: Wanwrap, raw: Path, out: Path) -> None:
    picture(raw / "photos" / "a.png")
    out.mkdir()
    (out / "images").symlink_to(raw / "photos")
    assert wanwrap("prepare", raw, "--out", out).returncode == 7
    assert sorted(path.name for path in (raw / "photos").iterdir()) == ["a.png", "a.txt"]


def test_a_picture_of_ones_own_stays_though_a_row_is_in_the_making(prepare: Prepare, raw: Path, out: Path) -> None:
    Image.new("RGB", (20, 20)).save(raw / "cat.tif")
    prepare("--template", "x")
    record = out / ".wanwrap-prepare.json"
    record.write_text(re.sub(r'"outputs": \[[^]]*\]', '"outputs": []', record.read_text()))  # as Ctrl-C leaves it
    (out / "images" / "cat.png").unlink()
    Image.new("RGB", (20, 20)).save(out / "images" / "cat.jpg")
    prepare("--template", "x")
    assert {path.name for path in (out / "images").glob("cat.[jp]*")} == {"cat.jpg", "cat.png"}


def test_what_a_kill_has_left_goes(prepare: Prepare, raw: Path, out: Path) -> None:
    picture(raw / "a.png")
    (out / "videos").mkdir(parents=True)
    (left := out / "videos" / "b.mp4.wanwrap-part").touch()
    prepare()
    assert not left.exists()


def test_changed_captions(prepare: Prepare, raw: Path, out: Path) -> None:
    """One that differs from its source's is listed; --again writes it anew, unless somebody has edited it."""
    picture(raw / "a.png", caption="first")
    picture(raw / "b.png", caption="first")
    prepare()
    media = (out / "images/a.png").stat().st_mtime_ns
    (out / "images/b.txt").write_text("edited")
    for name in ("a", "b"):
        (raw / f"{name}.txt").write_text("second")
    for _ in range(2):
        told = prepare("--trigger", "ohwx")
        assert (out / "images/a.txt").read_text() == "first"
        assert any("--again" in note for note in item(told, "a.png")["notes"])
        assert any("edited" in note for note in item(told, "b.png")["notes"])
    told = prepare("--trigger", "ohwx", "--again")
    assert (out / "images/a.txt").read_text() == "ohwx, second"
    assert (out / "images/b.txt").read_text() == "edited"
    assert item(told, "a.png")["notes"] == [] and item(told, "b.png")["notes"]
    (out / "images/b.txt").unlink()
    prepare()
    assert (out / "images/b.txt").read_text() == "second"
    assert (out / "images/a.png").stat().st_mtime_ns == media


def test_folder_that_has_been_moved(prepare: Prepare, raw: Path, out: Path, wanwrap: Wanwrap) -> None:
    picture(raw / "a.png")
    prepare()
    moved = raw.rename(raw.with_name("elsewhere"))
    told = json.loads(wanwrap("prepare", moved, "--out", out, "--json").stdout)
    assert item(told, "a.png")["action"] == "unchanged"


def test_two_folders_into_one(prepare: Prepare, raw: Path, out: Path, tmp_path: Path, wanwrap: Wanwrap) -> None:
    picture(raw / "a.png")
    picture(tmp_path / "more/a.png", (320, 320))
    prepare()
    wanwrap("prepare", tmp_path / "more", "--out", out)
    assert len(list((out / "images").glob("*.png"))) == 2
    assert item(prepare(), "a.png")["action"] == "unchanged"


def test_dry_run_writes_nothing(prepare: Prepare, raw: Path, out: Path) -> None:
    footage(raw / "c.mp4", 200, 25)
    picture(raw / "a.png")
    told = prepare("--dry_run")
    assert item(told, "c.mp4")["outputs"] == ["videos/c_01.mp4", "videos/c_02.mp4"]
    assert not out.exists()
    real = prepare()
    assert [each["outputs"] for each in real["items"]] == [each["outputs"] for each in told["items"]]


@pytest.mark.parametrize("text", ["{", "[]", '{"sources": []}', '{"sources": {"a": {}}}'])
def test_manifest_that_is_broken(wanwrap: Wanwrap, raw: Path, out: Path, text: str) -> None:
    picture(raw / "a.png")
    out.mkdir()
    (out / ".wanwrap-prepare.json").write_text(text)
    done = wanwrap("prepare", raw, "--out", out)
    assert done.returncode == 11
    assert "Traceback" not in done.stderr
    assert (out / ".wanwrap-prepare.json").read_text() == text


def test_killed_between_two_writes(prepare: Prepare, raw: Path, out: Path) -> None:
    """The manifest then knows names only: what is there under them is made anew, and no second time."""
    picture(raw / "a.png")
    footage(raw / "c.mp4", 200, 25)
    prepare("--template", "x")
    manifest = json.loads((out / ".wanwrap-prepare.json").read_text())
    for row in manifest["sources"].values():
        row.update(outputs=None, size=-1, mtime_ns=-1, settings={}, caption=None)
    (out / ".wanwrap-prepare.json").write_text(json.dumps(manifest))
    there = {path for path in out.rglob("*") if path.is_file()}
    prepare("--template", "x")
    assert {path for path in out.rglob("*") if path.is_file()} == there


def begin(raw: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    argv = [sys.executable, "-m", "wanwrap", "prepare", str(raw), "--out", str(out), *options]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_and_resumed(prepare: Prepare, raw: Path, out: Path, how: int) -> None:
    picture(raw / "a.png")
    grain = [noise(seed, (320, 240)) for seed in range(20)]
    long = footage(raw / "b.mp4", 300, 25, pictures=grain * 15, size=(320, 240))
    for name in ("c", "d"):
        shutil.copy(long, raw / f"{name}.mp4")
    process = begin(raw, out, "--template", "x")
    while not [*out.glob("videos/*.mp4.wanwrap-part")]:
        assert process.poll() is None
        time.sleep(0.05)
    with begin(raw, out) as second:
        assert b"another" in second.communicate()[0]
    assert second.returncode == 11
    time.sleep(0.5)
    process.send_signal(how)
    said = process.communicate(timeout=20)[0].decode()
    assert process.returncode == 130, said
    assert "goes on from here" in said
    assert not [path.name for path in out.iterdir() if path.name not in ("images", "videos", ".wanwrap-prepare.json")]
    whole = {path: path.stat().st_mtime_ns for path in (out / "videos").glob("*.mp4")}
    for path in whole:
        assert stream(path)[0] == 16
    prepare("--template", "x")
    assert len(list((out / "videos").glob("*.mp4"))) == 9
    assert {path: path.stat().st_mtime_ns for path in whole} == whole


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
@pytest.mark.parametrize("kind", ["clip", "picture"])
def test_full_disk(raw: Path, out: Path, kind: str) -> None:
    grain = noise(0, (640, 480))
    if kind == "clip":
        footage(raw / "a.mp4", 60, 25, pictures=[grain] * 60, size=(640, 480))
    else:
        grain.save(raw / "a.tif")
    import resource

    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    argv = [sys.executable, "-m", "wanwrap", "prepare", str(raw), "--out", str(out)]
    limit = (100_000, 100_000)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))  # fmt: skip
    assert done.returncode == 13, done.stdout + done.stderr
    assert not [path for path in out.rglob("*") if path.suffix in (".png", ".mp4", ".wanwrap-part", ".tmp")]


# the way through


def test_av_without_libx264(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything is looked at, with the way out."""

    def missing(*_: object) -> None:
        raise av.codec.codec.UnknownCodecError("libx264")

    monkeypatch.setattr(av, "Codec", missing)
    with pytest.raises(PackageError, match="--force-reinstall"):
        check_encoder()


def test_bad_options(wanwrap: Wanwrap, raw: Path, out: Path) -> None:
    picture(raw / "a.png")
    for options in (["--max_size", "0x5"], ["--background", "nocolour"], ["--max_seconds", "-1"], ["--max_seconds", "nan"]):  # fmt: skip
        assert wanwrap("prepare", raw, "--out", out, *options).returncode == 2, options
    assert wanwrap("prepare", raw, "--out", out, "--max_seconds", "1").returncode == 7
    assert wanwrap("prepare", raw, "--out", out, "--trigger", " ").returncode == 7
    assert not out.exists()


def test_what_it_tells(wanwrap: Wanwrap, raw: Path, out: Path) -> None:
    footage(raw / "c.mp4", 200, 25)
    (raw / "bad.png").write_bytes(b"x")
    (raw / "x.psd").write_bytes(b"x")
    done = wanwrap("prepare", raw, "--out", out)
    assert done.returncode == DatasetError.exit_code
    assert "c.mp4" in done.stdout
    assert "1 cut, 1 left out, 1 failed" in done.stdout
    assert "wanwrap check" in done.stdout
    assert "bad.png" in done.stderr


def test_what_comes_out_can_be_trained(wanwrap: Wanwrap, raw: Path, out: Path) -> None:
    captioned(footage(raw / "turned.mov", 120, 30, size=(640, 384)), "it flies")
    captioned(footage(raw / "long.mkv", 200, 25, size=(640, 384)), "it flies")
    picture(raw / "a.tiff")
    assert wanwrap("prepare", raw, "--out", out).returncode == 0
    done = wanwrap("run", "t2v-vanilla", "--dataset", out, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "not used" not in done.stderr
