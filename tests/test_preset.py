"""Preset files: shipped ones hold together, the user's own are told what is wrong with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, golden_plan

from wanwrap.errors import OptionError, PresetError
from wanwrap.plan.request import read
from wanwrap.plan.script import script
from wanwrap.preset import load, name_of, path_of, shipped


def test_the_folder_is_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [*shipped().values()] == sorted((ROOT / "presets").glob("*.py"))
    for name in ("mine_2_1.py", "_shared.py", "notes.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr("wanwrap.preset.folder", lambda _: tmp_path)
    assert shipped() == {"mine-2.1": tmp_path / "mine_2_1.py"}
    assert name_of(Path("wan21_t2v_1_3b_rtx3090.py")) == "wan21-t2v-1.3b-rtx3090"


@pytest.mark.parametrize("name", shipped())
def test_each_is_readable_as_documentation(name: str) -> None:
    preset = load(name)
    assert preset.name == name and len(preset.summary) < 90
    assert "Where the numbers come from:" in preset.doc and preset.base_inference.words()


# how the preset's LoRAs are used, with one of its settings changed
INFERENCE = (
    "from dataclasses import replace\nfrom wanwrap.upstream.sampling import WAN\n"
    "preset = Preset(inference=replace(WAN['t2v-14B'], {}),"
)


def edited(tmp_path: Path, preset: str, old: str = "", new: str = "") -> str:
    """A preset of the user's own, made of a shipped one."""
    source = path_of(preset).read_text(encoding="utf-8")
    assert old in source
    path = tmp_path / "my_own_2_1.py"
    path.write_text(source.replace(old, new), encoding="utf-8")
    return str(path)


def test_ones_own(tmp_path: Path) -> None:
    preset = load(edited(tmp_path, "wan21-t2v-14b", '"learning_rate": 8e-5', '"learning_rate": 1e-5'))
    assert (preset.name, preset.train["learning_rate"]) == ("my-own-2.1", 1e-5)
    one = edited(tmp_path, "t2v-vanilla")
    with Path(one).open("a", encoding="utf-8") as file:
        file.write("from dataclasses import replace\npreset = replace(preset, experts=preset.experts[1:])\n")
    assert [expert.noise_level for expert in read(preset=one).experts] == ["low"]
    with pytest.raises(OptionError, match="high-noise"):
        read(preset=one, noise_level="high")


def test_what_a_run_without_the_merge_is_called(tmp_path: Path) -> None:
    """Nothing is called lightning; and a preset that isn't keeps its name, and says so."""
    mine = edited(tmp_path, "t2v-lightning")
    for name, called, skipped in (
        ("t2v-lightning", "t2v-lightning", "t2v-vanilla"),
        (mine, "my-own-2.1", "my-own-2.1-without-lightning"),
    ):
        assert golden_plan(name).name == f"cats-{called}"
        plan = golden_plan(name, skip_lightning=True)
        assert plan.name == f"cats-{skipped}" and not plan.rewrites
    assert "lightning" not in script(golden_plan("t2v-lightning", skip_lightning=True), "bash")


@pytest.mark.parametrize(
    ("old", "new", "noun"),
    [
        ("summary=", "sumary=", "'sumary'"),
        ('"learning_rate"', '"learnin_rate"', "--learnin_rate.*learning_rate"),
        ('"sdpa": True', '"sdpa": 1', "--sdpa"),
        ('dit="wan2.1-t2v-14b"', 'dit="wan2.1-t2v-14"', "wan2.1-t2v-14b"),
        ("t2v-14B", "t2v-14", "'t2v-14'.*t2v-14B"),
        ("(720, 1280)", "(720, 1270)", "720x1270"),
        ("(720, 1280)", "(720, 1280, 3)", "720x1280x3"),
        ("(1, 21)", "(1, 22)", "22.*4N.1"),
        ("preset = Preset(", "other = Preset(", "preset = "),
        ("preset = Preset(", "1 / 0\npreset = Preset(", "ZeroDivisionError"),
        ("preset = Preset(", "import sys; sys.exit(3)\npreset = Preset(", "SystemExit"),
        ('        "timestep_sampling": "shift",\n', "", "timestep_sampling"),
        ('        "max_train_epochs": 50,\n', "", "max_train_epochs"),
        ('"sdpa": True', '"sdpa": False', "sdpa, xformers"),
        ('{"vae_cache_cpu": True}', '{"dataset_config": "/x"}', "dataset_config"),
        ('(Expert(dit="wan2.1-t2v-14b"),)', '(Expert(dit="wan2.1-t2v-14b"),) * 2', "noise_level"),
        ("frame_sample=2", "frame_sample=0", "frame_sample"),
        ('"uniform"', '"full"', "uniform"),
        ("preset = Preset(", INFERENCE.format("sample_solver='euler'"), "euler.*unipc"),
        ("preset = Preset(", INFERENCE.format("size=(832, 470)"), "832x470"),
        ("preset = Preset(", INFERENCE.format("video_length=80"), "4N.1"),
    ],
)
def test_mistakes(old: str, new: str, noun: str, tmp_path: Path) -> None:
    with pytest.raises(PresetError, match=noun):
        load(edited(tmp_path, "wan21-t2v-14b", old, new))


def test_the_settings_with_lightning_too() -> None:
    lightning = load("t2v-lightning").lightning
    assert lightning
    wrong = replace(lightning, inference=replace(lightning.inference, sample_solver="euler"))
    with pytest.raises(PresetError, match="euler"):
        replace(load("t2v-lightning"), lightning=wrong)


def test_an_expert_of_a_pair_has_its_noise_level() -> None:
    preset = load("t2v-vanilla")
    with pytest.raises(PresetError, match="noise_level"):
        replace(preset, experts=(replace(preset.experts[1], noise_level=None),))


@pytest.mark.parametrize(("other", "noun"), [("t2v-high", "low-noise"), ("i2v-low", "t2v-A14B")])
def test_no_expert_has_anothers_dit(other: str, noun: str, tmp_path: Path) -> None:
    with pytest.raises(PresetError, match=noun):
        load(edited(tmp_path, "t2v-vanilla", 'dit="wan2.2-t2v-low"', f'dit="wan2.2-{other}"'))


@pytest.mark.parametrize(("name", "noun"), [("t2v-lightnin", "t2v-lightning"), ("./nowhere.py", r"nowhere\.py")])
def test_there_is_none(name: str, noun: str) -> None:
    with pytest.raises(PresetError, match=noun):
        load(name)
