"""`wanwrap prepare`: what comes out shows what went in, at its time; nothing is done twice; originals stay."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import CliRunner
from helpers import PYTHONPATH, Wanwrap, captioned, picture
from PIL import Image, ImageCms, ImageDraw
from platforms import limits, permissions, signals, symlinks
from raw import SIZE, ffmpeg, footage, noise, number, numbers, pattern
from runs import until
from trouble import file_limit

from wanwrap.cli.prepare import prepare as verb
from wanwrap.data import clips
from wanwrap.data.clips import turn
from wanwrap.data.media import Unfit
from wanwrap.errors import WanwrapError
from wanwrap.prepare import prepare as room
from wanwrap.prepare.captions import decoded
from wanwrap.prepare.encode import filtered, upright
from wanwrap.prepare.sources import LONGEST, claim, safe
from wanwrap.system import console
from wanwrap.system.files import lock

NTSC = Fraction(30000, 1001)
RATES = [Fraction(16), Fraction(24), Fraction(25), NTSC, Fraction(30), Fraction(60)]
RECORD = ".wanwrap-prepare.json"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def call(place: Path, out: Path, *options: object) -> tuple[int, str]:
    """The verb in this process: its exit code, and what it prints; without --json the error too."""
    done = CliRunner().invoke(verb, [str(place), "--out", str(out), *map(str, options)])
    error = done.exception
    if isinstance(error, WanwrapError):
        return error.exit_code, done.stdout if "--json" in options else f"{done.stdout}{error}"
    assert error is None or isinstance(error, SystemExit), done.exc_info
    return done.exit_code, done.output


Prepare = Callable[..., dict[str, Any]]


@pytest.fixture
def prepare(raw: Path, out: Path) -> Prepare:
    """Run it, and have what it tells; `code` is the exit code that it must end with. Originals stay as they are."""

    def told(*options: object, code: int = 0, place: Path = raw) -> dict[str, Any]:
        least = () if "--min_seconds" in options else ("--min_seconds", 0)  # most clips here are short
        before = tree(place)
        ended, printed = call(place, out, "--json", "--template", "x", *least, *options)
        assert ended == code, printed
        assert tree(place) == before
        return dict(json.loads(printed))

    return told


def item(told: dict[str, Any], source: str) -> dict[str, Any]:
    """What was told of one source."""
    found = [each for each in told["items"] if each["source"] == source]
    assert len(found) == 1, told
    return dict(found[0])


def actions(told: dict[str, Any]) -> dict[str, str]:
    return {each["source"]: each["action"] for each in told["items"]}


def tree(*folders: Path) -> dict[str, tuple[object, ...]]:
    """All that may not change: places, kinds, contents, times."""
    found = dict[str, tuple[object, ...]]()
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        about = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else None
        found[str(path)] = (about.st_mode, about.st_ino, about.st_mtime_ns, about.st_size, content)
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


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


@pytest.mark.parametrize(("ending", "fps"), [*(("mp4", fps) for fps in RATES), ("mkv", NTSC), ("mkv", Fraction(24))])
def test_each_frame_shows_what_stood_there_at_its_time(prepare: Prepare, raw: Path, out: Path, ending: str, fps: Fraction) -> None:  # fmt: skip
    frames = int(Fraction(123, 10) * fps)
    footage(raw / f"clip.{ending}", frames, fps)
    told = prepare()
    outputs = item(told, f"clip.{ending}")["outputs"]
    assert outputs == ["videos/clip_01.mp4", "videos/clip_02.mp4", "videos/clip_03.mp4"]
    found = [stream(out / name) for name in outputs]
    assert {(rate, size) for rate, size, _ in found} == {(16, SIZE)}
    lengths = [count for _, _, count in found]
    assert max(lengths) - min(lengths) <= 1 and max(lengths) <= 80
    assert abs(sum(lengths) - Fraction(frames) / fps * 16) <= 1
    shown = prepared(told, out, f"clip.{ending}")
    for k, n in enumerate(shown):
        # the frame that stands at k/16 s, or the next one where that is nearer; mkv rounds times to 1 ms
        assert abs(Fraction(n) / fps - Fraction(k, 16)) <= Fraction(17, 32) / fps + Fraction(1, 1000), k
    assert fps != 16 or shown == list(range(frames))  # nothing is lost or doubled


def test_variable_frame_rate(prepare: Prepare, raw: Path, out: Path) -> None:
    """A second at 30 fps, a frame that stands for one, a second at 20."""
    times = [Fraction(i, 30) for i in range(30)] + [Fraction(1)] + [2 + Fraction(i, 20) for i in range(20)]
    footage(raw / "clip.mp4", len(times), 30, times=times)
    told = prepare()
    assert "variable frame rate" in item(told, "clip.mp4")["reason"]
    shown = prepared(told, out, "clip.mp4")
    assert 47 <= len(shown) <= 49
    for k, n in enumerate(shown[:47]):
        standing = max(i for i, when in enumerate(times) if when <= Fraction(k, 16))
        assert n in (standing, standing + 1), k
        assert abs(times[n] - Fraction(k, 16)) <= Fraction(1, 60) or n == standing


def test_keep_fps(prepare: Prepare, raw: Path, out: Path) -> None:
    footage(raw / "fast.mkv", 80, 30)
    footage(raw / "slow.mp4", 30, 12)
    footage(raw / "phone.mkv", 60, Fraction("29.8"))
    told = prepare("--keep_fps")
    assert prepared(told, out, "fast.mkv") == list(range(80))
    assert stream(out / "videos/fast.mp4")[0] == 30
    assert stream(out / "videos/slow.mp4")[0] == 16  # slower than upstream takes
    assert stream(out / "videos/phone.mp4")[0] == NTSC  # as `check` takes it
    assert item(told, "phone.mkv")["fps"] == pytest.approx(clips.read(raw / "phone.mkv", whole=False).fps)


def test_what_becomes_of_rates_and_sizes(prepare: Prepare, raw: Path, out: Path, tmp_path: Path) -> None:
    right = footage(raw / "right.mp4", 40)
    footage(raw / "ntsc.mp4", 150, NTSC)
    footage(raw / "odd.mkv", 16, size=(161, 49), form="yuv444p")
    footage(raw / "large.mp4", 16, size=(640, 320))
    ffmpeg("-i", footage(tmp_path / "plain.mp4", 16, size=(160, 64)), "-vf", "setsar=2", raw / "wide.mp4")
    footage(raw / "tiny.mp4", 16, size=(160, 14))
    told = prepare("--max_size", "320x160", code=4)
    assert item(told, "right.mp4")["action"] == "copied"
    assert (out / "videos/right.mp4").read_bytes() == right.read_bytes()
    assert stream(out / "videos/ntsc.mp4")[2] == 80  # of 5.005 s nobody wants two halves
    assert stream(out / "videos/odd.mp4")[1] == (160, 48)
    assert stream(out / "videos/large.mp4")[1] == (320, 160)
    assert stream(out / "videos/wide.mp4")[1] == (160, 32)  # its pixels are no squares
    assert item(told, "tiny.mp4")["action"] == "failed"  # `check` refuses it, too


def test_turned_by_metadata(prepare: Prepare, raw: Path, out: Path, tmp_path: Path) -> None:
    plain = footage(tmp_path / "upright.mp4", 24, size=(160, 48))
    ffmpeg("-display_rotation", 90, "-i", plain, "-c", "copy", raw / "clip.mp4")
    told = prepare()
    assert "turned" in item(told, "clip.mp4")["reason"]
    assert stream(out / "videos/clip.mp4")[1] == (48, 160)
    with av.open(str(out / "videos/clip.mp4")) as container:
        frames = list(container.decode(video=0))
    assert not any(turn(frame) for frame in frames)
    assert [number(frame.to_image().rotate(-90, expand=True)) for frame in frames] == list(range(24))


@pytest.mark.parametrize("matrix", list(itertools.product((1, -1), (1, -1), (True, False))))
def test_each_way_to_turn(matrix: tuple[int, int, bool]) -> None:
    """(x, y) goes to (a x + c y, b x + d y)."""
    one, other, straight = matrix
    a, b, c, d = (one, 0, 0, other) if straight else (0, one, other, 0)
    before = Image.new("L", (64, 32))
    before.paste(255, (0, 0, 16, 16))  # top left
    frame = av.VideoFrame.from_image(before).reformat(format="gray")  # type: ignore[no-untyped-call]
    (after,) = filtered([frame], [*upright((a, b, c, d)), ("format", "gray")])
    width, height = (64, 32) if straight else (32, 64)
    assert (after.width, after.height) == (width, height)
    right, low = (a < 0 or c < 0), (b < 0 or d < 0)
    place = (width - 8 if right else 8, height - 8 if low else 8)
    shown: Any = after.to_image().convert("L").getpixel(place)  # type: ignore[no-untyped-call]
    assert shown > 200


def test_interlaced_and_10_bit(prepare: Prepare, raw: Path, out: Path) -> None:
    footage(raw / "old.mpg", 50, 25, codec="mpeg2video", options={"flags": "+ildct+ilme", "b": "4M"})
    footage(raw / "deep.mkv", 50, 25, codec="libx265", form="yuv420p10le", options={"x265-params": "log-level=none"})
    told = prepare()
    assert "interlaced" in item(told, "old.mpg")["reason"]
    assert "yuv420p10le" in item(told, "deep.mkv")["reason"]
    for name in ("old", "deep"):
        assert stream(out / f"videos/{name}.mp4")[2] == 32
        assert all(abs(n - k * 25 / 16) <= 1 for k, n in enumerate(numbers(out / f"videos/{name}.mp4")))


CAMERA = {"codec": "mjpeg", "form": "yuvj420p", "options": {"qmin": "1", "qmax": "2"}}  # full range, as webcams write
TAGGED = [{"options": {"crf": "5", "x264-params": f"colormatrix={matrix}"}} for matrix in ("bt709", "smpte170m")]


@pytest.mark.parametrize(("name", "how"), [("cam.avi", CAMERA), *(("cam.mkv", tags) for tags in TAGGED)])
def test_colours_stay(prepare: Prepare, raw: Path, out: Path, name: str, how: dict[str, Any]) -> None:
    """They are read by their tags; the range of what is written is the usual one."""
    reds = [Image.new("RGB", (320, 96), (200, 60, 30))] * 24
    footage(raw / name, 24, 25, pictures=reds, size=(320, 96), **how)
    prepare("--max_size", "160x48")
    stream(out / "videos/cam.mp4")
    shown = []
    for path in (raw / name, out / "videos/cam.mp4"):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            shown.append((int(frame.colorspace), frame.to_image().getpixel((20, 20))))
    assert shown[0][0] == shown[1][0]
    assert all(abs(a - b) < 6 for a, b in zip(shown[0][1], shown[1][1], strict=True)), shown


def test_what_else_is_told_of_clips(prepare: Prepare, raw: Path, out: Path, tmp_path: Path) -> None:
    plain = footage(tmp_path / "plain.mp4", 16)
    ffmpeg("-i", plain, "-f", "lavfi", "-i", "sine=d=1", "-c:v", "copy", raw / "loud.mp4")
    Image.new("RGB", (32, 32)).save(tmp_path / "cover.png")
    cover = ["-map", 0, "-map", 1, "-c", "copy", "-disposition:v:1", "attached_pic"]
    ffmpeg("-i", plain, "-i", tmp_path / "cover.png", *cover, raw / "cover.mp4")
    ffmpeg("-i", plain, "-vf", "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc", raw / "hdr.mp4")  # fmt: skip
    Image.new("RGBA", (64, 48), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    ffmpeg("-framerate", 16, "-loop", 1, "-i", tmp_path / "clear.png", "-t", 2, "-c:v", "png", raw / "clear.mov")
    for _ in range(2):  # and told again
        told = prepare("--min_seconds", "1.4", code=4)
        short = item(told, "loud.mp4")
        assert (short["action"], short["outputs"]) == ("left out", [])
        assert "1.0 s long, less than 1.4 s" in short["reason"]
    told = prepare(code=4)
    assert item(told, "loud.mp4")["reason"] == "sound left out"
    assert "sound" not in item(told, "cover.mp4")["reason"] and "cover" in item(told, "cover.mp4")["reason"]
    assert stream(out / "videos/loud.mp4") == stream(out / "videos/cover.mp4")
    assert any("HDR" in note for note in item(told, "hdr.mp4")["notes"])
    assert (item(told, "clear.mov")["action"], item(told, "clear.mov")["outputs"]) == ("failed", [])
    assert "alpha channel" in item(told, "clear.mov")["reason"]


def test_moving_pictures_are_clips(prepare: Prepare, raw: Path, out: Path) -> None:
    frames, forms = [pattern(i) for i in range(20)], ("gif", "png", "webp")
    for form in forms:
        moving = raw / f"{form}.{form}"
        frames[0].save(moving, save_all=True, append_images=frames[1:], duration=100, lossless=True)
        picture(raw / f"still-{form}.{form}", caption=None)
    told = prepare("--scenes")
    for form in forms:
        assert item(told, f"{form}.{form}")["outputs"] == [f"videos/{form}.mp4"]
        assert stream(out / f"videos/{form}.mp4")[2] == 32
        assert numbers(out / f"videos/{form}.mp4") == [k * 10 // 16 for k in range(32)]
        assert item(told, f"still-{form}.{form}")["outputs"][0].startswith("images/still")


def test_scenes(prepare: Prepare, raw: Path, out: Path) -> None:
    """7 s of one scene, 0.6 s of another, 2 s of a third."""
    shots = [("#204060", 112), ("#108020", 10), ("#e0c080", 32)]
    pictures = [Image.new("RGB", SIZE, colour) for colour, count in shots for _ in range(count)]
    footage(raw / "film.mp4", len(pictures), pictures=pictures)
    told = item(prepare("--scenes", "--min_seconds", "1.4"), "film.mp4")
    assert [stream(out / name)[2] for name in told["outputs"]] == [56, 56, 32]
    assert told["notes"] == ["left out: 0.6 s at 7.0 s"]
    assert names(out / "videos") == {f"film_0{i}.{ending}" for i in (1, 2, 3) for ending in ("mp4", "txt")}
    with av.open(str(out / "videos/film_03.mp4")) as container:
        shown: Any = next(container.decode(video=0)).to_image().getpixel((20, 20))
    assert all(abs(a - b) < 8 for a, b in zip(shown, (0xE0, 0xC0, 0x80), strict=True))


def test_trimmed_without_encoding(prepare: Prepare, raw: Path, out: Path, tmp_path: Path) -> None:
    """As phones trim: an edit list hides the frames before the cut, which stay in the file."""
    whole = footage(tmp_path / "whole.mp4", 200, 30, options={"crf": "10", "g": "60"})
    ffmpeg("-ss", 1.3, "-i", whole, "-c", "copy", raw / "clip.mp4")
    for k, shown in enumerate(prepared(prepare(), out, "clip.mp4")):
        assert abs(shown - 39 - k * 30 / 16) <= 1, k


# pictures


def test_what_upstream_reads_rightly_is_copied(prepare: Prepare, raw: Path, out: Path) -> None:
    for name in ("a.png", "b.JPG", "c.jpeg", "d.webp", "e.bmp", "f.avif"):
        picture(raw / name, caption=None)
    Image.new("L", (64, 64), 100).save(raw / "gray.png")
    Image.new("RGBA", (64, 64), (1, 2, 3, 255)).save(raw / "opaque.png")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (64, 64)).save(raw / "profile.png", icc_profile=srgb)
    told = prepare()
    assert {*actions(told).values()} == {"copied"}
    for each in told["items"]:
        assert (out / each["outputs"][0]).read_bytes() == (raw / each["source"]).read_bytes()
    assert item(told, "b.JPG")["outputs"] == ["images/b.jpg"]
    assert item(told, "c.jpeg")["outputs"] == ["images/c.jpg"]


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
    ffmpeg("-f", "lavfi", "-i", "color=gray:s=20x20", "-frames:v", 1, "-pix_fmt", "rgb48be", raw / "colours.png")
    Image.new("I;16", (20, 20), 32768).save(raw / "deep.png")
    Image.new("I;16", (20, 20), 32768).save(raw / "paged.tif")
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(raw / "print.jpg", quality=100)
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(raw / "clear.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 128)).save(raw / "half.webp", lossless=True)
    Image.new("RGB", (20, 20), (255, 0, 0)).save(raw / "wide.png", icc_profile=wide_profile())
    gif = Image.new("P", (20, 20), 1)
    gif.putpalette([0, 0, 0, 9, 99, 199])
    gif.save(raw / "one.gif")
    gif.save(raw / "hole.gif", transparency=1)
    pages = [Image.new("RGB", (20, 20), colour) for colour in ((1, 2, 3), (4, 5, 6))]
    pages[0].save(raw / "paper.tiff", save_all=True, append_images=pages[1:])
    told = prepare()
    assert "2 pages" in item(told, "paper.tiff")["reason"]
    assert {*actions(told).values()} == {"converted"}
    shown = dict[str, Image.Image]()  # as upstream reads them: without EXIF, profile and alpha
    for path in (out / "images").glob("*.png"):
        with Image.open(path) as made:
            assert (made.mode, made.info.get("icc_profile"), dict(made.getexif())) == ("RGB", None, {})
            shown[path.stem] = made.copy()
    colours: dict[str, Any] = {name: made.getpixel((5, 5)) for name, made in shown.items()}
    assert (shown["exif"].size, shown["phone"].size) == ((40, 60), (60, 40))
    top_right: Any = shown["exif"].getpixel((38, 2))
    assert top_right[0] > 200
    assert {colours[name] for name in ("deep", "paged", "colours", "half")} <= {(n,) * 3 for n in (126, 127, 128)}
    assert colours["print"][0] > 200 > 60 > colours["print"][1]
    assert colours["clear"] == colours["hole"] == (255, 255, 255)
    assert colours["wide"][1] > 240 > 15 > colours["wide"][0]
    assert (colours["one"], colours["paper"]) == ((9, 99, 199), (1, 2, 3))


def test_pictures_that_are_refused(prepare: Prepare, raw: Path, out: Path) -> None:
    Image.new("1", (13400, 13400)).save(raw / "bomb.png")  # of damaged ones see test_check.py
    Image.new("F", (20, 20), 0.5).save(raw / "float.tif")
    Image.new("LAB", (20, 20)).save(raw / "lab.tif")
    picture(raw / "good.png")
    told = prepare(code=4)
    assert told["counts"]["failed"] == 3
    for name, why in {"float.tif": "32 bits", "lab.tif": "CIELAB", "bomb.png": "bomb"}.items():
        assert why in item(told, name)["reason"]
    assert names(out / "images") == {"good.png", "good.txt"}


# names, folders


def test_names(prepare: Prepare, raw: Path) -> None:
    odd = ["Cat.png", "cat.jpg", "sub/cat.png", "-rf.png", "ein Bär & Söhne.png", "x" * 200 + ".png", "猫.png"]
    for name in odd:
        picture(raw / name, (32, 32), caption=None)
    footage(raw / "CAT.mkv", 40)
    if sys.platform == "linux":
        picture(raw / os.fsdecode(b"caf\xe9.png"), (32, 32), caption=None)
    told = prepare()
    stems = [Path(name).stem for each in told["items"] for name in each["outputs"]]
    assert len(stems) == len({stem.lower() for stem in stems}) == len(odd) + 1 + (sys.platform == "linux")
    for stem in stems:
        assert len(stem) <= 100 and stem[0] not in "-."
        assert stem.isascii() and not {*stem} & {*" /\\&:*?"}
    assert item(told, "ein Bär & Söhne.png")["outputs"] == ["images/ein_Bar_Sohne.png"]


def test_names_that_might_be_pieces() -> None:
    taken = {"clip"}
    assert claim("clip_01", "a", taken) != "clip_01"
    assert claim("shot_01", "b", taken) == "shot_01"
    assert claim("shot_02", "c", taken) == "shot_02"
    assert claim("shot", "d", taken) != "shot"
    assert len(claim("y" * 300, "e", taken)) == LONGEST
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
    call(raw / "a.png", raw / "other")  # a data set, which is no raw media
    usual = {"a.png": "copied", "deep/er/b.png": "copied"}
    usual |= dict.fromkeys(("notes.docx", "alone.txt", "other"), "left out")
    assert actions(prepare()) == usual | dict.fromkeys(("a.png", "deep/er/b.png"), "copied")
    if sys.platform != "win32":
        (raw / "loop").symlink_to(raw)
        (raw / "dead.png").symlink_to(raw / "gone")
        os.mkfifo(raw / "pipe.mp4")
        told = actions(prepare(code=4))
        assert {name for name, action in told.items() if action == "failed"} == {"dead.png", "pipe.mp4"}


@permissions
def test_folder_that_may_not_be_read(prepare: Prepare, raw: Path) -> None:
    picture(raw / "a.png")
    (raw / "locked").mkdir(mode=0o000)
    assert item(prepare(code=4), "locked")["action"] == "failed"


@symlinks
def test_places(raw: Path, tmp_path: Path) -> None:
    """A data set inside the folder; one that is the folder, its other way round, a link to it or into it; no folder."""
    assert call(raw / "none", tmp_path / "out")[0] == call(raw, tmp_path / "out")[0] == 4
    picture(raw / "a.png")
    picture(raw / "photos" / "b.png")
    for _ in range(2):
        told = json.loads(call(raw, raw / "set", "--json")[1])
        assert [each["source"] for each in told["items"]] == ["a.png", "photos/b.png"]
    before = tree(raw)
    for name, target in {"link": raw, "inner": raw / "photos"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "images").symlink_to(target)
        code, said = call(raw, tmp_path / name)
        assert code == 7 and "link" in said
    assert call(raw / "a.png", tmp_path / "one")[0] == 0  # a single file, with its caption
    assert names(tmp_path / "one/images") == {"a.png", "a.txt"}
    for place, out in ((raw, raw), (raw / "set/images", raw / "set"), (raw, raw / "a.png")):
        assert call(place, out)[0] == 7
    assert tree(raw) == before


def test_what_others_put_there_stays(prepare: Prepare, raw: Path, out: Path) -> None:
    """What is there by the name of a source; where it would have pieces; where it was in the making."""
    picture(raw / "a.png", caption="mine")
    picture(out / "images/a.jpg", caption="theirs")
    footage(raw / "clip.mp4", 40)
    before = tree(out / "images")
    told = prepare()
    assert item(told, "a.png")["outputs"][0] not in ("images/a.png", "images/a.jpg")
    assert before.items() <= tree(out / "images").items()
    late = out / "videos/clip_02.mp4"
    late.write_bytes(b"theirs")
    footage(raw / "clip.mp4", 200, 25)
    told = prepare()
    assert late.read_bytes() == b"theirs"
    assert len(item(told, "clip.mp4")["outputs"]) == 2
    assert not (out / "videos/clip.mp4").exists()
    unfinished(out, outputs=[])
    (name,) = item(told, "a.png")["outputs"]
    theirs = (out / name).rename((out / name).with_suffix(".jpg"))
    assert item(prepare(), "a.png")["outputs"] == [name]
    assert theirs.exists()


# captions


@symlinks
def test_captions_go_along(prepare: Prepare, raw: Path, out: Path) -> None:
    footage(raw / "long.mp4", 200, 25)
    (raw / "long.txt").write_bytes("it fl\u00fcgt\r\nfar".encode("cp1252"))
    picture(raw / "my_dog-2.png", caption=None)
    picture(raw / "ohwx.png", caption="An OHWX cat")
    picture(raw / "link.png", caption=None)
    (raw / "link.txt").symlink_to("nowhere.txt")  # what was not fetched is no missing caption
    told = prepare("--trigger", "ohwx", "--template", "a {kind} of {trigger}, {name} in {folder}")
    assert told["counts"]["without_caption"] == 1
    assert "link" in item(told, "link.png")["notes"][0] and not (out / "images/link.txt").exists()
    for piece in ("long_01", "long_02"):
        assert (out / f"videos/{piece}.txt").read_bytes() == "ohwx, it fl\u00fcgt\nfar".encode()
    assert (out / "images/my_dog-2.txt").read_text() == "a photo of ohwx, my dog 2 in raw"
    assert (out / "images/ohwx.txt").read_text() == "An OHWX cat"


def test_encodings() -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "cp1252"):
        assert decoded("ein Bär\r\nzwei\rdrei\n".encode(encoding)) == "ein Bär\nzwei\ndrei\n"
    for data in (b"a cat\0", "a cat".encode("utf-16-le")):  # whose words would be a guess
        with pytest.raises(Unfit):
            decoded(data)


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
    footage(raw / "c.mp4", 200, 25)
    for text in ("first", "second", "third"):  # of its pieces one is edited, and the other goes along
        (raw / "c.txt").write_text(text)
        prepare("--again")
        (out / "videos/c_01.txt").write_text("edited")
        assert (out / "videos/c_02.txt").read_text() == text
    assert (out / "images/a.png").stat().st_mtime_ns == media


# again


def test_only_what_is_new_or_changed(prepare: Prepare, raw: Path, out: Path) -> None:
    picture(raw / "a.png")
    Image.new("CMYK", (64, 64)).save(raw / "d.jpg")
    clip = footage(raw / "c.mp4", 200, 25)
    planned = prepare("--dry_run")
    assert not out.exists()
    assert [each["outputs"] for each in prepare()["items"]] == [each["outputs"] for each in planned["items"]]
    assert item(planned, "c.mp4")["outputs"] == ["videos/c_01.mp4", "videos/c_02.mp4"]
    before = tree(out / "images", out / "videos"), (out / RECORD).read_text()
    told = prepare()
    assert {(each["action"], each["reason"]) for each in told["items"]} == {("unchanged", "")}
    assert (tree(out / "images", out / "videos"), (out / RECORD).read_text()) == before
    assert told["counts"]["seconds"] == 8.0
    picture(raw / "b.png")
    footage(clip, 100, 25)
    same = {"a.png": "unchanged", "d.jpg": "unchanged"}
    assert actions(prepare()) == same | {"b.png": "copied", "c.mp4": "converted"}
    assert names(out / "videos") == {"c.mp4", "c.txt"}
    same["b.png"] = "unchanged"  # of pictures a clip's options change nothing
    assert actions(prepare("--max_seconds", "2")) == same | {"c.mp4": "cut"}


def test_what_was_removed_stays_out(prepare: Prepare, raw: Path, out: Path) -> None:
    """It was looked at, and is not wanted, whatever the settings: a picture, a piece; and a source that is gone."""
    for name in ("a.png", "b.png"):
        picture(raw / name, caption=None)
    footage(raw / "c.mp4", 200, 25)
    prepare()
    for name in ("images/a.png", "videos/c_01.mp4"):
        (out / name).unlink()
    (raw / "b.png").unlink()
    for options in ((), ("--background", "black"), ("--max_seconds", "2")):
        told = prepare(*options)
        assert actions(told) == {"a.png": "left out", "c.mp4": "left out"}
        assert "1 of 2 removed from the data set" in item(told, "c.mp4")["reason"]
        assert told["gone"] == ["images/b.png"] and (out / "images/b.png").exists()
        assert {path.name for path in (out / "videos").glob("*.mp4")} == {"c_02.mp4"}
    assert actions(prepare("--again")) == {"a.png": "copied", "c.mp4": "cut"}


def test_a_source_that_moved_is_prepared_again(prepare: Prepare, raw: Path, out: Path, tmp_path: Path) -> None:
    """What was made of it is told, and stays; another folder's file of the same name goes beside it."""
    picture(raw / "a.png", caption="one")
    before = item(prepare(), "a.png")["outputs"]
    told = prepare(place=raw.rename(tmp_path / "elsewhere"))
    (name,) = item(told, "a.png")["outputs"]
    assert told["gone"] == before and name not in before
    assert (out / name).with_suffix(".txt").read_text() == "one"
    assert actions(prepare(place=tmp_path / "elsewhere")) == {"a.png": "unchanged"}


@pytest.mark.parametrize("text", ["{", "[]", '{"sources": []}', '{"sources": {"a": {}}}'])
def test_manifest_that_is_broken(raw: Path, out: Path, text: str) -> None:
    picture(raw / "a.png")
    out.mkdir()
    (out / RECORD).write_text(text)
    assert call(raw, out)[0] == 11
    assert (out / RECORD).read_text() == text


def unfinished(out: Path, **fields: object) -> None:
    """The record as a kill leaves it."""
    record = json.loads((out / RECORD).read_text())
    for row in record["sources"].values():
        row.update({"size": -1, **fields})
    (out / RECORD).write_text(json.dumps(record))


def test_killed(prepare: Prepare, raw: Path, out: Path) -> None:
    """What is there by the names on record is made anew, and no second time; what has no name yet goes."""
    picture(raw / "a.png")
    footage(raw / "c.mp4", 200, 25)
    prepare()
    there = {path for path in out.rglob("*") if path.is_file()}
    (out / "videos" / "b.mp4.wanwrap-part").touch()
    before: dict[str, Any] = {"outputs": None, "settings": {}, "caption": None}
    for fields in (before, {}):  # a source that is new, and one that was made before
        unfinished(out, **fields)
        prepare()
        assert {path for path in out.rglob("*") if path.is_file()} == there
    unfinished(out)
    prepare("--max_seconds", "20")  # what it would no longer have goes
    assert names(out / "videos") == {"c.mp4", "c.txt"}


@signals
def test_interrupted_and_resumed(prepare: Prepare, raw: Path, out: Path) -> None:
    picture(raw / "a.png")
    grain = [noise(seed, (320, 240)) for seed in range(20)]
    quick = {"preset": "ultrafast", "crf": "10"}
    footage(raw / "b.mp4", 200, 25, pictures=grain * 10, size=(320, 240), options=quick)
    argv = [sys.executable, "-m", "wanwrap", "prepare", str(raw), "--out", str(out), "--template", "x"]
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until(lambda: [*out.glob("videos/*.mp4.wanwrap-part")] or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=20)[0].decode()
    assert process.returncode == 130, said
    assert names(out) == {"images", "videos", RECORD} and not names(out / "videos")
    whole = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    prepare("--min_seconds", "1.4")
    assert len(list((out / "videos").glob("*.mp4"))) == 2
    assert {path: path.stat().st_mtime_ns for path in whole} == whole


def test_one_at_a_time(raw: Path, out: Path) -> None:
    picture(raw / "a.png")
    out.mkdir()
    with lock(out / ".wanwrap-prepare", "busy"):
        assert call(raw, out)[0] == 11
    assert call(raw, out)[0] == 0


@limits
@pytest.mark.parametrize("kind", ["clip", "picture"])
def test_full_disk(raw: Path, out: Path, kind: str) -> None:
    grain = noise(0, (320, 240))
    if kind == "clip":
        footage(raw / "a.mp4", 40, 25, pictures=[grain] * 40, size=(320, 240))
    else:
        grain.save(raw / "a.tif")
    env = {**os.environ, "PYTHONPATH": PYTHONPATH}
    argv = [sys.executable, "-m", "wanwrap", "prepare", str(raw), "--out", str(out)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, preexec_fn=file_limit(20_000))
    assert done.returncode == 13, done.stdout + done.stderr
    assert not [path for path in out.rglob("*") if path.suffix in (".png", ".mp4", ".wanwrap-part", ".tmp")]


# the way through


def test_av_without_libx264(monkeypatch: pytest.MonkeyPatch, raw: Path, out: Path) -> None:
    """Told before anything is looked at, with the way out."""

    def missing(*_: object) -> None:
        raise av.codec.codec.UnknownCodecError("libx264")

    footage(raw / "c.mp4", 40)
    monkeypatch.setattr(av, "Codec", missing)
    code, said = call(raw, out)
    assert code == 8 and "--force-reinstall" in said and not out.exists()


@pytest.mark.parametrize(
    ("code", "options"),
    [
        (2, ("--max_size", "0x5")),
        (2, ("--background", "nocolour")),
        (2, ("--max_seconds", "-1")),
        (2, ("--max_seconds", "nan")),
        (7, ("--max_seconds", "1")),
        (7, ("--trigger", "")),
        *((7, ("--template", text)) for text in ("a {thing}", "a {", "{trigger}", " ", "{name.x}", "{0}", "{}")),
    ],
)
def test_bad_options(raw: Path, out: Path, code: int, options: tuple[str, str]) -> None:
    picture(raw / "a.png")
    ended, said = call(raw, out, *options)
    assert ended == code and options[0] in said and not out.exists()


def test_what_it_tells(raw: Path, out: Path) -> None:
    footage(raw / "c.mp4", 200, 25)
    (raw / "bad.png").write_bytes(b"x")
    (raw / "x.psd").write_bytes(b"x")
    code, said = call(raw, out, "--trigger", "ohwx")
    assert code == 4
    for words in ("c.mp4", "1 cut", "1 left out", "1 failed", "2 have"):
        assert words in said
    assert said.count("bad.png;") == 1 and not [*out.glob("videos/*.txt")]


def test_the_bar_goes_on_and_ends_at_its_end(monkeypatch: pytest.MonkeyPatch, raw: Path, out: Path) -> None:
    """Though one takes long; it counts what is told."""
    steps, totals, make = list[int](), list[int](), room.make

    class Bar(console.Console):
        @contextmanager
        def bar(self, _: str, total: int = 0, unit: str = "") -> Iterator[Callable[..., object]]:  # noqa: ARG002
            totals.append(total)
            yield steps.append

    def slowly(*arguments: Any) -> Any:
        time.sleep(1.2)  # twice as long as it waits for anything to be done
        return make(*arguments)

    for name in ("a.png", "b.png"):
        picture(raw / name)
    call(raw / "a.png", out)
    monkeypatch.setattr(room, "make", slowly)
    console.use(Bar())
    try:
        _, said = call(raw, out)
    finally:
        console.use(console.Console())
    assert totals == [sum(steps)] == [2] and len(steps) > 2
    assert "1 copied, 1 unchanged" in said


def test_what_comes_out_can_be_trained(cli: Wanwrap, raw: Path, out: Path) -> None:
    captioned(footage(raw / "turned.mov", 120, 30), "it flies")
    captioned(footage(raw / "long.mkv", 200, 25), "it flies")
    picture(raw / "a.tiff")
    assert cli("prepare", raw, "--out", out).returncode == 0
    done = cli("run", "t2v-vanilla", "--dataset", out, "--dry_run")
    assert done.returncode == 0 and "not used" not in done.stderr, done.stderr
