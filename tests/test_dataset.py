"""Data sets that would not train, or not as they say: refused with a sentence, a way out, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, captioned, clip, picture
from PIL import Image

from wanwrap.data import config
from wanwrap.data.dataset import Dataset
from wanwrap.data.folder import find
from wanwrap.data.folder import scan as look
from wanwrap.errors import DatasetError
from wanwrap.preset import Preset, load

VANILLA, STYLE, VIDEO = load("t2v-vanilla"), load("t2v-style"), load("wan21-t2v-1.3b-video")


def scan(folder: Path, preset: Preset, *, whole: bool = False) -> Dataset:
    """As a run scans it."""
    return look(folder, preset, whole=whole).sound()


def test_pictures_and_clips_anywhere(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "images" / "b.WEBP")
    clip(tmp_path / "videos" / "c.mp4", frames=73)
    data = scan(tmp_path, VANILLA)
    assert [(entry.kind, entry.directory.name) for entry in data.entries] == [
        ("image", tmp_path.name),
        ("image", "images"),
        ("video", "videos"),
        ("video", "videos"),
    ]
    assert (data.train_items, data.batches, data.steps(50, 1)) == (2 + 2 + 2, 6, 300)


def too_short(folder: Path) -> None:
    clip(folder / "ok.mp4", frames=40)
    clip(folder / "brief.mp4", frames=20)


def latin1(folder: Path) -> None:
    picture(folder / "a.png", caption=None)
    (folder / "a.txt").write_bytes("Müller".encode("latin-1"))


def sixteen_bits(folder: Path) -> None:
    Image.new("I;16", (64, 64)).save(folder / "a.png")
    captioned(folder / "a.png", "grey")


def a_folder(folder: Path) -> None:
    picture(folder / "a.png")
    (folder / "b.png").mkdir()


def a_dead_link(folder: Path) -> None:
    picture(folder / "a.png")
    (folder / "b.png").symlink_to("nowhere")


def damaged_clip(folder: Path) -> None:
    path = clip(folder / "a.mp4")
    path.write_bytes(path.read_bytes()[:300])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty folder": (bool, "holds no pictures or clips"),
    "no caption": (
        lambda folder: picture(folder / "a.png", caption=None),
        "1 of 1 file(s) would not be trained:\n.*a.png: it has no caption (.txt); write",
    ),
    "empty caption": (lambda folder: picture(folder / "a.png", caption=" \n"), "its caption (.txt) is empty; write"),
    "another encoding": (latin1, "its caption (.txt) is not UTF-8; save it"),
    "zero bytes": (lambda folder: captioned(folder / "a.jpg", "x").touch(), "a.jpg: it can't be read"),
    "no picture": (lambda folder: captioned(folder / "a.jpg", "x").write_text("<html>"), "can't be read"),
    "no clip": (lambda folder: captioned(folder / "a.mp4", "x").write_text("<html>"), "can't be read"),
    "damaged clip": (damaged_clip, "can't be read"),
    "same name twice": (
        lambda folder: [picture(folder / "a.png"), picture(folder / "a.jpg")],
        "a.png: it shares its name with a.jpg",
    ),
    "a folder named like a picture": (a_folder, "b.png: it can't be read as a file"),
    "a link to nowhere": (a_dead_link, "b.png: it can't be read as a file"),
    "utf-16": (lambda folder: picture(folder / "a.png", caption="c\0a\0t\0"), "holds bytes of 0, as UTF-16 does"),
    "nothing but a mark": (lambda folder: picture(folder / "a.png", caption="\ufeff"), "its caption (.txt) is empty"),
    "16 bits a channel": (sixteen_bits, "would turn white in upstream"),
    "mixed case": (
        lambda folder: [picture(folder / "b.png"), picture(folder / "a.Jpg")],
        "a.Jpg: upstream passes over an ending in mixed case",
    ),
    "short clips": (too_short, "brief.mp4: its 20 frames at 16 fps are less than 21"),
    "slow clips": (lambda folder: clip(folder / "a.mp4", fps=8), "a.mp4: it runs at 8 fps; below 16"),
    "tiny picture": (lambda folder: picture(folder / "a.png", (12, 400)), "a.png: it is smaller than 16 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    make(tmp_path)
    with pytest.raises(DatasetError, match=message.replace("(", r"\(").replace(")", r"\)")):
        scan(tmp_path, VANILLA)


def test_a_truncated_picture_is_found_when_all_is_decoded(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", (640, 640))
    path.write_bytes(path.read_bytes()[:-400])
    scan(tmp_path, VANILLA)
    with pytest.raises(DatasetError, match="1 of 1 file"):
        scan(tmp_path, VANILLA, whole=True)


def test_clips_for_one_length_only_leave_the_other_entry_out(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", frames=30)
    data = scan(tmp_path, VANILLA)
    assert [entry.options["target_frames"] for entry in data.entries] == [(1, 21)]
    assert data.notes == ("too short for 45 frames, not trained at that length: a.mp4.",)


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    clip(tmp_path / "b.mp4")
    picture(tmp_path / "more" / "c.png")
    for name in ("d.gif", "notes.md", "lonely.txt", ".DS_Store", "._a.png"):
        (tmp_path / name).touch()
    data = scan(tmp_path, STYLE)
    assert data.notes == (
        f"not used in {tmp_path}: d.gif, lonely.txt, more, notes.md.",
        f"t2v-style trains no clips: 1 in {tmp_path} are not used.",
    )
    assert data.train_items == 1


def test_only_clips_for_a_preset_of_pictures(tmp_path: Path) -> None:
    clip(tmp_path / "b.mp4")
    with pytest.raises(DatasetError, match=r"would be trained: b\.mp4: t2v-style trains no clips"):
        scan(tmp_path, STYLE)


def test_clips_of_several_rates_are_entries_of_their_own(tmp_path: Path) -> None:
    """Upstream takes one rate for an entry, and never reads it itself."""
    rates: dict[str, int | Fraction] = {"a": Fraction(24000, 1001), "b": 24, "c": 24, "d": 30, "e": 16}
    for name, fps in rates.items():
        clip(tmp_path / f"{name}.mp4", frames=150, fps=fps)
    entries = scan(tmp_path, VIDEO).entries
    found = {entry.options["source_fps"]: [item.path.stem for item in entry.items] for entry in entries}
    assert found == {16.0: ["e"], 24000 / 1001: ["a"], 24.0: ["b", "c"], 30.0: ["d"]}
    assert all(entry.listed for entry in entries)


def test_phones_keep_a_rate_only_nearly(tmp_path: Path) -> None:
    """The rate that is meant is the cache's, too: one clip more moves no other."""
    for name, fps in {"a": Fraction(2998, 100), "b": Fraction(3001, 100), "c": Fraction(2996, 100)}.items():
        clip(tmp_path / f"{name}.mp4", frames=150, fps=fps)
    found = {entry.options["source_fps"]: [i.path.stem for i in entry.items] for entry in scan(tmp_path, VIDEO).entries}
    assert found == {30000 / 1001: ["a", "c"], 30.0: ["b"]}


def test_folders_that_are_one(tmp_path: Path) -> None:
    """Links that would have everything trained twice."""
    picture(tmp_path / "all" / "a.png")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "images").symlink_to(tmp_path / "all")
    (tmp_path / "d" / "videos").symlink_to(tmp_path / "all")
    assert scan(tmp_path / "d", VANILLA).train_items == 1


def test_source_fps_is_what_the_clips_run_at(tmp_path: Path) -> None:
    clip(tmp_path / "a.mp4", frames=130, fps=24)
    (entry,) = scan(tmp_path, VIDEO).entries
    assert entry.options["source_fps"] == 24.0
    assert entry.keys[0][2] == 73


def test_turned_pictures_are_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg", exif=exif)
    captioned(tmp_path / "a.jpg", "a phone's")
    assert scan(tmp_path, VANILLA).notes == ("turned by its metadata, which upstream ignores: a.jpg.",)


def test_a_folder_of_data_sets_and_a_file(tmp_path: Path) -> None:
    picture(tmp_path / "cats" / "a.png")
    with pytest.raises(DatasetError, match=r"not used in .*: cats"):
        scan(tmp_path, VANILLA)
    with pytest.raises(DatasetError, match="is a file; give the folder"):
        find(str(tmp_path / "cats" / "a.png"), tmp_path / "datasets")


def test_all_bad_captions_are_named_at_once(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", caption=None)
    picture(tmp_path / "b.png", caption="")
    with pytest.raises(
        DatasetError, match=r"2 of 2 file(?s:.*)a.png: it has no caption(?s:.*)b.png: its caption .* is empty"
    ):
        scan(tmp_path, VANILLA)


def test_which_data_set(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no data set in"):
        find(None, tmp_path / "datasets")
    (tmp_path / "datasets" / "cats").mkdir(parents=True)
    assert find(None, tmp_path / "datasets").name == "cats"
    (tmp_path / "datasets" / "dogs").mkdir()
    with pytest.raises(DatasetError, match=r"\(cats, dogs\); say which one"):
        find(None, tmp_path / "datasets")
    assert find("dogs", tmp_path / "datasets") == tmp_path / "datasets" / "dogs"
    assert find(str(tmp_path), tmp_path / "datasets") == tmp_path
    with pytest.raises(DatasetError, match="Did you mean dogs"):
        find("dog", tmp_path / "datasets")


def own(tmp_path: Path, general: str = 'caption_extension = ".txt"', **entry: Any) -> Dataset:
    """A data set TOML with one entry."""
    values = {"cache_directory": str(tmp_path / "cache"), "resolution": [64, 64], **entry}
    rows = "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None)
    path = tmp_path / "own.toml"
    path.write_text(f"[general]\n{general}\n[[datasets]]\n{rows}\n", encoding="utf-8")
    return config.load(path).sound()


def test_own_toml_is_counted_and_kept(tmp_path: Path) -> None:
    picture(tmp_path / "m" / "a.png")
    data = own(tmp_path, image_directory=str(tmp_path / "m"), num_repeats=3, batch_size=2)
    assert (data.config, data.train_items, data.batches) == (tmp_path / "own.toml", 3, 2)


def test_own_toml_says_what_may_not_be_meant(tmp_path: Path) -> None:
    clip(tmp_path / "m" / "a.mp4", frames=60, fps=24)
    data = own(tmp_path, video_directory=str(tmp_path / "m"), target_frames=[5, 81])
    assert data.notes == (
        "[[datasets]] number 1: a.mp4 runs at 24 fps and is taken for 16: motion at 0.67 times its speed.",
        "[[datasets]] number 1: too short for 81 frames, not trained at that length: a.mp4.",
    )


def test_own_toml_whose_clips_cant_share_a_batch(tmp_path: Path) -> None:
    clip(tmp_path / "m" / "a.mp4", size=(64, 48))
    clip(tmp_path / "m" / "b.mp4", size=(48, 64))
    entry: dict[str, Any] = {"video_directory": str(tmp_path / "m"), "target_frames": [5], "batch_size": 2}
    with pytest.raises(DatasetError, match="add enable_bucket = true"):
        own(tmp_path, **entry)
    assert own(tmp_path, **entry, enable_bucket=True).batches == 2


@pytest.mark.parametrize(
    "text", ["general = 3", "datasets = 3", "[datasets]", 'datasets = ["x"]', "[[general]]", "x = 1"]
)
def test_own_toml_of_another_shape(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(DatasetError, match="must hold"):
        config.load(tmp_path / "own.toml")


def test_own_toml_with_a_list_of_clips(tmp_path: Path) -> None:
    path = clip(tmp_path / "m" / "a.mp4", caption=None)
    (tmp_path / "list.jsonl").write_text(json.dumps({"video_path": str(path), "caption": "x"}) + "\n")
    data = own(tmp_path, video_jsonl_file=str(tmp_path / "list.jsonl"), target_frames=[5, 9])
    assert data.train_items == 2


@pytest.mark.parametrize(
    "row",
    [
        {"caption": None},
        {"caption": 5},
        {"caption": ["x"]},
        {"caption": " "},
        {},
        {"image_path": 5, "caption": "x"},
        {"image_path": "a.png", "caption": "x"},
        "[" * 100_000,
    ],
)
def test_own_toml_with_a_list_that_is_none(row: dict[str, Any] | str, tmp_path: Path) -> None:
    path = picture(tmp_path / "m" / "a.png")
    text = row if isinstance(row, str) else json.dumps({"image_path": str(path), **row})
    (tmp_path / "list.jsonl").write_text(text + "\n")
    with pytest.raises(DatasetError, match=r"list\.jsonl (must hold|has)"):
        own(tmp_path, image_jsonl_file=str(tmp_path / "list.jsonl"))
    with pytest.raises(DatasetError, match="there is no file"):
        own(tmp_path, image_jsonl_file="/dev/zero")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_directory": "media"}, "is relative to a folder"),
        ({"video_directory": "{m}", "target_frames": [20]}, r"20.*form 4N\+1"),
        ({"video_directory": "{m}", "target_frames": [81]}, "b.mp4: its 40 frames at 16 fps are less than 81"),
        ({"video_directory": "{m}"}, "trains only the first frame of each clip"),
        ({"video_directory": "{m}", "target_frames": [5], "source_fps": 24}, "must be float, not 24. Write 24.0"),
        ({"video_directory": "{m}", "target_frames": [1], "source_fps": 8.0}, "source_fps below 16"),
        ({"video_directory": "{m}", "target_frames": [5], "frame_extraction": "heads"}, "Did you mean head?"),
        ({"image_directory": "{m}", "resolution": [960, 540]}, "960x540 can't be trained.*multiples of 16"),
        ({"image_directory": "{m}", "num_repeat": 2}, "no key 'num_repeat' there. Did you mean num_repeats?"),
        ({"image_directory": "{m}", "batch_size": 0}, "batch_size must be 1 at least"),
        ({"image_directory": "{m}/none"}, "there is no folder"),
        ({"image_directory": "/"}, "holds no images"),
        ({}, "names neither"),
        ({"image_directory": "{m}", "resolution": [64]}, "64 can't be trained"),
        ({"image_directory": "{m}", "resolution": ["64", "64"]}, "must be a list of whole numbers"),
        ({"image_directory": "{m}", "caption_extension": "txt"}, "must be a dot and an ending"),
        ({"image_directory": "{m}", "control_directory": "x"}, "no key 'control_directory'"),
        ({"image_directory": "{m}", "cache_directory": "/x/\0"}, "cache_directory must be"),
        ({"image_directory": "{m}", "cache_directory": "/x/[a]"}, "can't find its caches"),
    ],
)
def test_own_toml_refused(entry: dict[str, object], message: str, tmp_path: Path) -> None:
    picture(tmp_path / "m" / "a.png")
    clip(tmp_path / "m" / "b.mp4")
    filled: dict[str, Any] = {
        name: value.replace("{m}", str(tmp_path / "m")) if isinstance(value, str) else value
        for name, value in entry.items()
    }
    with pytest.raises(DatasetError, match=message):
        own(tmp_path, **filled)


def test_own_toml_without_captions_extension_or_with_shared_caches(tmp_path: Path) -> None:
    picture(tmp_path / "m" / "a.png")
    with pytest.raises(DatasetError, match="caption_extension is missing"):
        own(tmp_path, general="", image_directory=str(tmp_path / "m"))
    entry = f'[[datasets]]\nimage_directory = "{tmp_path}/m"\nresolution = [64, 64]\n'
    (tmp_path / "two.toml").write_text('[general]\ncaption_extension = ".txt"\n' + entry + entry)
    with pytest.raises(DatasetError, match="share a cache_directory"):
        config.load(tmp_path / "two.toml")
    (tmp_path / "broken.toml").write_text("[general\n")
    with pytest.raises(DatasetError, match="is not valid TOML"):
        config.load(tmp_path / "broken.toml")


def test_one_cache_folder_under_two_names(tmp_path: Path) -> None:
    picture(tmp_path / "m" / "a.png")
    picture(tmp_path / "n" / "a.png")
    (tmp_path / "c").mkdir()
    (tmp_path / "link").symlink_to("c")

    def two(first: str, second: str) -> Dataset:
        pairs = zip("mn", (first, second), strict=True)
        tables = [
            f'[[datasets]]\nimage_directory = "{tmp_path}/{media}"\ncache_directory = "{tmp_path}/{cache}"\n'
            for media, cache in pairs
        ]
        general = '[general]\nresolution = [64, 64]\ncaption_extension = ".txt"\n'
        (tmp_path / "two.toml").write_text(general + "".join(tables))
        return config.load(tmp_path / "two.toml")

    assert two("c", "d").train_items == 2
    for other in ("c/", "./c", "d/../c", "link"):
        with pytest.raises(DatasetError, match="share a cache_directory"):
            two("c", other)


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_written(name: str, tmp_path: Path, wanwrap: Wanwrap) -> None:
    (tmp_path / "data").mkdir()
    BAD[name][0](tmp_path / "data")
    before = sorted((tmp_path / "data").rglob("*"))
    done = wanwrap("run", "t2v-vanilla", "--dataset", tmp_path / "data")
    assert done.returncode == 4
    assert done.stderr.startswith("Error: ") and "Traceback" not in done.stderr
    assert sorted((tmp_path / "data").rglob("*")) == before
    assert not (tmp_path / "home" / "local_training").exists()
