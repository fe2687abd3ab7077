"""Data sets that would not train, or not as they say: refused with a way out; what is trained, counted."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from helpers import clip, picture
from platforms import symlinks

from wanwrap.data import config
from wanwrap.data.dataset import Dataset
from wanwrap.data.folder import find, scan
from wanwrap.errors import DatasetError
from wanwrap.preset import load

VANILLA, STYLE, VIDEO = load("t2v-vanilla"), load("t2v-style"), load("wan21-t2v-1.3b-video")


def test_pictures_and_clips_anywhere(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "images" / "b.WEBP")
    clip(tmp_path / "videos" / "c.mp4", frames=73)
    data = scan(tmp_path, VANILLA).sound()
    places = [(entry.kind, entry.directory.name) for entry in data.entries]
    assert places == [("image", tmp_path.name), ("image", "images"), ("video", "videos"), ("video", "videos")]
    assert (data.train_items, data.batches, data.steps(50, 1)) == (2 + 2 + 2, 6, 300)


@symlinks
def test_folders_that_are_one(tmp_path: Path) -> None:
    """Links that would have everything trained twice."""
    picture(tmp_path / "all" / "a.png")
    (tmp_path / "d").mkdir()
    for name in ("images", "videos"):
        (tmp_path / "d" / name).symlink_to(tmp_path / "all")
    assert scan(tmp_path / "d", VANILLA).train_items == 1


def test_nothing_to_train(tmp_path: Path) -> None:
    picture(tmp_path / "cats" / "a.png")
    with pytest.raises(DatasetError, match="cats"):
        scan(tmp_path, VANILLA)
    clip(tmp_path / "b.mp4")
    with pytest.raises(DatasetError, match=r"b\.mp4.* no clips"):
        scan(tmp_path, STYLE).sound()


def test_of_two_that_share_a_name_the_readable_one_is_trained(tmp_path: Path) -> None:
    """With --skip_bad; case alone makes two names, but on a drive that knows none."""
    picture(tmp_path / "a.png")
    (tmp_path / "a.jpg").write_text("<html>")
    (entry,) = scan(tmp_path, STYLE).sound(skip_bad=True).entries
    assert [item.path.name for item in entry.items] == ["a.png"] and entry.listed
    picture(tmp_path / "A.png")
    names = ["a.png"] if (tmp_path / "A.jpg").exists() else ["A.png", "a.png"]
    (entry,) = scan(tmp_path, STYLE).sound(skip_bad=True).entries
    assert [item.path.name for item in entry.items] == names


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    """Also at which length a clip is not trained."""
    picture(tmp_path / "a.png")
    clip(tmp_path / "b.mp4", frames=30)
    picture(tmp_path / "more" / "c.png")
    for name in ("d.gif", "notes.md", "lonely.txt", ".DS_Store", "._a.png"):
        (tmp_path / name).touch()
    files, clips = scan(tmp_path, STYLE).notes
    assert files.endswith(": d.gif, lonely.txt, more, notes.md.") and "clips: 1" in clips
    data = scan(tmp_path, VANILLA)
    assert [entry.options.get("target_frames") for entry in data.entries] == [None, (1, 21)]
    assert "45" in data.notes[1] and data.notes[1].endswith(": b.mp4.")


def test_clips_of_several_rates_are_entries_of_their_own(tmp_path: Path) -> None:
    """Upstream takes one rate for an entry, and never reads it itself. Phones keep a rate only nearly."""
    rates: dict[str, int | Fraction] = {"a": Fraction(24000, 1001), "b": 24, "c": 24, "d": 30, "e": 16}
    rates |= {"f": Fraction(2998, 100), "g": Fraction(3001, 100)}
    for name, fps in rates.items():
        clip(tmp_path / f"{name}.mp4", frames=150, fps=fps)
    entries = scan(tmp_path, VIDEO).sound().entries
    found = {entry.options["source_fps"]: [item.path.stem for item in entry.items] for entry in entries}
    assert found == {16.0: ["e"], 24000 / 1001: ["a"], 24.0: ["b", "c"], 30000 / 1001: ["f"], 30.0: ["d", "g"]}
    assert all(entry.listed for entry in entries) and entries[2].keys[0][2] == 73


def test_which_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`..` is a path, and not the folder above the data sets, nor `.` that of all."""
    datasets = tmp_path / "here" / "datasets"

    def refused(name: str | None, match: str) -> None:
        with pytest.raises(DatasetError, match=match):
            find(name, datasets)

    refused(None, "no data set")
    (datasets / "cats").mkdir(parents=True)
    assert find(None, datasets).name == "cats"
    (datasets / "dogs").mkdir()
    refused(None, "cats, dogs")
    refused("dog", "mean dogs")
    refused(str(picture(tmp_path / "a.png")), "is a file")
    assert find("dogs", datasets) == datasets / "dogs" and find(str(tmp_path), datasets) == tmp_path
    monkeypatch.chdir(tmp_path / "here")
    assert [find(name, Path("datasets")) for name in (".", "..")] == [tmp_path / "here", tmp_path]


def own(tmp_path: Path, general: str = 'caption_extension = ".txt"', **entry: Any) -> Dataset:
    """A data set TOML with one entry; `{m}` is the folder of media."""
    values = {"cache_directory": str(tmp_path / "cache"), "resolution": [64, 64], **entry}
    rows = "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None)
    path = tmp_path / "own.toml"
    path.write_text(
        f"[general]\n{general}\n[[datasets]]\n{rows}\n".replace("{m}", f"{tmp_path.as_posix()}/m"), encoding="utf-8"
    )
    return config.load(path).sound()


def test_own_toml_is_counted_and_kept(tmp_path: Path) -> None:
    """With its batches, which decide on the memory; and what may not be meant is said."""
    picture(tmp_path / "m" / "a.png")
    data = own(tmp_path, image_directory="{m}", num_repeats=3, batch_size=2)
    assert (data.config, data.train_items, data.batches) == (tmp_path / "own.toml", 3, 2)
    assert data.largest and data.largest[0] == 2 * 4 * 4 and not data.notes
    clip(tmp_path / "m" / "a.mp4", frames=60, fps=24)
    speed, short = own(tmp_path, video_directory="{m}", target_frames=[5, 81]).notes
    assert "0.67" in speed and "81 frames" in short


def test_own_toml_whose_clips_cant_share_a_batch(tmp_path: Path) -> None:
    clip(tmp_path / "m" / "a.mp4", size=(64, 48))
    clip(tmp_path / "m" / "b.mp4", size=(48, 64))
    entry: dict[str, Any] = {"video_directory": "{m}", "target_frames": [5], "batch_size": 2}
    with pytest.raises(DatasetError, match="enable_bucket"):
        own(tmp_path, **entry)
    assert own(tmp_path, **entry, enable_bucket=True).batches == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        *((text, "must hold") for text in ("general = 3", "datasets = 3", "[datasets]", 'datasets = ["x"]', "x = 1")),
        ("[general\n", "TOML"),
        ("\ufeff[general]\n", "byte order mark"),
        ("a = " + "[" * 100_000, "TOML"),
        ("[general]\nnum_repeat = 2\n[[datasets]]\n", r"\[general\].* num_repeats"),
    ],
)
def test_own_toml_of_another_shape(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(DatasetError, match=match):
        config.load(tmp_path / "own.toml")


def test_own_toml_with_a_list_of_clips(tmp_path: Path) -> None:
    """Whose captions are its own, whatever lies beside, and though it is named as wanwrap names one."""
    path = clip(tmp_path / "m" / "a.mp4", caption="another")
    file = tmp_path / "videos-1.jsonl"
    file.write_text(json.dumps({"video_path": str(path), "caption": "x"}) + "\n")
    data = own(tmp_path, video_jsonl_file=str(file), target_frames=[5, 9])
    assert data.train_items == 2 and data.entries[0].items[0].caption == "x"


BAD_ROWS: list[dict[str, Any] | str] = [
    *({"caption": caption} for caption in (None, 5, ["x"], " ")),
    {},
    *({"image_path": path, "caption": "x"} for path in (5, "a.png", "/\0.png", "/\ud800.png")),
    "[" * 100_000,
]


@pytest.mark.parametrize("row", BAD_ROWS)
def test_own_toml_with_a_list_that_is_none(row: dict[str, Any] | str, tmp_path: Path) -> None:
    path, file = picture(tmp_path / "m" / "a.png"), tmp_path / "list.jsonl"
    text = row if isinstance(row, str) else json.dumps({"image_path": str(path), **row})
    file.write_text(text + "\n")
    with pytest.raises(DatasetError, match=r"list\.jsonl|file|UTF-8"):
        own(tmp_path, image_jsonl_file=str(file))


DRIVE = Path(__file__).anchor.replace("\\", "/")
IMAGES = {"image_directory": "{m}"}
CLIPS = {"video_directory": "{m}", "target_frames": [5]}


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ({"image_directory": "media"}, "relative"),
        ({**CLIPS, "target_frames": [20]}, r"20.*4N\+1"),
        ({**CLIPS, "target_frames": [81]}, "b.mp4: .* 81"),
        ({**CLIPS, "target_frames": None}, "first frame"),
        ({**CLIPS, "source_fps": 24}, "24.0"),
        ({**CLIPS, "target_frames": [1], "source_fps": 8.0}, "source_fps"),
        ({**CLIPS, "frame_extraction": "heads"}, "mean head"),
        ({**CLIPS, "target_frames": 5}, "target_frames"),
        ({**IMAGES, "resolution": [960, 540]}, "960x540"),
        ({**IMAGES, "resolution": [64]}, "64 can't"),
        ({**IMAGES, "resolution": ["64", "64"]}, "resolution"),
        ({**IMAGES, "num_repeat": 2}, "num_repeats"),
        ({**IMAGES, "batch_size": 0}, "batch_size"),
        ({"image_directory": "{m}/none"}, "no folder"),
        ({"image_directory": DRIVE}, "no images"),
        ({"image_directory": 5}, "image_directory"),
        ({"image_jsonl_file": f"{DRIVE}dev/zero"}, "no file"),
        ({"image_jsonl_file": f"{DRIVE}list.jsonl", "cache_directory": None}, "cache_directory"),
        ({**IMAGES, "image_jsonl_file": f"{DRIVE}list.jsonl"}, "folder alone"),
        ({**IMAGES, "general": ""}, "caption_extension"),
        ({}, "image_jsonl_file"),
        ({**IMAGES, "caption_extension": "txt"}, "dot"),
        ({**IMAGES, "caption_extension": ".\0"}, "must be str"),
        ({**IMAGES, "cache_directory": f"{DRIVE}x/[a]"}, r"\["),
    ],
)
def test_own_toml_refused(entry: dict[str, Any], match: str, tmp_path: Path) -> None:
    picture(tmp_path / "m" / "a.png")
    clip(tmp_path / "m" / "b.mp4")
    with pytest.raises(DatasetError, match=match):
        own(tmp_path, **entry)


@symlinks
def test_one_cache_folder_under_two_names(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "link").symlink_to("c")
    for other in ("d", "c", "c/", "./c", "d/../c", "link"):
        tables = ""
        for media, cache in (("m", "c"), ("n", other)):
            picture(tmp_path / media / "a.png")
            place = tmp_path.as_posix()
            tables += f'[[datasets]]\nimage_directory = "{place}/{media}"\ncache_directory = "{place}/{cache}"\n'
        (tmp_path / "two.toml").write_text(f'[general]\nresolution = [64, 64]\ncaption_extension = ".txt"\n{tables}')
        if other == "d":
            assert config.load(tmp_path / "two.toml").train_items == 2
            continue
        with pytest.raises(DatasetError, match="cache_directory"):
            config.load(tmp_path / "two.toml")
