"""`--to_comfyui`: refused before the training where it can't be, and never over another file."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import Wanwrap, golden_plan
from platforms import symlinks
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
def command(low: tuple[object, ...]) -> tuple[object, ...]:
    return (*low, "--epochs", 2, "--to_comfyui")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def known(tmp_path: Path, *homes: Path) -> None:
    """As setup records them."""
    place = tmp_path / "home" / "local_training" / "wanwrap.toml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"comfyui_dir = {json.dumps(list(map(str, homes)))}\n")


def test_a_finished_pair_goes_where_setup_knows(
    tmp_path: Path, cli: Wanwrap, command: tuple[object, ...], comfy: Path
) -> None:
    """Without GPU and upstream."""
    both = (*command, "--noise_level", "both")
    assert cli(*both[: both.index("--to_comfyui")], "--noise_level", "both").returncode == 0
    known(tmp_path, comfy)
    done = cli(*both, "--python", "/bin/false", standin=False, STANDIN_GPUS="0")
    assert done.returncode == 0, done.stderr
    assert files(comfy) == {f"models/loras/{name}" for name in NAMES} and len(calls(tmp_path)) == 2
    for name in NAMES:
        copy = comfy / "models" / "loras" / name
        assert copy.read_bytes() == (folder(tmp_path) / name).read_bytes() and f"copied to {copy}" in done.stdout


def test_it_is_said_before_and_after(cli: Wanwrap, command: tuple[object, ...], comfy: Path) -> None:
    """With --json on stderr."""
    dry = cli(*command, "--comfyui_dir", comfy, "--dry_run")
    assert dry.returncode == 0 and str(comfy / "models" / "loras") in dry.stderr
    assert dry.stdout.startswith("#") and str(comfy) not in dry.stdout
    done = cli(*command, "--comfyui_dir", comfy, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["experts"]["low"]["state"] == "done", done.stderr
    assert files(comfy) == {f"models/loras/{NAMES[1]}"} and "copied to " in done.stderr


@pytest.mark.parametrize(
    ("break_it", "code", "noun"),
    [
        (lambda home: (home / "models/loras" / NAMES[1]).write_text("mine"), 11, NAMES[1]),
        pytest.param(lambda home: (home / "models/loras" / NAMES[1]).symlink_to("gone"), 11, NAMES[1], marks=symlinks),
        (lambda home: (home / "models/loras").rmdir(), 11, "no folder for LoRAs"),
        (lambda home: home.rename(home.with_name("else")), 5, "ComfyUI"),
    ],
)
def test_refused_before_the_training(
    break_it: Callable[[Path], object],
    code: int,
    noun: str,
    tmp_path: Path,
    cli: Wanwrap,
    command: tuple[object, ...],
    comfy: Path,
) -> None:
    break_it(comfy)
    before = files(tmp_path / "ComfyUI")
    for how in ([], ["--dry_run"]):
        done = cli(*command, "--comfyui_dir", comfy, *how)
        assert done.returncode == code and noun in done.stderr and not done.stdout, done.stderr
    assert not (tmp_path / "record.jsonl").exists() and files(tmp_path / "ComfyUI") == before


def test_which_comfyui(tmp_path: Path, cli: Wanwrap, command: tuple[object, ...], comfy: Path) -> None:
    done = cli(*command)
    assert done.returncode == 7 and "--comfyui_dir" in done.stderr
    second = tmp_path / "Second" / "models" / "loras"
    second.mkdir(parents=True)
    known(tmp_path, comfy, tmp_path / "Second")
    done = cli(*command)
    assert done.returncode == 7 and f"({comfy}, {tmp_path / 'Second'})" in done.stderr
    assert cli(*command[:-1], "--comfyui_dir", comfy).returncode == 7  # it says nothing without the other
    assert cli(*command[:-1], "--", "--to_comfyui").returncode == 7  # it is none of upstream's
    done = cli(*command, "--comfyui_dir", tmp_path / "Second")
    assert done.returncode == 0 and files(second) == {NAMES[1]} and not files(comfy), done.stderr


def test_after_a_restart_the_new_one_takes_its_place(
    tmp_path: Path, cli: Wanwrap, command: tuple[object, ...], comfy: Path
) -> None:
    """What stands there is this run's own, of before."""
    command = (*command, "--comfyui_dir", comfy)
    assert cli(*command).returncode == 0
    done = cli(*command, "--restart", "--seed", 7)
    assert done.returncode == 0 and "copied to" in done.stdout, done.stderr
    places = (folder(tmp_path), comfy / "models" / "loras", folder(tmp_path) / "before-1")
    made, placed, old = ((place / NAMES[1]).read_bytes() for place in places)
    assert placed == made != old


def test_a_finished_run_is_copied_without_weights(
    tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path, comfy: Path
) -> None:
    """Those that setup has found may be gone."""
    files, rows = dict(zip(("wan2.2-t2v-low", "vae", "t5"), map(Path, weights[3::2]), strict=True)), list[str]()
    for name, path in files.items():
        stat = path.stat()
        rows.append(
            f'"{name}" = {{ path = "{path.as_posix()}", bytes = {stat.st_size}, mtime_ns = {stat.st_mtime_ns} }}\n'
        )
    folder(tmp_path).parents[1].mkdir(parents=True)
    (folder(tmp_path).parents[1] / "wanwrap.toml").write_text(f"[weights]\n{''.join(rows)}")
    run = ("run", "t2v-vanilla", cats, "--noise_level", "low", "--epochs", 2)
    assert cli(*run).returncode == 0
    for path in files.values():
        path.unlink()
    done = cli(*run, "--to_comfyui", "--comfyui_dir", comfy)
    assert done.returncode == 0 and "copied to" in done.stdout, done.stderr


def test_the_workflow_is_listed_by_comfyui(
    tmp_path: Path, cli: Wanwrap, command: tuple[object, ...], comfy: Path
) -> None:
    """Of one expert, then, as that was wanwrap's own, of both."""
    user, name = comfy / "user" / "default", folder(tmp_path).name
    user.mkdir(parents=True)
    command = (*command, "--comfyui_dir", comfy)
    one, two = user / "workflows" / f"{name}.json", folder(tmp_path) / "comfyui_workflow.json"
    for level, loras in (("low", NAMES[1:]), ("both", NAMES)):
        done = cli(*command, "--noise_level", level)
        assert done.returncode == 0 and f"copied to {one}" in done.stdout and str(two) in done.stdout, done.stderr
        text = one.read_text(encoding="utf-8")
        assert text == two.read_text(encoding="utf-8") and [lora in text for lora in NAMES] == [
            lora in loras for lora in NAMES
        ]
    prompt = next(node for node in json.loads(text)["nodes"] if node["title"] == "Prompt")
    assert prompt["widgets_values"] == ["a red balloon"]


def test_after_a_restart_its_workflow_takes_the_old_ones_place(
    tmp_path: Path, cli: Wanwrap, command: tuple[object, ...], comfy: Path
) -> None:
    """What is listed is this run's own; one that breaks off leaves no workflow of LoRAs that are put aside."""
    (comfy / "user" / "default").mkdir(parents=True)
    command, place = (*command, "--comfyui_dir", comfy), folder(tmp_path) / "comfyui_workflow.json"
    assert cli(*command).returncode == 0
    old = place.read_bytes()
    assert cli(*command, "--restart", STANDIN_DO="fail").returncode == 10 and not place.exists()
    assert (folder(tmp_path) / "before-1" / place.name).read_bytes() == old
    done = cli(*command, "--restart", "--epochs", 3)
    assert done.returncode == 0 and "stays as it is" not in done.stdout, done.stderr
    listed = comfy / "user" / "default" / "workflows" / f"{folder(tmp_path).name}.json"
    assert listed.read_bytes() == place.read_bytes() != old


def test_loras_are_copied_whatever_the_workflow_does(
    cli: Wanwrap, command: tuple[object, ...], comfy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("euler")

    monkeypatch.setattr("wanwrap.look.workflow.write", broken)
    with pytest.raises(KeyError):
        cli(*command, "--comfyui_dir", comfy)
    assert files(comfy) == {f"models/loras/{NAMES[1]}"}


def test_another_workflow_is_refused_before_the_training(
    tmp_path: Path, cli: Wanwrap, command: tuple[object, ...], comfy: Path
) -> None:
    place = comfy / "user" / "default" / "workflows" / f"{folder(tmp_path).name}.json"
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    for how in ([], ["--dry_run"]):
        done = cli(*command, "--comfyui_dir", comfy, *how)
        assert done.returncode == 11 and str(place) in done.stderr and not done.stdout, done.stderr
    assert place.read_text() == "mine" and not (tmp_path / "record.jsonl").exists()


def test_where_comfyui_keeps_nothing_the_workflow_is_beside_the_loras(
    tmp_path: Path, cli: Wanwrap, command: tuple[object, ...], comfy: Path
) -> None:
    done = cli(*command, "--comfyui_dir", comfy)
    assert done.returncode == 0 and str(folder(tmp_path) / "comfyui_workflow.json") in done.stdout, done.stderr
    assert not (comfy / "user").exists()


def test_a_workflow_that_came_meanwhile_stays(tmp_path: Path) -> None:
    out, before = tmp_path / "cats.json", tmp_path / "comfyui_workflow.json"
    out.write_text("somebody's")
    assert "another" in comfyui.place_workflow("new", before, out) and out.read_text() == "somebody's"
    out.write_text("new")
    assert "copied" in comfyui.place_workflow("new", before, out)
    assert "could not" in comfyui.place_workflow("new", before, before / "workflows" / "cats.json")


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
    place = shelf(trained, comfy)
    (place / NAMES[0]).write_text("somebody's")
    with pytest.raises(OutputError, match="the training is done") as caught:
        comfyui.place(trained, place)
    assert all(str(path) in str(caught.value) for path in (trained.trainings[0].lora, place / NAMES[0]))
    assert (place / NAMES[0]).read_text() == "somebody's"


def test_the_same_file_there_is_fine(trained: Plan, comfy: Path) -> None:
    first = comfyui.place(trained, shelf(trained, comfy))
    again = comfyui.place(trained, shelf(trained, comfy))
    assert all("copied" in line for line in first) and all("already" in line for line in again)


def test_a_folder_that_goes_meanwhile(trained: Plan, comfy: Path) -> None:
    place = shelf(trained, comfy)
    place.rmdir()
    with pytest.raises(OutputError, match=r"the training is done, and .*No such file"):
        comfyui.place(trained, place)


def test_a_disk_that_is_full(trained: Plan, comfy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    place = shelf(trained, comfy)
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(RoomError, match=r"the training is done.*No space"):
        comfyui.place(trained, place)
    assert files(comfy) == set()


def test_which_folder_of_loras(trained: Plan, comfy: Path, tmp_path: Path) -> None:
    (comfy / "loras").mkdir()  # a stray one beside models/ is not ComfyUI's
    assert shelf(trained, comfy) == comfy / "models" / "loras"
    (comfy / "loras").rmdir()
    (comfy / "models" / "loras").rmdir()
    (tmp_path / "store" / "mine").mkdir(parents=True)
    yaml = f"x:\n  base_path: {tmp_path.as_posix()}/store\n  loras: |\n    gone\n    mine # here\n"
    (comfy / "extra_model_paths.yaml").write_text(yaml)
    assert shelf(trained, comfy) == tmp_path / "store" / "mine"
    with pytest.raises(WeightsError, match="no ComfyUI"):
        shelf(trained, tmp_path / "out")
    with pytest.raises(OptionError):
        comfyui.check(trained, None, [])
