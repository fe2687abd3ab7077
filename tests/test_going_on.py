"""A run that has been stopped, in whatever way, goes on: with the stand-in for upstream, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import PYTHONPATH, STANDIN, Wanwrap, record
from wanwrap.plan.recipe import Recipe, cadence

from wanwrap.system import header

LOW = ("run", "t2v-vanilla", "--noise_level", "low", "--epochs", 10, "--save_every", 2)  # 6 steps an epoch
NAME = "cats-t2v-vanilla"


def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "local_training" / "outputs" / NAME


def progress(tmp_path: Path, key: str = "low") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder(tmp_path) / "training" / f"{key}.json").read_text())
    return found


def progress_or(tmp_path: Path, key: str) -> dict[str, Any]:
    path = folder(tmp_path) / "training" / f"{key}.json"
    return progress(tmp_path, key) if path.exists() else {}


def trained(tmp_path: Path) -> list[list[str]]:
    """The options of each start of upstream's trainer."""
    return [call["argv"] for call in record(tmp_path) if call["script"] == "wan_train_network.py"]


def option(argv: list[str], name: str) -> str | None:
    return argv[argv.index(f"--{name}") + 1] if f"--{name}" in argv else None


def loras(tmp_path: Path, key: str = "low") -> dict[str, tuple[str, str]]:
    """Epoch and steps that each LoRA tells of itself, by its number."""
    found = {}
    for path in folder(tmp_path).glob(f"{NAME}-{key}*.safetensors"):
        told = header.read(path)["__metadata__"]
        found[path.stem.removeprefix(f"{NAME}-{key}").removeprefix("-")] = (told["ss_epoch"], told["ss_steps"])
    return found


WHOLE = {**{f"{epoch:06d}": (str(epoch), str(6 * epoch)) for epoch in (2, 4, 6, 8)}, "": ("10", "60")}


@pytest.fixture
def start(tmp_path: Path, weights: list[str], cats: Path) -> Callable[..., subprocess.Popen[str]]:
    """A run that is not waited for."""

    def begin(*arguments: object, **env: str) -> subprocess.Popen[str]:
        extra = {"PYTHONPATH": PYTHONPATH, "WANWRAP_MUSUBI_DIR": str(STANDIN)}
        extra |= {"STANDIN_RECORD": str(tmp_path / "record.jsonl"), "GOING_ON": str(tmp_path)}
        argv = [sys.executable, "-m", "wanwrap", *LOW, "--dataset", cats, *weights, *arguments]
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        whole = {**os.environ, **extra, **env}
        return subprocess.Popen(
            [*map(str, argv)], cwd=home, env=whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return begin


def alive(tmp_path: Path) -> list[psutil.Process]:
    """The processes that a run has started, below whatever: they all have its environment."""
    mine = []
    for each in psutil.process_iter():
        try:
            if each.environ().get("GOING_ON") == str(tmp_path) and each.status() != psutil.STATUS_ZOMBIE:
                mine.append(each)
        except psutil.Error:
            continue
    return mine


def until(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def test_killed_in_the_middle_it_goes_on_from_the_last_state(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    run = (*LOW, "--dataset", cats, *weights)
    first = wanwrap(*run, STANDIN_DO="after:30")
    assert first.returncode == 10
    assert "was ended by SIGKILL" in first.stderr and "The state after epoch 4 is kept." in first.stderr
    assert progress(tmp_path)["resume"]["epoch"] == 4 and progress(tmp_path)["epochs_done"] == 5
    second = wanwrap(*run)
    assert second.returncode == 0, second.stderr
    assert "low: 5 of 10 epochs done, going on from 4" in second.stderr
    before, after = trained(tmp_path)
    assert (option(before, "resume"), option(before, "max_train_epochs"), option(before, "seed")) == (None, "10", "42")
    assert option(after, "resume") == f"{folder(tmp_path)}/training/low-1/{NAME}-low-000004-state"
    assert (option(after, "max_train_epochs"), option(after, "seed")) == ("6", "46")
    names = {word for word in (*before, *after) if word.startswith("--")}
    changed = {name for name in names if option(before, name[2:]) != option(after, name[2:])}
    assert changed <= {
        "--output_dir",
        "--logging_dir",
        "--max_train_epochs",
        "--seed",
        "--resume",
        "--training_comment",
    }
    assert loras(tmp_path) == WHOLE
    done = progress(tmp_path)
    assert (done["state"], done["steps_done"], done["epochs_done"], done["resume"]) == ("done", 60, 10, None)
    assert [each["from_epoch"] for each in done["attempts"]] == [0, 4]
    assert {path.name for path in (folder(tmp_path) / "training").iterdir()} == {"low.json"}
    calls = len(record(tmp_path))
    third = wanwrap(*run)
    assert third.returncode == 0 and "low: trained to its end" in third.stderr, third.stderr
    assert f"{NAME}-low.safetensors" in third.stdout and len(record(tmp_path)) == calls


def test_wanwrap_itself_is_killed(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Nothing of it lives on, `status` knows, and the next start goes on."""
    with start(STANDIN_PACE="0.1") as process:
        until(lambda: (folder(tmp_path) / f"{NAME}-low-000002.safetensors").exists())
        until(lambda: (progress(tmp_path)["resume"] or {}).get("epoch") == 2)
        process.kill()
    until(lambda: not alive(tmp_path), 5)
    assert "killed" in wanwrap("status").stdout
    done = wanwrap(*LOW, "--dataset", cats, *weights)
    assert done.returncode == 0, done.stderr
    assert "going on from 2" in done.stderr
    assert loras(tmp_path) == WHOLE


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_by_a_signal(
    sent: signal.Signals,
    tmp_path: Path,
    wanwrap: Wanwrap,
    weights: list[str],
    cats: Path,
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    with start(STANDIN_PACE="0.1") as process:
        until(lambda: (folder(tmp_path) / "training" / "low.json").exists() and progress(tmp_path)["resume"])
        process.send_signal(sent)
        text = process.communicate(timeout=30)[0]
        assert process.returncode == 130, text
    until(lambda: not alive(tmp_path), 5)
    assert "stopped in train low" in text and progress(tmp_path)["state"] == "interrupted"
    assert wanwrap(*LOW, "--dataset", cats, *weights).returncode == 0
    assert loras(tmp_path) == WHOLE and progress(tmp_path)["steps_done"] == 60


@pytest.mark.parametrize("now", [False, True])
def test_wanwrap_stop(
    now: bool,
    tmp_path: Path,
    wanwrap: Wanwrap,
    weights: list[str],
    cats: Path,
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    with start(STANDIN_PACE="0.3") as process:
        until(lambda: (folder(tmp_path) / "training" / "low.json").exists() and progress(tmp_path)["steps_done"] > 1)
        asked = wanwrap("stop", *(["--now"] if now else []))
        assert asked.returncode == 0, asked.stderr
        text = process.communicate(timeout=60)[0]
        assert process.returncode == 130, text
    kept = progress(tmp_path)
    assert kept["state"] == "stopped" and not (folder(tmp_path) / "stop").exists()
    assert now or kept["epochs_done"] - 1 <= kept["resume"]["epoch"] >= 2
    assert not alive(tmp_path)
    assert wanwrap(*LOW, "--dataset", cats, *weights).returncode == 0
    assert loras(tmp_path) == WHOLE


def test_settings_that_matter_are_told_and_others_may_change(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    run = (*LOW, "--dataset", cats, *weights)
    wanwrap(*run, STANDIN_DO="after:30")
    other = wanwrap(*run, "--lr", "1e-5", "--epochs", 12)
    assert other.returncode == 11
    assert "  low: learning_rate: 8e-05 -> 1e-05\n" in other.stderr
    assert "  low: max_train_epochs: 10 -> 12\n" in other.stderr and "--restart" in other.stderr
    (cats / "images" / "one.txt").write_text("another caption")
    data = wanwrap(*run)
    assert data.returncode == 11 and "the data set (its files, captions, buckets or repeats)" in data.stderr
    (cats / "images" / "one.txt").write_text("a red balloon")
    same = wanwrap(*run, "--blocks_to_swap", 7, "--save_every", 5, "--attention", "xformers", STANDIN_DO="after:36")
    assert "going on from 4" in same.stderr and option(trained(tmp_path)[-1], "blocks_to_swap") == "7"
    assert same.returncode == 10
    again = wanwrap(*run, "--lr", "1e-5", "--restart")
    assert again.returncode == 0, again.stderr
    assert loras(tmp_path) == WHOLE and option(trained(tmp_path)[-1], "max_train_epochs") == "10"
    aside = folder(tmp_path) / "before-1"
    assert (aside / f"{NAME}-low-000004.safetensors").is_file() and (aside / "training" / "low.json").is_file()
    assert f"what was there is in {aside} now" in again.stderr


def test_both_experts_go_on_where_one_stopped(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    both = ("run", "t2v-vanilla", "--epochs", 4, "--save_every", 1, "--dataset", cats, *weights)
    first = wanwrap(*both, STANDIN_DO="after:12", STANDIN_ONLY="low")
    assert first.returncode == 10 and progress(tmp_path, "high")["state"] == "done"
    calls = len(trained(tmp_path))
    second = wanwrap(*both)
    assert second.returncode == 0, second.stderr
    assert "high: trained to its end" in second.stderr and "low: 2 of 4 epochs done, going on from 2" in second.stderr
    assert len(trained(tmp_path)) == calls + 1
    assert "-high on the high-noise model" in second.stdout


def test_one_that_fails_takes_the_other_not_down(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    both = ("run", "t2v-vanilla", "--epochs", 2, "--save_every", 1, "--dataset", cats, *weights)
    done = wanwrap(*both, "--parallel", STANDIN_DO="fail", STANDIN_ONLY="high", STANDIN_GPUS="2")
    assert done.returncode == 10 and "train high failed" in done.stderr
    assert progress(tmp_path, "low")["state"] == "done" and progress(tmp_path, "high")["state"] == "failed"
    seen = {call["env"]["CUDA_VISIBLE_DEVICES"] for call in record(tmp_path)[-2:]}
    assert seen == {"0", "1"}
    assert {"run-high.log", "run-low.log"} <= {path.name for path in folder(tmp_path).iterdir()}
    alone = wanwrap(*both, "--parallel", STANDIN_GPUS="1")
    assert alone.returncode == 9 and "a GPU for each expert" in alone.stderr
    assert wanwrap(*both, "--parallel", STANDIN_GPUS="2").returncode == 0


def test_out_of_memory_swaps_more_blocks_and_remembers(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    run = (*LOW, "--dataset", cats, *weights)
    strict = wanwrap(*run, "--no_retry", STANDIN_DO="oom:8")
    assert strict.returncode == 10 and "the GPU ran out of memory; raise --blocks_to_swap" in strict.stderr
    done = wanwrap(*run, STANDIN_DO="oom:8")
    assert done.returncode == 0, done.stderr
    assert "Trying again with 5 blocks swapped." in done.stderr and "Trying again with 10 blocks" in done.stderr
    assert progress(tmp_path)["blocks_to_swap"] == 10 and loras(tmp_path) == WHOLE
    never = wanwrap(*run, "--restart", STANDIN_DO="oom:99")
    assert never.returncode == 10 and option(trained(tmp_path)[-1], "blocks_to_swap") == "39"


def test_a_loss_that_is_no_number_ends_it(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    run = (*LOW, "--dataset", cats, *weights)
    done = wanwrap(*run, STANDIN_DO="nan:31", STANDIN_PACE="0.05")
    assert done.returncode == 10
    assert "since step 32 the loss is no number. The state after epoch 4 is kept." in done.stderr
    assert progress(tmp_path)["resume"]["epoch"] == 4 and progress(tmp_path)["state"] == "failed"
    assert set(loras(tmp_path)) == {"000002", "000004"}  # none of what came after
    assert wanwrap(*run).returncode == 0 and loras(tmp_path) == WHOLE


def test_a_full_disk_leaves_nothing_half(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    run = (*LOW, "--dataset", cats, *weights)
    done = wanwrap(*run, STANDIN_DO="full")
    assert done.returncode == 13 and "the disk is full; make room" in done.stderr
    assert loras(tmp_path) == {}
    assert wanwrap(*run).returncode == 0 and loras(tmp_path) == WHOLE


def test_a_state_that_is_damaged_is_not_gone_on_from(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    """Bits that have turned on the disk: the one before is taken, if it is there."""
    run = (*LOW, "--dataset", cats, *weights)
    wanwrap(*run, STANDIN_DO="after:30")
    state = folder(tmp_path) / "training" / progress(tmp_path)["resume"]["folder"]
    content = bytearray((state / "optimizer.bin").read_bytes())
    content[content.index(b"steps")] ^= 1
    (state / "optimizer.bin").write_bytes(content)
    done = wanwrap(*run)
    assert done.returncode == 0, done.stderr
    assert "is gone or damaged, looking for another state" in done.stderr
    assert option(trained(tmp_path)[-1], "max_train_epochs") == "8" and loras(tmp_path) == WHOLE


def test_all_that_was_left_is_gone(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    """Hours of training are not begun anew without asking."""
    run = (*LOW, "--dataset", cats, *weights)
    wanwrap(*run, STANDIN_DO="after:30")
    kept = (folder(tmp_path) / "training" / "low-1").rename(tmp_path / "kept")
    gone = wanwrap(*run)
    assert gone.returncode == 11 and "no whole state is left" in gone.stderr and "--restart" in gone.stderr
    kept.rename(folder(tmp_path) / "training" / "low-1")
    done = wanwrap(*run)
    assert done.returncode == 0 and "going on from 4" in done.stderr, done.stderr
    assert loras(tmp_path) == WHOLE


@pytest.mark.parametrize("how", ["moved", "linked"])
def test_a_workspace_that_is_elsewhere_now(
    how: str, tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    run, home = (*LOW, "--dataset", cats, *weights), tmp_path / "home" / "local_training"
    wanwrap(*run, STANDIN_DO="after:30")
    if how == "moved":
        home.rename(tmp_path / "home" / "elsewhere")
    else:
        (tmp_path / "home" / "elsewhere").symlink_to("local_training")
    done = wanwrap(*run, "--base_dir", "elsewhere")
    assert done.returncode == 0 and "going on from 4" in done.stderr, done.stderr
    assert option(trained(tmp_path)[-1], "max_train_epochs") == "6"
    assert "/elsewhere/" in str(option(trained(tmp_path)[-1], "resume"))
    (tmp_path / "home" / "elsewhere").rename(tmp_path / "home" / ("local_training" if how == "moved" else "link"))
    assert loras(tmp_path) == WHOLE


def test_loras_at_other_intervals(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    """Upstream counts its epochs from the last start: the numbers stay multiples of what is asked for."""
    run = ("run", "t2v-vanilla", "--noise_level", "low", "--epochs", 13, "--dataset", cats, *weights)
    wanwrap(*run, "--save_every", 4, STANDIN_DO="after:30")
    done = wanwrap(*run, "--save_every", 5)
    assert done.returncode == 0 and "going on from 4" in done.stderr, done.stderr
    assert set(loras(tmp_path)) == {"000004", "000005", "000010", ""}


def test_a_name_that_looks_like_an_epochs(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    one = ("run", "wan21-t2v-14b", "--epochs", 4, "--save_every", 1, "--dataset", cats, "--output_name", "cats-250113")
    dit = Path(weights[1]).rename(tmp_path / "weights" / "wan2.1_t2v_14B_fp16.safetensors")
    done = wanwrap(*one, "--dit", dit, *weights[4:])
    assert done.returncode == 0, done.stderr
    names = {path.name for path in folder(tmp_path).with_name("cats-250113").glob("*.safetensors")}
    assert names == {"cats-250113.safetensors", *(f"cats-250113-00000{epoch}.safetensors" for epoch in (1, 2, 3))}


def test_a_stop_between_the_experts(
    tmp_path: Path, wanwrap: Wanwrap, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Asked for when no state is to come any more in the first one."""
    with start("--noise_level", "both", "--epochs", 2, "--save_every", 2, STANDIN_PACE="1.5") as process:
        until(lambda: progress_or(tmp_path, "high").get("steps_done", 0) >= 1)
        assert wanwrap("stop").returncode == 0
        text = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "stopped before train low" in text, text
    assert progress(tmp_path, "high")["state"] == "done" and not progress_or(tmp_path, "low")


def test_one_loss_that_is_no_number_is_nothing(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    """fp16's scaler leaves such a step out; upstream's mean never recovers from it, the curves do."""
    run = (*LOW, "--dataset", cats, *weights)
    env = {"STANDIN_DO": "hiccup:15", "STANDIN_CURVES": "1", "STANDIN_PACE": "0.05"}
    done = wanwrap(*run, **env)
    assert done.returncode == 0, done.stderr
    assert loras(tmp_path) == WHOLE
    broken = wanwrap(*run, "--output_name", "other", **{**env, "STANDIN_DO": "nan:31"})
    assert broken.returncode == 10 and "since step 32 the loss is no number. The state after epoch 4" in broken.stderr


def test_a_folder_in_which_nothing_can_begin(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    """Of two experts one can't begin: it is told, and the other is trained."""
    both = ("run", "t2v-vanilla", "--epochs", 2, "--dataset", cats, *weights, "--parallel")
    (folder(tmp_path) / "training" / "high.json").mkdir(parents=True)  # no file can take its place
    done = wanwrap(*both, STANDIN_GPUS="2")
    assert done.returncode == 11 and "train high was stopped" in done.stderr and "Traceback" not in done.stderr
    assert progress(tmp_path, "low")["state"] == "done"


def test_loras_that_nobody_knows_of(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    run = (*LOW, "--dataset", cats, *weights)
    folder(tmp_path).mkdir(parents=True)
    mine = folder(tmp_path) / f"{NAME}-low-000004.safetensors"
    mine.write_bytes(b"mine")
    done = wanwrap(*run)
    assert done.returncode == 11 and f"no record is there ({mine.name})" in done.stderr
    assert wanwrap(*run, "--restart").returncode == 0
    assert (folder(tmp_path) / "before-1" / mine.name).read_bytes() == b"mine"


def test_two_starts_at_once(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    both = [start(STANDIN_PACE="0.02") for _ in range(2)]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 11], texts
    assert any("another wanwrap is at work" in text for text in texts)
    assert loras(tmp_path) == WHOLE


@pytest.mark.parametrize(
    ("per_epoch", "save_every", "state_every"),
    [(6, 5, 5), (6, 100, 25), (90, 10, 2), (90, 7, 1), (1000, 5, 1), (20, None, 10), (1, 3, 3)],
)
def test_states_come_often_enough(per_epoch: int, save_every: int | None, state_every: int) -> None:
    """Every 200 steps at most where epochs are shorter, in a part of the epochs of which LoRAs are kept."""
    options: dict[str, Any] = {"save_every_n_epochs": save_every, "save_last_n_epochs": 3}
    saving, every, last = cadence(Recipe(options=options, steps=5000, per_epoch=per_epoch))
    assert (saving["save_every_n_epochs"], every, last) == (state_every, save_every, 3)
    assert saving["save_state"] and saving["save_last_n_epochs"] is None


def test_of_loras_the_last_ones_are_kept(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    done = wanwrap(*LOW, "--dataset", cats, *weights, "--", "--save_last_n_epochs", 2)
    assert done.returncode == 0, done.stderr
    assert loras(tmp_path) == {name: WHOLE[name] for name in ("000006", "000008", "")}
