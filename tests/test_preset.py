"""Preset files: shipped ones hold together, the user's own are told what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from wanwrap.errors import PresetError
from wanwrap.preset import load, name_of, path_of, shipped

TWELVE = {
    "t2v-lightning",
    "t2v-vanilla",
    "i2v-lightning",
    "i2v-vanilla",
    "wan21-t2v-14b",
    "wan21-t2v-1.3b",
    "wan21-i2v-480p",
    "wan21-i2v-720p",
    "t2v-style",
    "wan21-t2v-style",
    "wan21-t2v-1.3b-rtx3090",
    "wan21-t2v-1.3b-video",
}


def test_the_folder_is_the_registry() -> None:
    assert set(shipped()) == TWELVE


@pytest.mark.parametrize("name", sorted(TWELVE))
def test_each_is_readable_as_documentation(name: str) -> None:
    preset = load(name)
    assert preset.name == name
    for heading in ("Where the numbers come from:", "At inference:"):
        assert heading in preset.doc
    assert len(preset.summary) < 90


def test_unknown() -> None:
    with pytest.raises(PresetError, match="Did you mean t2v-lightning"):
        load("t2v-lightnin")


def edited(tmp_path: Path, old: str, new: str) -> str:
    source = path_of("wan21-t2v-14b").read_text(encoding="utf-8")
    assert old in source
    path = tmp_path / "my_own_2_1.py"
    path.write_text(source.replace(old, new), encoding="utf-8")
    return str(path)


def test_ones_own(tmp_path: Path) -> None:
    preset = load(edited(tmp_path, '"learning_rate": 8e-5', '"learning_rate": 1e-5'))
    assert (preset.name, preset.train["learning_rate"]) == ("my-own-2.1", 1e-5)
    assert name_of(Path("wan21_t2v_1_3b_rtx3090.py")) == "wan21-t2v-1.3b-rtx3090"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("summary=", "sumary=", "no field 'sumary'. Did you mean summary?"),
        ("Pictures(resolution=", "Pictures(resolutoin=", "Did you mean resolution?"),
        ('"learning_rate"', '"learnin_rate"', "no option --learnin_rate. Did you mean learning_rate?"),
        ('"seed": 42', '"seed": "x"', "--seed takes a whole number"),
        ('"sdpa": True', '"sdpa": 1', "--sdpa takes no value"),
        ('dit="wan2.1-t2v-14b"', 'dit="wan2.1-t2v-14"', "Did you mean wan2.1-t2v-14b?"),
        ("t2v-14B", "t2v-14", "wanwrap trains .*; not 't2v-14'. Did you mean t2v-14B?"),
        ("(720, 1280)", "(720, 1270)", "720x1270 can't be trained: both sides must be multiples of 16"),
        ("(1, 21)", "(1, 22)", r"\[1, 22\] must be of the form 4N\+1.*nearest below 22 is 21"),
        ("preset = Preset(", "preset = Preset((", "line"),
        ("preset = Preset(", "other = Preset(", "must define `preset"),
    ],
)
def test_mistakes(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PresetError, match=message):
        load(edited(tmp_path, old, new))


def test_no_such_file() -> None:
    with pytest.raises(PresetError, match="there is no preset file"):
        load("./nowhere.py")
