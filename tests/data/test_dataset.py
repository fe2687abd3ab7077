"""Data sets that would not train, or not as they say: refused with a sentence, a way out, and nothing written."""

from __future__ import annotations

import json
import os
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


# name -> (its caption, why it is not trained); test_check.py has what is damaged
LEFT: dict[str, tuple[bytes | None, str]] = {
    "none.png": (None, "it has no caption (.txt); write"),
    "empty.png": (b" \n", "its caption (.txt) is empty; write"),
    "mark.png": ("\ufeff".encode(), "its caption (.txt) is empty"),
    "latin1.png": ("Müller".encode("latin-1"), "its caption (.txt) is not UTF-8; save it"),
    "utf16.png": ("cat".encode("utf-16-le"), "its caption (.txt) holds bytes of 0, as UTF-16 does"),
    "mixed.Jpg": (b"x", "upstream passes over an ending in mixed case"),
    "tiny.png": (b"x", "it is smaller than 16 pixels"),
    "slow.mp4": (b"x", "it runs at 8 fps; below 16"),
    "short.mp4": (b"x", "its 20 frames at 16 fps are less than 21"),
}


def test_what_would_not_be_trained_is_refused(tmp_path: Path, wanwrap: Wanwrap) -> None:
    """All of it at once, and nothing is written."""
    folder = tmp_path / "data"
    for name, (caption, _) in LEFT.items():
        if name.endswith(".mp4"):
            clip(folder / name, 20, 8 if name == "slow.mp4" else 16, caption=None)
        else:
            picture(folder / name, (12, 400) if name == "tiny.png" else (64, 64), None)
        if caption is not None:
            (folder / name).with_suffix(".txt").write_bytes(caption)
    clip(folder / "good.mp4")
    before = sorted(folder.rglob("*"))
    data = look(folder, VANILLA)
    assert {item.path.name for item in data.left} == LEFT.keys() and data.train_items
    assert not [item for item in data.left if LEFT[item.path.name][1] not in str(item.problem)]
    done = wanwrap("run", "t2v-vanilla", "--dataset", folder)
    assert done.returncode == 4 and done.stderr.startswith("Error: 9 of 10 file(s) would not be trained:\n")
    assert "and 4 more; `wanwrap check" in done.stderr and "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before and not (tmp_path / "home" / "local_training").exists()


def test_nothing_to_train(tmp_path: Path) -> None:
    picture(tmp_path / "cats" / "a.png")
    with pytest.raises(DatasetError, match=r"holds no pictures or clips .* not used in .*: cats"):
        scan(tmp_path, VANILLA)
    clip(tmp_path / "b.mp4")
    with pytest.raises(DatasetError, match=r"would be trained: b\.mp4: t2v-style trains no clips"):
        scan(tmp_path, STYLE)


def test_of_two_that_share_a_name_the_readable_one_is_trained(tmp_path: Path) -> None:
    """With --skip_bad; case alone makes two names, but where the system's own files know none."""
    picture(tmp_path / "a.png")
    (tmp_path / "a.jpg").write_text("<html>")
    (entry,) = look(tmp_path, STYLE).sound(skip_bad=True).entries
    assert [item.path.name for item in entry.items] == ["a.png"] and entry.listed
    picture(tmp_path / "A.png")
    names = ["A.png"] if os.path.normcase("A") == "a" else ["A.png", "a.png"]
    (entry,) = look(tmp_path, STYLE).sound(skip_bad=True).entries
    assert [item.path.name for item in entry.items] == names


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


def test_clips_of_several_rates_are_entries_of_their_own(tmp_path: Path) -> None:
    """Upstream takes one rate for an entry, and never reads it itself. Phones keep a rate only nearly."""
    rates: dict[str, int | Fraction] = {"a": Fraction(24000, 1001), "b": 24, "c": 24, "d": 30, "e": 16}
    rates |= {"f": Fraction(2998, 100), "g": Fraction(3001, 100)}
    for name, fps in rates.items():
        clip(tmp_path / f"{name}.mp4", frames=150, fps=fps)
    entries = scan(tmp_path, VIDEO).entries
    found = {entry.options["source_fps"]: [item.path.stem for item in entry.items] for entry in entries}
    assert found == {16.0: ["e"], 24000 / 1001: ["a"], 24.0: ["b", "c"], 30000 / 1001: ["f"], 30.0: ["d", "g"]}
    assert all(entry.listed for entry in entries) and entries[2].keys[0][2] == 73


def test_folders_that_are_one(tmp_path: Path) -> None:
    """Links that would have everything trained twice."""
    picture(tmp_path / "all" / "a.png")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "images").symlink_to(tmp_path / "all")
    (tmp_path / "d" / "videos").symlink_to(tmp_path / "all")
    assert scan(tmp_path / "d", VANILLA).train_items == 1


def test_turned_pictures_are_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg", exif=exif)
    captioned(tmp_path / "a.jpg", "a phone's")
    assert scan(tmp_path, VANILLA).notes == ("turned by its metadata, which upstream ignores: a.jpg.",)


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
    with pytest.raises(DatasetError, match="is a file; give the folder"):
        find(str(picture(tmp_path / "a.png")), tmp_path / "datasets")


def test_dots_are_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`..` is not the folder above the data sets, nor `.` that of all."""
    (tmp_path / "here" / "datasets" / "cats").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert [find(name, Path("datasets")) for name in (".", "..")] == [tmp_path / "here", tmp_path]


def own(tmp_path: Path, general: str = 'caption_extension = ".txt"', **entry: Any) -> Dataset:
    """A data set TOML with one entry; `{m}` is the folder of media."""
    values = {"cache_directory": str(tmp_path / "cache"), "resolution": [64, 64], **entry}
    rows = "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None)
    path = tmp_path / "own.toml"
    path.write_text(f"[general]\n{general}\n[[datasets]]\n{rows}\n".replace("{m}", f"{tmp_path}/m"), encoding="utf-8")
    return config.load(path).sound()


def test_own_toml_is_counted_and_kept(tmp_path: Path) -> None:
    """With its batches, which decide on the memory; and what may not be meant is said."""
    picture(tmp_path / "m" / "a.png")
    data = own(tmp_path, image_directory="{m}", num_repeats=3, batch_size=2)
    assert (data.config, data.train_items, data.batches) == (tmp_path / "own.toml", 3, 2)
    assert data.largest and data.largest[0] == 2 * 4 * 4 and not data.notes
    clip(tmp_path / "m" / "a.mp4", frames=60, fps=24)
    assert own(tmp_path, video_directory="{m}", target_frames=[5, 81]).notes == (
        "a.mp4 runs at 24 fps and is taken for 16: motion at 0.67 times its speed.",
        "too short for 81 frames, not trained at that length: a.mp4.",
    )


def test_own_toml_whose_clips_cant_share_a_batch(tmp_path: Path) -> None:
    clip(tmp_path / "m" / "a.mp4", size=(64, 48))
    clip(tmp_path / "m" / "b.mp4", size=(48, 64))
    entry: dict[str, Any] = {"video_directory": "{m}", "target_frames": [5], "batch_size": 2}
    with pytest.raises(DatasetError, match="add enable_bucket = true"):
        own(tmp_path, **entry)
    assert own(tmp_path, **entry, enable_bucket=True).batches == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, "must hold") for text in ("general = 3", "datasets = 3", "[datasets]", 'datasets = ["x"]', "x = 1")),
        ("[general\n", "can't be read as TOML"),
        ("\ufeff[general]\n", "begins with a byte order mark"),
        ("a = " + "[" * 100_000, "can't be read as TOML"),
        ("[general]\nnum_repeat = 2\n[[datasets]]\n", r"'num_repeat' in \[general\].* mean num_repeats"),
    ],
)
def test_own_toml_of_another_shape(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        config.load(tmp_path / "own.toml")


def test_own_toml_with_a_list_of_clips(tmp_path: Path) -> None:
    """Whose captions are its own, whatever lies beside, and though it is named as wanwrap names one."""
    path = clip(tmp_path / "m" / "a.mp4", caption="another")
    file = tmp_path / "videos-1.jsonl"
    file.write_text(json.dumps({"video_path": str(path), "caption": "x"}) + "\n")
    data = own(tmp_path, video_jsonl_file=str(file), target_frames=[5, 9])
    assert data.train_items == 2 and data.entries[0].items[0].caption == "x"


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize(
    "row",
    [
        {"caption": None},
        {"caption": 5},
        {"caption": ["x"]},
        {"caption": " "},
        {},
        {"{kind}_path": 5, "caption": "x"},
        {"{kind}_path": "a.png", "caption": "x"},
        {"{kind}_path": "/\0.png", "caption": "x"},
        {"{kind}_path": "/\ud800.png", "caption": "x"},
        "[" * 100_000,
    ],
)
def test_own_toml_with_a_list_that_is_none(row: dict[str, Any] | str, kind: str, tmp_path: Path) -> None:
    path = picture(tmp_path / "m" / "a.png") if kind == "image" else clip(tmp_path / "m" / "a.mp4")
    text = row if isinstance(row, str) else json.dumps({"{kind}_path": str(path), **row})
    file, frames = tmp_path / "list.jsonl", None if kind == "image" else [1]
    file.write_text(text.replace("{kind}", kind) + "\n")
    entry: dict[str, Any] = {f"{kind}_jsonl_file": str(file), "target_frames": frames}
    with pytest.raises(DatasetError, match=r"list\.jsonl (must hold|has)|read as a file|not UTF-8"):
        own(tmp_path, **entry)


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
        ({"image_directory": "{m}", "num_repeat": 2}, "no key 'num_repeat' in .*Did you mean num_repeats?"),
        ({"image_directory": "{m}", "batch_size": 0}, "batch_size must be 1 at least"),
        ({"image_directory": "{m}/none"}, "there is no folder"),
        ({"image_directory": "/"}, "holds no images"),
        ({"image_jsonl_file": "/dev/zero"}, "there is no file"),
        ({"image_jsonl_file": "/list.jsonl", "cache_directory": None}, "needs a cache_directory"),
        ({"image_directory": "{m}", "image_jsonl_file": "/list.jsonl"}, "the folder alone"),
        ({"image_directory": "{m}", "general": ""}, "caption_extension is missing"),
        ({}, "give image_directory or image_jsonl_file"),
        ({"image_directory": "{m}", "resolution": [64]}, "64 can't be trained"),
        ({"image_directory": "{m}", "resolution": ["64", "64"]}, "must be a list of whole numbers"),
        ({"image_directory": "{m}", "caption_extension": "txt"}, "must be a dot and an ending"),
        ({"image_directory": "{m}", "caption_extension": ".\0"}, "caption_extension must be str"),
        ({"image_directory": "{m}", "caption_extension": ["x"]}, "caption_extension must be str"),
        ({"image_directory": 5}, "image_directory must be str"),
        ({"video_directory": "{m}", "target_frames": 5}, "target_frames must be a list"),
        ({"image_directory": "{m}", "control_directory": "x"}, "no key 'control_directory'"),
        ({"image_directory": "{m}", "cache_directory": "/x/\0"}, "cache_directory must be"),
        ({"image_directory": "{m}", "cache_directory": "/x/[a]"}, "can't find its caches"),
    ],
)
def test_own_toml_refused(entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    picture(tmp_path / "m" / "a.png")
    clip(tmp_path / "m" / "b.mp4")
    with pytest.raises(DatasetError, match=message):
        own(tmp_path, **entry)


def test_one_cache_folder_under_two_names(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "link").symlink_to("c")

    def two(first: str, second: str) -> Dataset:
        tables = ""
        for media, cache in (("m", first), ("n", second)):
            picture(tmp_path / media / "a.png")
            tables += f'[[datasets]]\nimage_directory = "{tmp_path}/{media}"\ncache_directory = "{tmp_path}/{cache}"\n'
        (tmp_path / "two.toml").write_text(f'[general]\nresolution = [64, 64]\ncaption_extension = ".txt"\n{tables}')
        return config.load(tmp_path / "two.toml")

    assert two("c", "d").train_items == 2
    for other in ("c", "c/", "./c", "d/../c", "link"):
        with pytest.raises(DatasetError, match="share a cache_directory"):
            two("c", other)
