"""`--to_comfyui`: refused before the training where it can't be, and never over another file."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import Wanwrap, golden_plan
from runs import calls, folder

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
    return ["run", "t2v-vanilla", cats, *weights, "--epochs", 2, "--to_comfyui"]


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
    loras, out = comfy / "models" / "loras", folder(tmp_path)
    assert files(comfy) == {f"models/loras/{name}" for name in NAMES}
    for name in NAMES:
        assert (loras / name).read_bytes() == (out / name).read_bytes()
        assert f"copied to {loras / name}" in done.stdout
    assert "Copy them" not in done.stdout


def test_as_json_the_words_go_to_stderr(wanwrap: Wanwrap, command: list[object], comfy: Path) -> None:
    done = wanwrap(*command, "--comfyui_dir", comfy, "--noise_level", "low", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["experts"]["low"]["state"] == "done", done.stderr
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


def test_after_a_restart_the_new_one_takes_its_place(
    tmp_path: Path, wanwrap: Wanwrap, command: list[object], comfy: Path
) -> None:
    """What stands there is this run's own, of before."""
    command += ["--comfyui_dir", comfy, "--noise_level", "low"]
    assert wanwrap(*command).returncode == 0
    done = wanwrap(*command, "--restart", "--seed", 7)
    assert done.returncode == 0 and "copied to" in done.stdout, done.stderr
    made, placed, old = (
        path / NAMES[1] for path in (folder(tmp_path), comfy / "models" / "loras", folder(tmp_path) / "before-1")
    )
    assert placed.read_bytes() == made.read_bytes() != old.read_bytes()


def test_a_finished_run_is_copied_without_gpu_and_upstream(
    tmp_path: Path, wanwrap: Wanwrap, command: list[object], comfy: Path
) -> None:
    assert wanwrap(*command[:-1]).returncode == 0
    done = wanwrap(*command, "--comfyui_dir", comfy, "--python", "/bin/false", standin=False, STANDIN_GPUS="0")
    assert done.returncode == 0, done.stderr
    assert {*files(comfy)} == {f"models/loras/{name}" for name in NAMES} and len(calls(tmp_path)) == 2


def test_a_finished_run_is_copied_without_weights(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path, comfy: Path
) -> None:
    """Those that setup has found may be gone."""
    files, rows = dict(zip(("wan2.2-t2v-low", "vae", "t5"), map(Path, weights[3::2]), strict=True)), list[str]()
    for name, path in files.items():
        stat = path.stat()
        rows.append(f'"{name}" = {{ path = "{path}", bytes = {stat.st_size}, mtime_ns = {stat.st_mtime_ns} }}\n')
    folder(tmp_path).parents[1].mkdir(parents=True)
    (folder(tmp_path).parents[1] / "wanwrap.toml").write_text(f"[weights]\n{''.join(rows)}")
    run = ("run", "t2v-vanilla", cats, "--noise_level", "low", "--epochs", 2)
    assert wanwrap(*run).returncode == 0
    for path in files.values():
        path.unlink()
    done = wanwrap(*run, "--to_comfyui", "--comfyui_dir", comfy)
    assert done.returncode == 0 and "copied to" in done.stdout, done.stderr


@pytest.fixture
def trained(tmp_path: Path) -> Plan:
    """A plan whose LoRAs are there."""
    plan = golden_plan("t2v-vanilla")
    steps = tuple(replace(train, folder=tmp_path / "out" / train.expert) for train in plan.trainings)
    (tmp_path / "out").mkdir()
    for train in steps:
        train.lora.write_text(f"the weights of {train.name}")
    return replace(plan, steps=steps)


def shelf(plan: Plan, home: Path) -> Path:
    return comfyui.check(plan, home, [])


def test_what_came_meanwhile_stays(trained: Plan, comfy: Path) -> None:
    place, loras = shelf(trained, comfy), comfy / "models" / "loras"
    (loras / NAMES[0]).write_text("somebody's")
    with pytest.raises(OutputError) as caught:
        comfyui.place(trained, place)
    message = str(caught.value)
    assert message.startswith("the training is done, and ")
    assert str(trained.trainings[0].lora) in message and str(loras / NAMES[0]) in message
    assert (loras / NAMES[0]).read_text() == "somebody's"


def test_the_same_file_there_is_fine(trained: Plan, comfy: Path) -> None:
    first = comfyui.place(trained, shelf(trained, comfy))
    again = comfyui.place(trained, shelf(trained, comfy))
    assert all("copied to" in line for line in first) and all("already, the same" in line for line in again)


def test_a_folder_that_goes_meanwhile(trained: Plan, comfy: Path) -> None:
    place = shelf(trained, comfy)
    place.rmdir()
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


def test_a_folder_that_the_yaml_alone_names(trained: Plan, comfy: Path, tmp_path: Path) -> None:
    (comfy / "models" / "loras").rmdir()
    (tmp_path / "store" / "mine").mkdir(parents=True)
    (comfy / "extra_model_paths.yaml").write_text(
        f"x:\n  base_path: {tmp_path}/store\n  loras: |\n    gone\n    mine # here\n"
    )
    assert shelf(trained, comfy) == tmp_path / "store" / "mine"


def test_a_stray_folder_beside_models_is_not_comfyuis(trained: Plan, comfy: Path) -> None:
    (comfy / "loras").mkdir()
    assert shelf(trained, comfy) == comfy / "models" / "loras"


def test_no_comfyui(trained: Plan, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is no ComfyUI"):
        shelf(trained, tmp_path / "out")
    with pytest.raises(OptionError):
        comfyui.check(trained, None, [])
