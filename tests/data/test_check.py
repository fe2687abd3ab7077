"""`wanwrap check`: what of a data set is trained, file by file."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from helpers import PYTHONPATH, Wanwrap, captioned, clip, picture, record
from PIL import Image, ImageDraw
from platforms import QUOTE
from raw import ffmpeg, footage, noise

from wanwrap.data import config
from wanwrap.data import read as reading
from wanwrap.data.check import Checked, Row, check
from wanwrap.data.folder import scan
from wanwrap.errors import DatasetError, OptionError
from wanwrap.look.contact_sheet import check_place
from wanwrap.preset import load

VANILLA, STYLE = load("t2v-vanilla"), load("t2v-style")


def checked(cli: Wanwrap, *arguments: object, code: int = 0, **env: str) -> dict[str, Any]:
    """What it tells as JSON; `items` by their names."""
    done = cli("check", *arguments, "--json", standin=False, **env)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "items": {Path(item["path"]).name: item for item in found["items"]}}


def rows(found: Checked) -> dict[str, Row]:
    return {row.item.path.name: row for row in found.rows}


def ball(path: Path, size: tuple[int, int] = (640, 384), colour: str = "red", caption: str | None = "a ball") -> Path:
    """A picture that is like no other of another colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((0, 0, size[0] // 2, size[1] // 2), fill=colour)
    image.save(path)
    return captioned(path, caption)


def test_what_is_told_of_each_and_in_sum(tmp_path: Path, cli: Wanwrap) -> None:
    folder = tmp_path / "cats"
    ball(folder / "images" / "a.png", (1600, 900), "red", "ohwx, a ball")
    ball(folder / "images" / "b.jpg", (200, 400), "blue", "Ohwx on a mat")
    clip(folder / "videos" / "c.mp4", 150, 24, (320, 240), "a cat runs")
    words = (folder, "--preset", "t2v-vanilla", "--trigger", "ohwx")
    found = checked(cli, *words)
    a, b, c = found["items"].values()
    assert [(item["kept"], item["reason"], item["trigger"]) for item in (a, b, c)] == [
        (True, None, True),
        (True, None, True),
        (True, None, False),
    ]
    assert (a["buckets"], b["buckets"], b["caption_length"]) == ([[1280, 720]], [[192, 400]], 13)
    assert (c["frames"], c["fps"], c["seconds"], c["clips"]) == (150, 24.0, 6.25, 4) and c["scale"] > 3
    assert c["buckets"] == [[1104, 832, 1], [1104, 832, 21], [832, 624, 45], [832, 624, 45]]
    assert (found["train_items"], found["batches_per_epoch"], found["epochs"], found["total_steps"]) == (6, 6, 50, 300)
    assert found["trainings"] == [{"noise_level": level, "epochs": 50, "steps": 300} for level in ("high", "low")]
    assert found["largest_bucket"] == {"bucket": [832, 624, 45], "tokens": 12 * 52 * 39, "batch_tokens": 12 * 52 * 39}
    assert found["upscaled_share"] == pytest.approx(1 / 3)
    assert [entry["source_fps"] for entry in found["entries"] if entry["kind"] == "video"] == [24.0, 24.0]
    assert not any("frame_extraction" in line for line in found["warnings"])
    text = cli("check", *words, standin=False).stdout
    for part in (
        "2 pictures, 1 clip",
        "2 of 3",
        "(33%)",
        "1280x720",
        "6 batches",
        "300 steps",
        "24 fps",
        "images/a.png",
    ):
        assert part in text
    assert str(tmp_path) not in text


def film(path: Path, times: list[Fraction], codec: str = "libx264") -> Path:
    """A clip whose frames come at the times given, in seconds."""
    pictures = [Image.new("RGB", (64, 48), (number % 256, 90, 160)) for number in range(len(times))]
    return footage(path, len(times), 1000, times=times, pictures=pictures, size=(64, 48), codec=codec)


def even(frames: int, fps: int) -> list[Fraction]:
    return [Fraction(number, fps) for number in range(frames)]


def moov_first(path: Path) -> None:
    """Cut off in the middle, with its table of frames at its head: it opens, and half of it is gone."""
    whole = clip(path.with_name("whole.mp4"), 200, caption=None)
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    whole.unlink()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])


def two_thirds(path: Path) -> None:
    """The decoder sees no fault where a mkv ends early."""
    footage(path, 60, pictures=[noise(seed) for seed in range(60)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def spoilt(path: Path) -> None:
    """A third of its bytes, in the middle, are others."""
    quick = {
        "b": "2M",
        "cpu-used": "8",
        "deadline": "realtime",
    }  # whose decoder sees no fault where clusters are missing
    codec, options = {".avi": ("mpeg4", None), ".webm": ("libvpx-vp9", quick)}.get(path.suffix, ("libx264", None))
    footage(path, 60, codec=codec, pictures=[noise(seed) for seed in range(60)], options=options)
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = (bytes(range(250)) * third)[:third]
    path.write_bytes(content)


def one_byte(path: Path) -> None:
    noise(1, (64, 64)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


# name -> (what makes it, of why it is left out, whether a run stops at it)
LEFT: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "half.mp4": (moov_first, "can't be read", True),
    "twothirds.mkv": (two_thirds, "cut off", True),
    **{f"{name}.{name}": (spoilt, "can't be read", True) for name in ("mp4", "avi", "webm")},
    "inside.png": (one_byte, "can't be read", True),
    "end.jpg": (lambda p: p.write_bytes(ball(p).read_bytes()[:-400]), "can't be read", True),
    "uneven.mp4": (lambda p: film(p, [*even(20, 16), *(2 + t for t in even(40, 16))]), "uneven", True),
    "slow.mp4": (lambda p: clip(p, 20, 8), "8 fps", True),
    "one.mp4": (lambda p: clip(p, 1), "1 frame is", True),
    "gif.gif": (animated, "prepare", False),
    "phone.heic": (lambda p: p.write_bytes(b"heic"), ".heic", False),
    "mixed.Png": (ball, "mixed case", True),
    "pixel.png": (lambda p: Image.new("RGB", (12, 400)).save(p), "16 pixels", True),
    "deep.png": (lambda p: Image.new("I;16", (64, 64)).save(p), "16 or 32 bits", True),
    "TWIN.jpg": (ball, "", False),
    "TWIN.png": (ball, "TWIN.jpg", True),
    "x" * 230 + ".png": (ball, "too long", True),
    "noise.mp4": (lambda p: p.write_bytes(os.urandom(5000)), "can't be read", True),
    "empty.webm": (lambda p: p.write_bytes(b""), "can't be read", True),
}
SAID: dict[str, tuple[bytes | Callable[[Path], object] | None, str]] = {  # of captions
    "lonely.png": (None, "no caption"),
    "nul.png": (b"a cat\0on a mat", "bytes of 0"),
    "utf16.png": ("a cat".encode("utf-16"), "UTF-8"),
    "blank.png": ("\u2003".encode(), "empty"),
    "mark.png": ("\ufeff".encode(), "empty"),
}
if sys.platform != "win32":
    LEFT["loop.png"] = (lambda p: p.symlink_to(p.name), "can't be read", True)
    SAID["pipe.png"] = (os.mkfifo, "no caption")
    SAID["device.png"] = (lambda p: p.symlink_to("/dev/zero"), "no caption")


def state(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """A folder's files by size, time and inode."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (about.st_size, about.st_mtime_ns, about.st_ino) for path, about in found.items()}


def test_bad_files_at_once(tmp_path: Path, cli: Wanwrap) -> None:
    """Each is told for itself, and the good ones are judged all the same; nothing is written into the folder.

    What can't be read is nothing to `prepare` either, and it means the same frame rate.
    """
    folder = tmp_path / "data"
    folder.mkdir()
    for name, (make, _, _) in LEFT.items():
        make(folder / name)
        captioned(folder / name, f"about {name[:20]}")
    for name, (caption, _) in SAID.items():
        place = ball(folder / name, colour=f"#{len(name):06x}", caption=None).with_suffix(".txt")
        if callable(caption):
            caption(place)
        elif caption is not None:
            place.write_bytes(caption)
    clip(folder / "fine.mp4", 90, Fraction(298, 10), (70, 50))  # odd in half: yuv420p of any even size
    captioned(film(folder / "gap.avi", [*even(20, 20), *(1 + Fraction(at, 10) for at in range(20))], "mpeg4"), "x")
    for junk in ("Thumbs.db", "desktop.ini", ".DS_Store", "._fine.mp4", ".hidden.png"):
        (folder / junk).write_bytes(b"junk")
    before = state(folder)
    found = checked(cli, folder, "--preset", "t2v-vanilla", code=4)
    items = found["items"]
    assert items.keys() == {*LEFT, *SAID, "fine.mp4", "gap.avi"}
    for name, (_, reason, stops) in {**LEFT, **{name: (0, reason, True) for name, (_, reason) in SAID.items()}}.items():
        assert (reason in (items[name]["reason"] or "")) and items[name]["kept"] == (not reason), (name, items[name])
        assert items[name]["stops"] == stops, name
    assert items["fine.mp4"]["kept"] and items["fine.mp4"]["clips"] == 4
    assert "cut off" not in str(items["gap.avi"])  # whose header counts frames that its packets leave out
    stopping = sum(item["stops"] for item in items.values())
    assert found["total_steps"] == 50 * (4 + 1) and len(found["errors"]) == stopping
    done = cli("run", "t2v-vanilla", "--dataset", folder)
    assert done.returncode == 4 and f"{stopping} of " in done.stderr and f"{stopping - 5} more" in done.stderr
    assert state(folder) == before and not (tmp_path / "home" / "local_training").exists()
    for name in {"pipe.png", "device.png"} & {*SAID}:
        (folder / name).with_suffix(".txt").unlink()
    done = cli("prepare", folder, "--out", tmp_path / "out", "--keep_fps", "--template", "x", "--json")
    made = {item["source"]: item for item in json.loads(done.stdout)["items"]}
    for name, item in items.items():
        if any(words in (item["reason"] or "") for words in ("can't be read", "cut off", "smaller than")):
            assert not made[name]["outputs"] and made[name]["reason"], name
    assert made["fine.mp4"]["fps"] == items["fine.mp4"]["fps"] == 30000 / 1001


def test_what_is_trained_otherwise_than_it_is_seen(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.new("RGB", (64, 64)).save(tmp_path / "turned.jpg", exif=tags)
    clear = Image.new("RGBA", (80, 64), "red")
    clear.putalpha(Image.linear_gradient("L").resize((80, 64)))
    clear.save(tmp_path / "clear.png")
    Image.new("RGBA", (72, 64), "red").save(tmp_path / "opaque.png")
    Image.new("CMYK", (96, 64)).save(tmp_path / "print.jpg")
    animated(tmp_path / "moving.png")
    lying = clip(tmp_path / "lying.mp4", 40, caption=None)
    ffmpeg(
        "-display_rotation", 90, "-i", lying, "-c", "copy", tmp_path / "phone.mov"
    )  # as a phone that is held upright
    lying.unlink()
    footage(tmp_path / "glass.mkv", 40, codec="ffv1", form="yuva420p", pictures=[clear] * 40, size=(80, 64))
    for path in [*tmp_path.iterdir()]:
        captioned(path, f"about {path.name}")
    (tmp_path / "opaque.txt").write_bytes(b"\xef\xbb\xbfabout opaque")
    expected = {
        "turned": ["turned.jpg", "phone.mov"],
        "transparent": ["clear.png", "glass.mkv"],
        "byte order mark": ["opaque.png"],
        "CMYK": ["print.jpg"],
        "animated": ["moving.png"],
    }
    found = check(scan(tmp_path, VANILLA, whole=True))
    warnings = [*found.warnings()]
    for what, names in expected.items():
        assert [line for line in warnings if what in line and line.endswith(f": {', '.join(names)}.")], what
        assert [name for name, row in rows(found).items() if what in str(row.remarks)] == sorted(names)
    assert any("quarter" in line for line in warnings)
    quickly = scan(tmp_path, VANILLA).notes  # as a run without its caches looks
    assert any("turned" in line for line in quickly)


def test_twice_the_same(tmp_path: Path) -> None:
    """Pictures, and captions; not clips that fade in alike."""
    ball(tmp_path / "a.png", (640, 400))
    ball(tmp_path / "b.jpg", (320, 200))
    ball(tmp_path / "c.png", (400, 640), "blue")
    for name, colour in {"d": "red", "e": "blue"}.items():
        scene = [Image.new("RGB", (64, 48), "black" if at < 3 else colour) for at in range(40)]
        captioned(footage(tmp_path / f"{name}.mp4", 40, pictures=scene, size=(64, 48)), name)
    found = check(scan(tmp_path, VANILLA, whole=True))
    assert [[path.name for path in group] for group in found.alike] == [["a.png", "b.jpg"]]
    assert "b.jpg" in str(rows(found)["a.png"].remarks)
    ends = [line.rpartition(": ")[2] for line in found.warnings()]
    assert {"a.png, b.jpg.", "a.png, b.jpg, c.png."} <= {*ends}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that are read, in this process; those named "gone" can't be."""
    seen, read = list[str](), Image.open

    def spy(path: Path) -> Image.Image:
        seen.append(path.name)
        if "gone" in path.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(Image, "open", spy)
    monkeypatch.setattr(
        reading,
        "_in_child",
        lambda files, whole: (reading.read_file(path, kind, whole) for path, kind in files.items()),
    )
    return seen


def test_a_second_time_only_what_has_changed_is_read(tmp_path: Path, opened: list[str]) -> None:
    paths = [ball(tmp_path / f"{name}.png", (64 + 16 * at, 64)) for at, name in enumerate("abc")]
    scan(tmp_path, VANILLA)
    opened.clear()
    first = scan(tmp_path, VANILLA, whole=True)  # of which more is known than of a glance
    assert sorted(opened) == ["a.png", "b.png", "c.png"]
    opened.clear()
    assert scan(tmp_path, VANILLA, whole=True) == scan(tmp_path, VANILLA) == first and not opened  # nor by a dry run
    ball(paths[1], (200, 64))
    (tmp_path / "c.txt").write_text("other words")
    again = scan(tmp_path, VANILLA, whole=True)
    assert opened == ["b.png"]
    found = [(item.size, item.caption) for item in again.entries[0].items]
    assert found == [((64, 64), "a ball"), ((200, 64), "a ball"), ((96, 64), "other words")]
    row = {str(paths[0]): {"whole": True, "stamp": reading.stamp_of(paths[0]), "found": {"of": "another version"}}}
    for text in ("", "5", "[1]", json.dumps({str(paths[0]): 3}), json.dumps(row)):  # a cache that is none
        reading._place(str(tmp_path)).write_text(text)
        assert scan(tmp_path, VANILLA, whole=True) == again


def test_a_clip_whose_size_changes(tmp_path: Path) -> None:
    """As browsers record them: upstream goes by the first frame."""
    sizes = ((320, 240), (160, 128))
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream("libvpx", rate=16, options={"cpu-used": "8", "deadline": "realtime"})
        (stream.width, stream.height), stream.pix_fmt = sizes[0], "yuv420p"
        for at, size in enumerate(sizes):
            codec: Any = av.CodecContext.create("libvpx", "w")
            (codec.width, codec.height), codec.pix_fmt, codec.time_base = size, "yuv420p", Fraction(1, 16)
            codec.options = {"cpu-used": "8", "deadline": "realtime"}
            for number in [*range(24 * at, 24 * at + 24), None]:
                frame: Any = None
                if number is not None:
                    frame = av.VideoFrame(*size, "yuv420p")
                    frame.pts, frame.time_base = number, codec.time_base
                for packet in codec.encode(frame):
                    packet.stream = stream
                    container.mux(packet)
    (tmp_path / "a.txt").write_text("a ball")
    for whole in (False, True):
        (clip,) = scan(tmp_path, VANILLA, whole=whole).entries[0].items
        assert (clip.size, clip.frames) == (sizes[0], 48)


def test_a_drive_that_vanishes(tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a check: each file that could not be read is named, and is read again the next time."""
    for at, name in enumerate(("a", "b", "gone", "gone-too")):
        ball(tmp_path / f"{name}.png", (640 + 16 * at, 640))
    for _ in range(2):
        left = scan(tmp_path, VANILLA, whole=True).left
        assert [item.path.name for item in left if "Input/output" in str(item.problem)] == ["gone-too.png", "gone.png"]
    assert [opened.count(name) for name in ("a.png", "gone.png")] == [1, 2]

    def gone(_: object) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "listdir", gone)
    with pytest.raises(DatasetError, match="Input/output"):
        scan(tmp_path, VANILLA)


def test_what_the_preset_does_not_train(tmp_path: Path) -> None:
    """Broken clips stop no preset of pictures; a folder of what upstream can't read is told file by file, too."""
    captioned(tmp_path / "bad.mp4", "x").write_bytes(b"no clip")
    (tmp_path / "a.heic").write_bytes(b"heic")
    found = check(scan(tmp_path, STYLE, whole=True))
    assert "no clips" in str(rows(found)["bad.mp4"].item.problem) and not found.stopping
    assert "prepare" in str(rows(found)["a.heic"].item.problem) and found.exit_code == 4


def test_ones_own_toml(tmp_path: Path) -> None:
    """What takes the memory is a whole batch; without buckets upstream caches each clip at its own shape all the same."""
    clip(tmp_path / "d" / "a.mp4", 160, size=(320, 240))
    own = tmp_path / "own.toml"

    def found(more: str) -> Checked:
        general = '[general]\ncaption_extension = ".txt"\nresolution = [480, 272]\n[[datasets]]\n'
        own.write_text(f'{general}video_directory = "{tmp_path.as_posix()}/d"\n{more}')
        return check(config.load(own, whole=True))

    short = found("target_frames = [5]\nbatch_size = 3\nnum_repeats = 2\n")
    assert short.rows[0].keys == [(416, 304, 5)]
    assert short.dataset.largest == (2 * 2 * 26 * 19, (416, 304, 5)) and [*short.warnings()] == []
    for more, count, longest in (
        ('target_frames = [5, 9]\nframe_extraction = "chunk"\n', 49, 9),
        ('frame_extraction = "full"\n', 1, 129),
    ):
        (warning,) = found(more).warnings()
        assert f" {count} item" in warning and f" {longest} frames" in warning


def test_the_contact_sheet(tmp_path: Path, cli: Wanwrap) -> None:
    """It takes no other's place; its own may be written anew."""
    ball(tmp_path / "d" / "a.png", caption="<b>a ball</b>")
    clip(tmp_path / "d" / "b.mp4", 30)
    ball(tmp_path / "d" / "c.png", caption=None)
    words = (tmp_path / "d", "--preset", "t2v-vanilla", "--contact_sheet", "new/out.html")
    for _ in range(2):
        done = cli("check", *words, standin=False)
        assert done.returncode == 4 and "out.html" in done.stderr
    page = (tmp_path / "home" / "new" / "out.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 4  # the clip in two buckets, and what is left out
    assert "&lt;b&gt;a ball&lt;/b&gt;" in page and "no caption" in page
    (tmp_path / "mine.html").write_text("<p>mine")
    for place in (tmp_path / "d" / "a.png", tmp_path / "mine.html"):
        with pytest.raises(OptionError):
            check_place(place)


def test_which_preset_and_which_data(tmp_path: Path, cli: Wanwrap) -> None:
    base = tmp_path / "home" / "local_training"
    ball(base / "datasets" / "cats" / "a.png", (700, 500))
    assert checked(cli, "cats/")["preset"] == "t2v-vanilla"
    (base / "wanwrap.toml").write_text('presets = ["wan21-t2v-style"]\n')
    found = checked(cli)
    assert [found[name] for name in ("preset", "dataset", "epochs", "total_steps")] == ["wan21-t2v-style", "cats", 100, 100]  # fmt: skip
    own = tmp_path / "own.toml"
    own.write_text(f'[general]\ncaption_extension = ".txt"\nresolution = 256\n[[datasets]]\nimage_directory = "{base.as_posix()}/datasets/cats"\nnum_repeats = 3\n')  # fmt: skip
    found = checked(cli, own, "--preset", "t2v-vanilla")
    assert found["items"]["a.png"]["buckets"] == [[256, 256]]
    assert (found["train_items"], found["total_steps"]) == (3, 150)
    for words, code in ((("nothing",), 4), (("cats", "--preset", "t2v-vanila"), 3), (("cats", "--trigger", ""), 7)):
        done = cli("check", *words, "--json", standin=False)
        assert done.returncode == json.loads(done.stdout)["exit_code"] == code


def test_without_the_bad_ones(tmp_path: Path, cli: Wanwrap, weights: list[str]) -> None:
    """--skip_bad: upstream gets a list of what is good, and the number of steps is that of the list."""
    folder, caption = tmp_path / f"my {QUOTE}cats{QUOTE}", "a ball, 'red' \\ \"round\" ü"
    ball(folder / "a.png", caption=caption)
    ball(folder / "b.png", caption=None)
    clip(folder / "c.mp4", 80, 24)
    clip(folder / "d.mp4", 80, 30)
    clip(folder / "e.mp4", 8, 30)
    words = ("t2v-vanilla", "--dataset", folder, "--any_upstream", *weights, "--noise_level", "low", "--epochs", "2")
    assert cli("run", *words).returncode == 4
    before = state(folder)
    done = cli("run", *words, "--skip_bad")
    assert done.returncode == 0, done.stderr
    assert state(folder) == before  # it may lie on a read-only drive
    assert "b.png, e.mp4" in done.stderr
    toml = record(tmp_path)[0]["toml"]
    assert toml.count("video_jsonl_file") == 3 and toml.count("image_jsonl_file") == 1 and "_directory" in toml
    (out,) = (tmp_path / "home" / "local_training" / "outputs").glob("*/low")
    lists = {path.name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in out.glob("*.jsonl")}  # fmt: skip
    (row,) = lists["images-1.jsonl"]
    assert (Path(row["image_path"]).name, row["caption"]) == ("a.png", caption)
    assert sorted(Path(row["video_path"]).name for name in lists if "video" in name for row in lists[name]) == ["c.mp4", "d.mp4"]  # fmt: skip
    kept = json.loads((out / "record.json").read_text())
    planned = 2 * scan(folder, VANILLA).train_items
    assert kept["steps_planned"] == kept["steps_done"] == planned == 2 * kept["dataset"]["items"]
    script = cli("run", *words, "--skip_bad", "--dry_run", "--shell", "bash").stdout  # which does the same
    assert "videos-2.jsonl <<'END'" in script and '"video_path": ' in script
    assert script.index(" prune ") < script.index("wan_cache_latents") and "--skip_existing" in script


def test_a_header_without_a_rate(tmp_path: Path) -> None:
    """As broken recorders leave it: ffmpeg takes 25, which upstream's decoder does too, and `check` shows it."""
    path = captioned(footage(tmp_path / "a.avi", 40, codec="mpeg4"), "x")
    content = bytearray(path.read_bytes())
    at = content.index(b"strh") + 28  # scale and rate of the stream
    content[at : at + 8] = bytes(8)
    at = content.index(b"avih") + 8  # microseconds a frame
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    (item, *_) = scan(tmp_path, VANILLA, whole=True).entries[0].items
    assert (item.frames, item.fps) == (40, 25.0)


CRASH = """
import os
from PIL import Image
opened = Image.open
def open(path, *more):
    return os.abort() if "bad" in str(path) else opened(path, *more)
Image.open = open
"""


def test_a_file_that_crashes_its_decoder_is_named(cli: Wanwrap, tmp_path: Path) -> None:
    """The others are read all the same, and nothing of the decoder's is left in the process that trains all night."""
    names = {name: picture(tmp_path / "cats" / f"{name}.png") for name in ("a", "bad", "c", "worse-bad", "z")}
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    found = checked(cli, tmp_path / "cats", code=4, PYTHONPATH=f"{tmp_path}{os.pathsep}{PYTHONPATH}")["items"]
    assert {name for name, row in found.items() if "crashed" in str(row)} == {"bad.png", "worse-bad.png"}
    assert len(found) == len(names)


def test_files_of_the_current_folder_are_no_modules(tmp_path: Path) -> None:
    """It may be a data set that somebody has downloaded."""
    picture(tmp_path / "cats" / "a.png")
    (tmp_path / "home").mkdir(exist_ok=True)
    for name in ("fractions", "queue", "av"):
        (tmp_path / "home" / f"{name}.py").write_text("raise SystemExit('run as a module')")
    env = {**os.environ, "PYTHONPATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    main = [sys.executable, str(Path(reading.__file__).parents[1] / "__main__.py")]
    argv = [*main, "check", str(tmp_path / "cats"), "--preset", "t2v-style"]
    done = subprocess.run(argv, cwd=tmp_path / "home", env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0 and "1 picture" in done.stdout, done
