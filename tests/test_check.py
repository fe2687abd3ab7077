"""`wanwrap check`: what of a data set is trained, file by file, through real processes."""

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
import imageio_ffmpeg
import pytest
from helpers import PYTHONPATH, Wanwrap, captioned, clip, picture, record
from PIL import Image, ImageDraw
from raw import footage, noise

from wanwrap.data import read as reading
from wanwrap.data.folder import scan
from wanwrap.errors import DatasetError
from wanwrap.preset import load

VANILLA = load("t2v-vanilla")


def checked(wanwrap: Wanwrap, *arguments: object, code: int = 0) -> dict[str, Any]:
    done = wanwrap("check", *arguments, "--json", standin=False)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {Path(item["path"]).name: item for item in found["items"]}


def film(path: Path, times: list[Fraction], size: tuple[int, int] = (64, 48)) -> Path:
    """A clip whose frames come at the times given, in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_image(Image.new("RGB", size, (number % 256, 90, 160)))  # type: ignore[no-untyped-call]
            frame.pts, frame.time_base = int(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return captioned(path, "it flies")


def pattern(
    path: Path, size: tuple[int, int] = (640, 384), colour: str = "red", caption: str | None = "a ball"
) -> Path:
    """A picture that is like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((0, 0, size[0] // 2, size[1] // 2), fill=colour)
    image.save(path)
    return captioned(path, caption)


def test_what_is_told_of_each_and_in_sum(tmp_path: Path, wanwrap: Wanwrap) -> None:
    folder = tmp_path / "cats"
    pattern(folder / "images" / "a.png", (1600, 900), "red", "ohwx, a ball")
    pattern(folder / "images" / "b.jpg", (200, 400), "blue", "Ohwx on a mat")
    clip(folder / "videos" / "c.mp4", 150, 24, (320, 240), "a cat runs")
    found = checked(wanwrap, folder, "--preset", "t2v-vanilla", "--trigger", "ohwx")
    items = by_name(found)
    assert {name: (item["kept"], item["reason"]) for name, item in items.items()} == dict.fromkeys(items, (True, None))
    assert items["a.png"]["buckets"] == [[1280, 720]] and items["a.png"]["trigger"]
    assert items["b.jpg"]["buckets"] == [[192, 400]] and items["b.jpg"]["caption_length"] == 13
    c = items["c.mp4"]
    assert (c["frames"], c["fps"], c["seconds"], c["clips"], c["trigger"]) == (150, 24.0, 6.25, 4, False)
    assert c["buckets"] == [[1104, 832, 1], [1104, 832, 21], [832, 624, 45], [832, 624, 45]] and c["scale"] > 3
    assert (found["train_items"], found["batches_per_epoch"], found["epochs"], found["total_steps"]) == (6, 6, 50, 300)
    assert found["trainings"] == [{"noise_level": level, "epochs": 50, "steps": 300} for level in ("high", "low")]
    assert found["largest_bucket"] == {"bucket": [832, 624, 45], "tokens": 12 * 52 * 39}
    assert found["upscaled_share"] == pytest.approx(1 / 3)
    assert [entry["source_fps"] for entry in found["entries"] if entry["kind"] == "video"] == [24.0, 24.0]
    text = wanwrap("check", folder, "--preset", "t2v-vanilla", "--trigger", "ohwx", standin=False).stdout
    for words in ("cats, as t2v-vanilla trains it: 2 pictures, 1 clip", "'ohwx' in 2 of 3", "enlarged: 1 of 3 (33%)",
                  "1280x720", "832x624, 45 frames", "6 items in 6 batches per epoch", "train low: 300 steps in 50 epochs", "150 frames at 24 fps, 6.2 s"):  # fmt: skip
        assert words in text


def even(frames: int, fps: int) -> list[Fraction]:
    return [Fraction(number, fps) for number in range(frames)]


def exif(path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.new("RGB", (64, 64)).save(path, exif=tags)


def cut(path: Path) -> None:
    """Frames are there, and fewer than its header says."""
    clip(path, 200)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pos]
    path.write_bytes(path.read_bytes()[: packets[len(packets) // 2].pos or 0])


def moov_first(path: Path, cut: bool = True) -> Path:
    """Cut off in the middle, with its table of frames at its head: it opens, and half of it is gone."""
    whole = clip(path.with_name("whole.mp4"), 200, caption=None)
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    whole.unlink()
    if cut:
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    return path


def broken_inside(path: Path) -> None:
    """A third of its bytes, in the middle, are others."""
    footage(path, 60, codec="mpeg4", pictures=[noise(seed) for seed in range(60)], options={})
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = b"\xff" * third
    path.write_bytes(content)


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


# name -> (what makes it, why it is left out, whether a run stops at it)
LEFT: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "table.mp4": (cut, "can't be read", True),
    "half.mp4": (moov_first, "it can't be read: ", True),
    "inside.avi": (broken_inside, "it can't be read: ", True),
    "uneven.mp4": (lambda p: film(p, [*even(20, 16), *(2 + t for t in even(40, 16))]), "frames come at uneven times", True),
    "one.mp4": (lambda p: clip(p, 1), "its 1 frame is less than 21 at 16 fps", True),
    "gif.gif": (animated, "upstream reads no .gif; `wanwrap prepare` converts it", False),
    "phone.heic": (lambda p: p.write_bytes(b"heic"), "upstream reads no .heic", False),
    "deep.png": (lambda p: Image.new("I;16", (64, 64)).save(p), "would turn white", True),
    "loop.png": (loop, "can't be read as a file", True),
    "TWIN.jpg": (pattern, "", False),
    "TWIN.png": (pattern, "shares its name with TWIN.jpg", True),
    "x" * 230 + ".png": (pattern, "its name is too long for the cache", True),
    "noise.mp4": (lambda p: p.write_bytes(os.urandom(5000)), "can't be read", True),
    "empty.webm": (lambda p: p.write_bytes(b""), "can't be read", True),
}  # fmt: skip


def state(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """A folder's files by size, time and inode."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (about.st_size, about.st_mtime_ns, about.st_ino) for path, about in found.items()}


def test_bad_files_at_once(tmp_path: Path, wanwrap: Wanwrap) -> None:
    """Each is told for itself, and the good ones are judged all the same."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, (make, _, _) in LEFT.items():
        make(folder / name)
        captioned(folder / name, f"about {name[:20]}")
    clip(folder / "fine.mp4", 90, Fraction(30000, 1001), (70, 50))  # odd in half: yuv420p of any even size
    pattern(folder / "lonely.png", colour="green", caption=None)
    for junk in ("Thumbs.db", "desktop.ini", ".DS_Store", "._fine.mp4", ".hidden.png"):
        (folder / junk).write_bytes(b"junk")
    before = state(folder)
    found = checked(wanwrap, folder, "--preset", "t2v-vanilla", code=4)
    items = by_name(found)
    assert items.keys() == {*LEFT, "fine.mp4", "lonely.png"}
    for name, (_, reason, stops) in LEFT.items():
        assert (reason in (items[name]["reason"] or "")) and items[name]["kept"] == (not reason), (name, items[name])
        assert items[name]["stops"] == stops, name
    assert items["fine.mp4"]["kept"] and items["fine.mp4"]["clips"] == 4
    assert items["lonely.png"]["reason"].startswith("it has no caption (.txt); write")
    assert found["total_steps"] == 50 * (4 + 1) and len(found["errors"]) == sum(s for _, _, s in LEFT.values()) + 1
    assert state(folder) == before
    done = wanwrap("run", "t2v-vanilla", "--dataset", folder)
    assert done.returncode == 4 and "and 7 more; `wanwrap check " in done.stderr
    assert not (tmp_path / "home" / "local_training").exists()


def test_what_is_trained_otherwise_than_it_is_seen(tmp_path: Path, wanwrap: Wanwrap) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    exif(folder / "turned.jpg")
    clear = Image.new("RGBA", (80, 64), "red")
    clear.putalpha(Image.linear_gradient("L").resize((80, 64)))
    clear.save(folder / "clear.png")
    Image.new("RGBA", (72, 64), "red").save(folder / "opaque.png")
    Image.new("CMYK", (96, 64)).save(folder / "print.jpg")
    animated(folder / "moving.png")
    turned(folder / "phone.mov")
    footage(folder / "glass.mkv", 40, codec="ffv1", form="yuva420p", pictures=[clear] * 40, size=(80, 64), options={})
    for path in folder.iterdir():
        captioned(path, f"about {path.name}")
    (folder / "opaque.txt").write_bytes(b"\xef\xbb\xbfabout opaque")
    found = checked(wanwrap, folder, "--preset", "t2v-vanilla")
    expected = {
        "turned.jpg": ["turned by its metadata, which upstream ignores"],
        "clear.png": ["transparent in part, and upstream trains what lies under it"],
        "opaque.png": ["a byte order mark begins its caption, and is trained"],
        "print.jpg": ["CMYK, whose colours upstream shifts"],
        "moving.png": ["animated, of which upstream takes the first frame"],
        "phone.mov": ["turned by its metadata, which upstream ignores"],
        "glass.mkv": ["transparent in part, and upstream trains what lies under it"],
    }
    known = {what for remarks in expected.values() for what in remarks}
    remarks = {name: [each for each in item["remarks"] if each in known] for name, item in by_name(found).items()}
    assert remarks == expected
    told = {line.partition(": ")[0]: line for line in found["warnings"]}
    for what, names in {
        "turned by its metadata, which upstream ignores": {"turned.jpg", "phone.mov"},
        "transparent in part, and upstream trains what lies under it": {"clear.png", "glass.mkv"},
        "CMYK, whose colours upstream shifts": {"print.jpg"},
        "animated, of which upstream takes the first frame": {"moving.png"},
        "a byte order mark begins its caption, and is trained": {"opaque.png"},
    }.items():
        assert {*told[what].partition(": ")[2].rstrip(".").split(", ")} == names
    assert any("less than a quarter of the pixels" in line for line in found["warnings"])


def turned(path: Path) -> None:
    """As a phone that is held upright writes it: lying, with a matrix that turns it."""
    lying = clip(path.with_name("lying.mp4"), 40, caption=None)
    argv = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-display_rotation",
        "90",
        "-i",
        str(lying),
        "-c",
        "copy",
        str(path),
    ]
    subprocess.run(argv, check=True)
    lying.unlink()


def test_twice_the_same(tmp_path: Path, wanwrap: Wanwrap) -> None:
    pattern(tmp_path / "d" / "a.png", (640, 400))
    pattern(tmp_path / "d" / "b.jpg", (320, 200))
    pattern(tmp_path / "d" / "c.png", (400, 640), "blue")
    found = checked(wanwrap, tmp_path / "d", "--preset", "t2v-style")
    assert [[Path(path).name for path in group] for group in found["near_duplicates"]] == [["a.png", "b.jpg"]]
    assert any("3 of 3 files share a caption" in line for line in found["warnings"])
    assert any("look the same: a.png, b.jpg" in line for line in found["warnings"])


def test_a_second_time_only_what_has_changed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [pattern(tmp_path / f"{name}.png", (64 + 16 * at, 64)) for at, name in enumerate("abc")]
    seen, read = list[str](), Image.open

    def spy(path: Path) -> Image.Image:
        seen.append(path.name)
        return read(path)

    monkeypatch.setattr(Image, "open", spy)
    monkeypatch.setattr(reading, "_in_child", reading._here)  # where the spy can see it
    first = scan(tmp_path, VANILLA, whole=True)
    assert sorted(seen) == ["a.png", "b.png", "c.png"]
    seen.clear()
    assert scan(tmp_path, VANILLA, whole=True) == first and not seen
    assert scan(tmp_path, VANILLA) == first and not seen  # a dry run knows it too
    pattern(paths[1], (200, 64))
    (tmp_path / "c.txt").write_text("other words")
    again = scan(tmp_path, VANILLA, whole=True)
    assert seen == ["b.png"]
    assert [(item.size, item.caption) for item in again.entries[0].items] == [
        ((64, 64), "a ball"), ((200, 64), "a ball"), ((96, 64), "other words"),
    ]  # fmt: skip


def test_a_cache_of_somebody_elses_making(tmp_path: Path) -> None:
    path = pattern(tmp_path / "a.png")
    first = scan(tmp_path, VANILLA, whole=True)
    kept = reading._place(tmp_path)
    (row,) = json.loads(kept.read_text())["files"].values()
    files = [3, *({str(path): wrong} for wrong in (5, {"stamp": 1}, {**row, "item": {"size": 3}}))]
    for text in ("", "[]", "{}", *(json.dumps({"files": each}) for each in files)):
        kept.write_text(text)
        assert scan(tmp_path, VANILLA, whole=True) == first


def test_what_the_preset_does_not_train(tmp_path: Path, wanwrap: Wanwrap) -> None:
    """Broken clips stop no preset of pictures; a folder of what upstream can't read is told file by file, too."""
    pattern(tmp_path / "d" / "a.png", (960, 960))
    captioned(tmp_path / "d" / "bad.mp4", "x").write_bytes(b"no clip")
    found = by_name(checked(wanwrap, tmp_path / "d", "--preset", "t2v-style"))
    assert found["bad.mp4"]["reason"] == "t2v-style trains no clips" and not found["bad.mp4"]["stops"]
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "a.heic").write_bytes(b"heic")
    found = by_name(checked(wanwrap, tmp_path / "e", code=4))
    assert "`wanwrap prepare` converts it" in found["a.heic"]["reason"]
    done = wanwrap("run", "t2v-style", "--dataset", tmp_path / "e")
    assert done.returncode == 4 and "a.heic: upstream reads no .heic; `wanwrap prepare` converts it" in done.stderr


def test_names_are_the_owners(tmp_path: Path, wanwrap: Wanwrap) -> None:
    pattern(tmp_path / "d" / "images" / "a.png")
    clip(tmp_path / "d" / "videos" / "b.mp4")
    done = wanwrap("check", tmp_path / "d", "--preset", "t2v-vanilla", standin=False)
    assert "\n  images/a.png  " in done.stdout and "\n  videos/b.mp4  " in done.stdout
    assert str(tmp_path) not in done.stdout


def test_clips_that_fade_in_are_not_the_same(tmp_path: Path) -> None:
    for name, colour in {"a": "red", "b": "blue"}.items():
        scene = [Image.new("RGB", (64, 48), "black" if at < 3 else colour) for at in range(40)]
        footage(tmp_path / f"{name}.mp4", 40, pictures=scene, size=(64, 48))
        captioned(tmp_path / f"{name}.mp4", name)
    one, other = scan(tmp_path, VANILLA, whole=True).entries[0].items
    assert one.look is not None and other.look is not None and (one.look ^ other.look).bit_count() > 20


def test_without_buckets_clips_keep_their_shape(tmp_path: Path, wanwrap: Wanwrap) -> None:
    """Upstream groups them by the resolution and caches each at its own: that is what takes memory."""
    clip(tmp_path / "d" / "a.mp4", 30, size=(320, 240))
    own = tmp_path / "own.toml"
    own.write_text(f'[general]\ncaption_extension = ".txt"\n[[datasets]]\nvideo_directory = "{tmp_path.as_posix()}/d"\nresolution = [480, 272]\ntarget_frames = [5]\n')  # fmt: skip
    found = checked(wanwrap, own, "--preset", "t2v-vanilla")
    assert found["items"][0]["buckets"] == [[416, 304, 5]] and found["largest_bucket"]["tokens"] == 2 * 26 * 19


def test_an_avi_that_repeats_frames_is_whole(tmp_path: Path) -> None:
    """Its header counts what its packets leave out."""
    source = film(tmp_path / "v.mp4", [*even(20, 20), *(1 + Fraction(at, 10) for at in range(20))])
    avi = tmp_path / "d" / "v.avi"
    avi.parent.mkdir()
    argv = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        str(source),
        "-c:v",
        "mpeg4",
        "-fps_mode",
        "vfr",
        str(avi),
    ]
    subprocess.run(argv, check=True)
    captioned(avi, "x")
    assert "cut off" not in str(scan(avi.parent, VANILLA, whole=True).left)


def test_a_contact_sheet_takes_no_others_place(tmp_path: Path, wanwrap: Wanwrap) -> None:
    path = pattern(tmp_path / "d" / "a.png", (960, 960))
    content = path.read_bytes()
    (tmp_path / "mine.html").write_text("<p>mine")
    for place, message in {path: "is no .html", tmp_path / "mine.html": "no contact sheet of wanwrap's"}.items():
        done = wanwrap("check", tmp_path / "d", "--preset", "t2v-style", "--contact_sheet", place, standin=False)
        assert done.returncode == 7 and message in done.stderr
    assert path.read_bytes() == content and (tmp_path / "mine.html").read_text() == "<p>mine"
    for _ in range(2):  # its own may be written anew
        done = wanwrap(
            "check",
            tmp_path / "d",
            "--preset",
            "t2v-style",
            "--contact_sheet",
            tmp_path / "new" / "a.html",
            standin=False,
        )
        assert done.returncode == 0, done.stderr


def test_the_contact_sheet(tmp_path: Path, wanwrap: Wanwrap) -> None:
    pattern(tmp_path / "d" / "a.png", caption="<b>a ball</b>")
    clip(tmp_path / "d" / "b.mp4", 30)
    pattern(tmp_path / "d" / "c.png", caption=None)
    done = wanwrap("check", tmp_path / "d", "--preset", "t2v-vanilla", "--contact_sheet", "out.html", standin=False)
    assert done.returncode == 4 and "out.html" in done.stderr
    page = (tmp_path / "home" / "out.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 4  # the clip in two buckets, and what is left out
    assert "&lt;b&gt;a ball&lt;/b&gt;" in page and "it has no caption" in page


def test_which_preset_and_which_data(tmp_path: Path, wanwrap: Wanwrap) -> None:
    pattern(tmp_path / "d" / "a.png", (700, 500))
    assert checked(wanwrap, tmp_path / "d")["preset"] == "t2v-lightning"
    base = tmp_path / "home" / "local_training"
    pattern(base / "datasets" / "cats" / "a.png", (700, 500))
    (base / "wanwrap.toml").write_text('presets = ["wan21-t2v-style"]\n')
    found = checked(wanwrap)
    assert (found["preset"], found["dataset"], found["epochs"], found["total_steps"]) == ("wan21-t2v-style", "cats", 100, 100)  # fmt: skip
    own = tmp_path / "own.toml"
    own.write_text(f'[general]\ncaption_extension = ".txt"\nresolution = 256\n[[datasets]]\nimage_directory = "{tmp_path.as_posix()}/d"\nnum_repeats = 3\n')  # fmt: skip
    found = checked(wanwrap, own, "--preset", "t2v-vanilla")
    assert (found["items"][0]["buckets"], found["train_items"], found["total_steps"]) == ([[256, 256]], 3, 150)
    done = wanwrap("check", "nothing", "--json", standin=False)
    assert done.returncode == 4 and json.loads(done.stdout)["exit_code"] == 4
    assert wanwrap("check", tmp_path / "d", "--preset", "t2v-vanila", standin=False).returncode == 3


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() == 0, reason="rights are not asked of root")
def test_what_may_not_be_read(tmp_path: Path, wanwrap: Wanwrap) -> None:
    pattern(tmp_path / "d" / "a.png").chmod(0)
    assert "can't be read" in checked(wanwrap, tmp_path / "d", code=4)["items"][0]["reason"]


def test_without_the_bad_ones(tmp_path: Path, wanwrap: Wanwrap, weights: list[str]) -> None:
    """--skip_bad: upstream gets a list of what is good, and the number of steps is that of the list."""
    folder = tmp_path / 'my "cats"'
    pattern(folder / "a.png", caption="a ball, 'red' \\ \"round\" ü")
    pattern(folder / "b.png", caption=None)
    clip(folder / "c.mp4", 80, 24)
    clip(folder / "d.mp4", 80, 30)
    clip(folder / "e.mp4", 8, 30)
    words = ("t2v-vanilla", "--dataset", folder, "--any_upstream", *weights, "--noise_level", "low", "--epochs", "2")
    assert wanwrap("run", *words).returncode == 4
    done = wanwrap("run", *words, "--skip_bad")
    assert done.returncode == 0, done.stderr
    assert "note: left out, as you said: b.png, e.mp4." in done.stderr
    toml = record(tmp_path)[0]["toml"]
    assert toml.count("video_jsonl_file") == 3 and toml.count("image_jsonl_file") == 1 and "_directory" in toml
    (out,) = (tmp_path / "home" / "local_training" / "outputs").glob("*/low")
    lists = {path.name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] for path in out.glob("*.jsonl")}  # fmt: skip
    assert [Path(row["image_path"]).name for row in lists["images-1.jsonl"]] == ["a.png"]
    assert lists["images-1.jsonl"][0]["caption"] == "a ball, 'red' \\ \"round\" ü"
    assert sorted(Path(row["video_path"]).name for name in lists if "video" in name for row in lists[name]) == ["c.mp4", "d.mp4"]  # fmt: skip
    found = checked(wanwrap, folder, "--preset", "t2v-vanilla", code=4)
    kept = json.loads((out / "record.json").read_text())
    assert kept["steps_planned"] == kept["steps_done"] == 2 * found["train_items"] == 2 * kept["dataset"]["items"]


def test_captions_that_are_no_files(tmp_path: Path, wanwrap: Wanwrap) -> None:
    for name in "abc":
        pattern(tmp_path / "d" / f"{name}.png", (960, 960), caption=None)
    os.mkfifo(tmp_path / "d" / "a.txt")
    (tmp_path / "d" / "b.txt").symlink_to("/dev/zero")
    (tmp_path / "d" / "c.txt").write_text("\u2003")
    reasons = [item["reason"] for item in checked(wanwrap, tmp_path / "d", "--preset", "t2v-style", code=4)["items"]]
    assert ["has no caption" in why for why in reasons] == [True, True, False] and "is empty" in reasons[2]


def test_a_bad_ending_is_left_out_too(tmp_path: Path, wanwrap: Wanwrap, weights: list[str]) -> None:
    """Upstream gets a list then, and the caches' check does not stumble over it."""
    pattern(tmp_path / "d" / "a.png", (960, 960))
    pattern(tmp_path / "d" / "b.png", (960, 960), "blue").rename(tmp_path / "d" / "b.Png")
    words = ("--dataset", tmp_path / "d", *weights, "--any_upstream", "--noise_level", "low", "--epochs", 1)
    done = wanwrap("run", "t2v-style", *words, "--skip_bad")
    assert done.returncode == 0, done.stderr


def test_a_header_without_a_rate(tmp_path: Path) -> None:
    """As broken recorders leave it: ffmpeg takes 25, which upstream's decoder does too, and `check` shows it."""
    path = footage(tmp_path / "a.avi", 40, codec="mpeg4", options={})
    content = bytearray(path.read_bytes())
    at = content.index(b"strh") + 28  # scale and rate of the stream
    content[at : at + 8] = bytes(8)
    at = content.index(b"avih") + 8  # microseconds a frame
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    captioned(path, "x")
    (item, *_) = scan(tmp_path, VANILLA, whole=True).entries[0].items
    assert (item.frames, item.fps) == (40, 25.0)


def test_a_drive_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a check: each file that could not be read is named, and nothing is taken for good."""
    for at, name in enumerate("abcd"):
        pattern(tmp_path / f"{name}.png", (640 + 16 * at, 640))

    read = Image.open

    def vanish(path: Path) -> Image.Image:
        if path.name > "b.png":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(Image, "open", vanish)
    monkeypatch.setattr(reading, "_in_child", reading._here)
    data = scan(tmp_path, VANILLA, whole=True)
    assert [(left.path.name, "Input/output error" in str(left.problem)) for left in data.left] == [
        ("c.png", True),
        ("d.png", True),
    ]
    monkeypatch.setattr(Image, "open", read)
    assert not scan(tmp_path, VANILLA, whole=True).left  # it is back

    def gone(_: object) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "listdir", gone)
    with pytest.raises(DatasetError, match="can't be read: Input/output error"):
        scan(tmp_path, VANILLA)


def test_nothing_is_written_into_a_data_set(tmp_path: Path, wanwrap: Wanwrap, weights: list[str]) -> None:
    """It may lie on a read-only drive."""
    pattern(tmp_path / "d" / "images" / "a.png", (960, 960))
    clip(tmp_path / "d" / "videos" / "b.mp4", 60)
    folders = [tmp_path / "d", tmp_path / "d" / "images", tmp_path / "d" / "videos"]
    for folder in folders:
        folder.chmod(0o555)
    before = state(tmp_path / "d")
    words = ("--dataset", tmp_path / "d", *weights, "--any_upstream", "--noise_level", "low", "--epochs", 1)
    assert wanwrap("run", "t2v-vanilla", *words).returncode == 0
    assert wanwrap("check", tmp_path / "d", "--contact_sheet", tmp_path / "p.html", standin=False).returncode == 0
    assert state(tmp_path / "d") == before
    for folder in folders:
        folder.chmod(0o755)


def test_the_script_does_the_same(tmp_path: Path, wanwrap: Wanwrap) -> None:
    """Lists of files come with it, and stale caches go when it is run by hand too."""
    clip(tmp_path / "d" / "c.mp4", 80, 24)
    clip(tmp_path / "d" / "d.mp4", 80, 30)
    done = wanwrap("run", "t2v-vanilla", "--dataset", tmp_path / "d", "--dry_run", "--shell", "bash")
    assert done.returncode == 0, done.stderr
    assert "videos-1.jsonl <<'END'" in done.stdout and '"video_path": ' in done.stdout
    assert done.stdout.index(" prune ") < done.stdout.index("wan_cache_latents") and "--skip_existing" in done.stdout


CRASH = """
import os
from PIL import Image
opened = Image.open
def open(path, *more):
    return os.abort() if "bad" in str(path) else opened(path, *more)
Image.open = open
"""


@pytest.mark.skipif(os.name != "posix", reason="a crash by a signal")
def test_a_file_that_crashes_its_decoder_is_named(wanwrap: Wanwrap, tmp_path: Path) -> None:
    """The others are read all the same, and nothing of the decoder's is left in the process that trains all night."""
    for name in ("a", "bad", "c", "worse-bad", "z"):
        picture(tmp_path / "cats" / f"{name}.png")
    custom = tmp_path / "custom"
    custom.mkdir()
    (custom / "sitecustomize.py").write_text(CRASH)
    done = wanwrap("check", tmp_path / "cats", "--json", PYTHONPATH=f"{custom}{os.pathsep}{PYTHONPATH}")
    assert done.returncode == DatasetError.exit_code, done.stderr
    found = by_name(json.loads(done.stdout))
    assert {name for name, row in found.items() if "crashed" in str(row)} == {"bad.png", "worse-bad.png"}
    assert len(found) == 5


def test_files_of_the_current_folder_are_no_modules(tmp_path: Path) -> None:
    """It may be a data set that somebody has downloaded."""
    picture(tmp_path / "cats" / "a.png")
    (tmp_path / "home").mkdir(exist_ok=True)
    for name in ("fractions", "queue", "av"):
        (tmp_path / "home" / f"{name}.py").write_text("raise SystemExit('run as a module')")
    env = {**os.environ, "PYTHONPATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    main = [sys.executable, str(Path(reading.__file__).parents[1] / "__main__.py")]
    argv = [*main, "check", str(tmp_path / "cats"), "--preset", "t2v-style"]
    done = subprocess.run(argv, cwd=tmp_path / "home", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "1 picture" in done.stdout, done


@pytest.mark.parametrize("name", ["cats/", "cats"])
def test_a_data_set_of_the_workspace_by_its_name(name: str, wanwrap: Wanwrap, tmp_path: Path) -> None:
    picture(tmp_path / "home" / "local_training" / "datasets" / "cats" / "a.png")
    assert wanwrap("check", name, "--preset", "t2v-style").returncode == 0
    assert wanwrap("check", name, "--trigger", "").returncode == 7
