"""`--to_comfyui`: refused before the training where it can't be, and never over another file."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import Wanwrap, golden_plan

from wanwrap.errors import OptionError, OutputError, RoomError, WeightsError
from wanwrap.plan.plan import Plan
from wanwrap.run import comfyui

NAMES = ("cats-t2v-vanilla-high.safetensors", "cats-t2v-vanilla-low.safetensors")


@pytest.fixture
def comfy(tmp_path: Path) -> Path:
    """A ComfyUI without LoRAs; the folder."""
    (tmp_path / "ComfyUI" / "models" / "loras").mkdir(parents=True)
    (tmp_path / "ComfyUI" / "models" / "vae").mkdir()
    return tmp_path / "ComfyUI"


@pytest.fixture
def command(cats: Path, weights: list[str]) -> list[object]:
    return ["run", "t2v-vanilla", "--dataset", cats, *weights, "--to_comfyui"]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def known(tmp_path: Path, *homes: Path) -> None:
    """As setup records them."""
    place = tmp_path / "home" / "local_training" / "wanwrap.toml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"comfyui_dir = {json.dumps(list(map(str, homes)))}\n")


def test_the_pair_goes_where_setup_knows(tmp_path: Path, wanwrap: Wanwrap, command: list[object], comfy: Path) -> None:
    known(tmp_path, comfy)
    done = wanwrap(*command)
    assert done.returncode == 0, done.stderr
    loras, out = comfy / "models" / "loras", tmp_path / "home/local_training/outputs/cats-t2v-vanilla"
    assert files(comfy) == {f"models/loras/{name}" for name in NAMES}
    for name in NAMES:
        assert (loras / name).read_bytes() == (out / name).read_bytes()
        assert f"copied to {loras / name}" in done.stdout
    assert "Copy them" not in done.stdout


def test_as_json_the_words_go_to_stderr(wanwrap: Wanwrap, command: list[object], comfy: Path) -> None:
    done = wanwrap(*command, "--comfyui_dir", comfy, "--noise_level", "low", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["state"] == "done", done.stderr
    assert files(comfy) == {f"models/loras/{NAMES[1]}"} and "copied to " in done.stderr


@pytest.mark.parametrize(
    ("break_it", "code", "words"),
    [
        (lambda home: (home / "models/loras" / NAMES[1]).write_text("mine"), 11, f"{NAMES[1]} is there already"),
        (lambda home: (home / "models/loras" / NAMES[1]).symlink_to("gone"), 11, f"{NAMES[1]} is there already"),
        (lambda home: (home / "models/loras").rmdir(), 11, "has no folder for LoRAs; make it"),
        (lambda home: home.rename(home.with_name("else")), 5, "there is no folder"),
    ],
)
def test_refused_before_the_training(
    break_it: Callable[[Path], object],
    code: int,
    words: str,
    tmp_path: Path,
    wanwrap: Wanwrap,
    command: list[object],
    comfy: Path,
) -> None:
    break_it(comfy)
    before = files(tmp_path / "ComfyUI")
    for how in ([], ["--dry_run"]):
        done = wanwrap(*command, "--comfyui_dir", comfy, *how)
        assert done.returncode == code and words in done.stderr and not done.stdout, done.stderr
    assert not (tmp_path / "record.jsonl").exists() and files(tmp_path / "ComfyUI") == before


def test_which_comfyui(tmp_path: Path, wanwrap: Wanwrap, command: list[object], comfy: Path) -> None:
    done = wanwrap(*command)
    assert done.returncode == 7 and "wanwrap.toml has none; give it with --comfyui_dir" in done.stderr
    second = tmp_path / "Second" / "models" / "loras"
    second.mkdir(parents=True)
    known(tmp_path, comfy, tmp_path / "Second")
    done = wanwrap(*command)
    assert done.returncode == 7 and f"has several ({comfy}, {tmp_path / 'Second'})" in done.stderr
    done = wanwrap(*command[:-1], "--comfyui_dir", comfy)
    assert done.returncode == 7 and "give both, or neither" in done.stderr
    done = wanwrap(*command, "--comfyui_dir", tmp_path / "Second", "--noise_level", "low")
    assert done.returncode == 0 and files(second) == {NAMES[1]}, done.stderr
    done = wanwrap(*command[:-1], "--", "--to_comfyui")
    assert done.returncode == 7 and "is wanwrap's own: put it before" in done.stderr


def test_a_dry_run_says_where(wanwrap: Wanwrap, command: list[object], comfy: Path) -> None:
    done = wanwrap(*command, "--comfyui_dir", comfy, "--dry_run")
    assert done.returncode == 0 and f"copies the LoRAs to {comfy / 'models' / 'loras'}" in done.stderr
    assert done.stdout.startswith("#!") and str(comfy) not in done.stdout


@pytest.fixture
def trained(tmp_path: Path) -> Plan:
    """A plan whose LoRAs are there."""
    plan = golden_plan("t2v-vanilla")
    steps = []
    for step in plan.trainings:
        assert step.makes
        made = tmp_path / "out" / step.makes.name
        made.parent.mkdir(exist_ok=True)
        made.write_text(f"the weights of {step.name}")
        steps.append(replace(step, makes=made))
    return replace(plan, steps=tuple(steps))


def shelf(plan: Plan, home: Path) -> comfyui.Shelf:
    return comfyui.check(plan, home, [], lambda _: None)


def test_what_came_meanwhile_stays_and_the_other_is_copied(trained: Plan, comfy: Path) -> None:
    place, loras = shelf(trained, comfy), comfy / "models" / "loras"
    (loras / NAMES[0]).write_text("somebody's")
    with pytest.raises(OutputError) as caught:
        comfyui.place(trained, place)
    message = str(caught.value)
    assert message.startswith("the training is done, and ") and f"copied to {loras / NAMES[1]}" in message
    assert str(trained.trainings[0].makes) in message and str(loras / NAMES[0]) in message
    assert (loras / NAMES[0]).read_text() == "somebody's"
    assert files(loras) == {*NAMES}


def test_the_same_file_there_is_fine(trained: Plan, comfy: Path) -> None:
    first = comfyui.place(trained, shelf(trained, comfy))
    again = comfyui.place(trained, shelf(trained, comfy))
    assert all("copied to" in line for line in first) and all("already, the same" in line for line in again)


def test_a_folder_that_goes_meanwhile(trained: Plan, comfy: Path) -> None:
    place = shelf(trained, comfy)
    place.folder.rmdir()
    with pytest.raises(OutputError, match=r"the training is done, and .*could not be copied .*No such file"):
        comfyui.place(trained, place)


def test_a_disk_that_is_full(trained: Plan, comfy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    place = shelf(trained, comfy)
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(RoomError, match=r"the training is done.*No space left"):
        comfyui.place(trained, place)
    assert files(comfy) == set()


def test_one_name_in_two_folders_would_hide_one(trained: Plan, comfy: Path, tmp_path: Path) -> None:
    """ComfyUI shows one file a name, from whichever folder it looks into first."""
    more = tmp_path / "store" / "Lora"
    more.mkdir(parents=True)
    (comfy / "extra_model_paths.yaml").write_text(f"a111:\n  base_path: {tmp_path}/store\n  loras: Lora\n")
    assert shelf(trained, comfy).folder == comfy / "models" / "loras"
    (more / NAMES[0]).write_text("old")
    with pytest.raises(OutputError, match="is there already"):
        shelf(trained, comfy)


def test_a_folder_that_the_yaml_alone_names(trained: Plan, comfy: Path, tmp_path: Path) -> None:
    (comfy / "models" / "loras").rmdir()
    (tmp_path / "store" / "mine").mkdir(parents=True)
    (comfy / "extra_model_paths.yaml").write_text(
        f"x:\n  base_path: {tmp_path}/store\n  loras: |\n    gone\n    mine # here\n"
    )
    said = list[str]()
    assert comfyui.check(trained, comfy, [], said.append).folder == tmp_path / "store" / "mine"
    assert said and "gone, which is not there" in said[0]


def test_a_stray_folder_beside_models_is_not_comfyuis(trained: Plan, comfy: Path) -> None:
    (comfy / "loras").mkdir()
    assert shelf(trained, comfy).folder == comfy / "models" / "loras"


def test_no_comfyui(trained: Plan, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is no ComfyUI"):
        shelf(trained, tmp_path / "out")
    with pytest.raises(OptionError):
        comfyui.check(trained, None, [], print)
