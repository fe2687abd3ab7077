"""Preset files: shipped ones hold together, the user's own are told what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import golden_plan

from wanwrap.errors import OptionError, PresetError
from wanwrap.plan.request import read
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


def edited(tmp_path: Path, old: str, new: str, preset: str = "wan21-t2v-14b") -> str:
    source = path_of(preset).read_text(encoding="utf-8")
    assert old in source
    path = tmp_path / "my_own_2_1.py"
    path.write_text(source.replace(old, new), encoding="utf-8")
    return str(path)


def test_a_preset_of_one_expert_has_no_other(tmp_path: Path) -> None:
    path = tmp_path / "low.py"
    more = "from dataclasses import replace\npreset = replace(preset, experts=preset.experts[1:])\n"
    path.write_text(f"{path_of('t2v-vanilla').read_text(encoding='utf-8')}\n{more}", encoding="utf-8")
    with pytest.raises(OptionError, match="no high-noise expert"):
        read(preset=str(path), noise_level="high")
    assert [expert.noise_level for expert in read(preset=str(path)).experts] == ["low"]


def test_ones_own(tmp_path: Path) -> None:
    preset = load(edited(tmp_path, '"learning_rate": 8e-5', '"learning_rate": 1e-5'))
    assert (preset.name, preset.train["learning_rate"]) == ("my-own-2.1", 1e-5)
    assert name_of(Path("wan21_t2v_1_3b_rtx3090.py")) == "wan21-t2v-1.3b-rtx3090"


def test_no_expert_has_the_others_dit(tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="the low-noise expert"):
        load(edited(tmp_path, 'dit="wan2.2-t2v-low"', 'dit="wan2.2-t2v-high"', "t2v-vanilla"))
    with pytest.raises(PresetError, match="no DiT for t2v-A14B"):
        load(edited(tmp_path, 'dit="wan2.2-t2v-low"', 'dit="wan2.2-i2v-low"', "t2v-vanilla"))


def test_what_a_run_without_the_merge_is_called(tmp_path: Path) -> None:
    """Nothing is called lightning; and a preset that isn't keeps its name, and says so."""
    (tmp_path / "mine.py").write_text(path_of("t2v-lightning").read_text(encoding="utf-8"), encoding="utf-8")
    called = [
        golden_plan(preset, skip_lightning=skip).name.removeprefix("cats-")
        for preset in ("t2v-lightning", str(tmp_path / "mine.py"))
        for skip in (False, True)
    ]
    assert called == ["t2v-lightning", "t2v-vanilla", "mine", "mine-without-lightning"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("summary=", "sumary=", "'sumary'"),
        ("Pictures(resolution=", "Pictures(resolutoin=", "'resolutoin'"),
        ('"learning_rate"', '"learnin_rate"', "--learnin_rate.*learning_rate"),
        ('"seed": 42', '"seed": "x"', "--seed"),
        ('"sdpa": True', '"sdpa": 1', "--sdpa"),
        ('dit="wan2.1-t2v-14b"', 'dit="wan2.1-t2v-14"', "wan2.1-t2v-14b"),
        ("t2v-14B", "t2v-14", "'t2v-14'.*t2v-14B"),
        ("(720, 1280)", "(720, 1270)", "720x1270"),
        ("(1, 21)", "(1, 22)", "22.*4N.1"),
        ("preset = Preset(", "preset = Preset((", "line"),
        ("preset = Preset(", "other = Preset(", "preset = "),
        ("preset = Preset(", "1 / 0\npreset = Preset(", "ZeroDivisionError"),
        ("preset = Preset(", "import sys; sys.exit(3)\npreset = Preset(", "SystemExit: 3"),
        ('        "timestep_sampling": "shift",\n', "", "timestep_sampling"),
        ('        "network_alpha": 24,\n', "", "network_alpha"),
        ('        "max_train_epochs": 50,\n', "", "max_train_epochs"),
        ('"sdpa": True', '"sdpa": False', "flash3, flash_attn, sdpa, xformers"),
        ('"sdpa": True', '"sdpa": True, "dit": "/x"', "dit"),
        ('{"vae_cache_cpu": True}', '{"dataset_config": "/x"}', "dataset_config"),
        ('experts=(Expert(dit="wan2.1-t2v-14b"),)', "experts=()", "noise_level"),
        ('(Expert(dit="wan2.1-t2v-14b"),)', '(Expert(dit="wan2.1-t2v-14b"),) * 2', "noise_level"),
        ("(720, 1280)", "(720, 1280, 3)", "720x1280x3"),
        ("frame_sample=2", "frame_sample=0", "frame_sample"),
        ('"uniform"', '"full"', "head, chunk, uniform"),
    ],
)
def test_mistakes(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PresetError, match=message):
        load(edited(tmp_path, old, new))


def test_no_such_file() -> None:
    with pytest.raises(PresetError, match="there is no preset file"):
        load("./nowhere.py")
