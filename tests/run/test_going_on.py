"""A run that has been stopped, in whatever way, goes on; with the stand-in for upstream."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import Wanwrap, golden_plan, record, safetensors
from platforms import KILLED, signals, symlinks
from runs import NAME, WHOLE, alive, begin, calls, ended, folder, loras, option, saved, told, until
from trouble import from_the_future

from wanwrap.plan.expert_options import state_interval
from wanwrap.run import training
from wanwrap.run.attempt import Attempt, last_state, remove_leftovers
from wanwrap.run.record import Record
from wanwrap.run.training import Training
from wanwrap.system import files
from wanwrap.system.files import PART
from wanwrap.upstream import states
from wanwrap.upstream.memory import EMBEDDING, GIB

Words = tuple[object, ...]
BEGINNING = {"number": 1, "epoch": 0, "step": 0}


def test_killed_in_the_middle_it_goes_on_from_the_last_state(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    first = cli(*low, STANDIN_DO="after:30")
    assert first.returncode == 10 and KILLED in first.stderr and "epoch 4 is kept" in first.stderr
    assert saved(tmp_path) == 4 and told(tmp_path)["epochs_done"] == 5
    path = folder(tmp_path) / "low" / "record.json"
    path.rename(kept := path.with_name("kept.json"))
    path.mkdir()  # which the system does not give
    refused = cli(*low)
    assert refused.returncode == 11 and "record.json" in refused.stderr and "--restart" not in refused.stderr
    path.rmdir()
    path.write_text(json.dumps({**json.loads(kept.read_text()), "memory": {"used": 23 * GIB}}))
    second = cli(*low)
    assert second.returncode == 0 and "going on from 4" in second.stderr, second.stderr
    before, after = calls(tmp_path)
    assert (option(before, "resume"), option(before, "max_train_epochs"), option(before, "seed")) == (None, "10", "42")
    assert option(after, "resume") == str(folder(tmp_path) / "low" / "state-000004")
    assert (option(after, "max_train_epochs"), option(after, "seed")) == ("6", "46")
    names = {word for word in (*before, *after) if word.startswith("--")}
    changed = {name for name in names if option(before, name[2:]) != option(after, name[2:])}
    told_anew = {"--output_dir", "--logging_dir", "--training_comment"}
    assert changed <= {"--max_train_epochs", "--seed", "--resume", *told_anew}
    assert loras(tmp_path) == WHOLE
    done = told(tmp_path)
    assert (done["state"], done["steps_done"], done["epochs_done"], done["saved_epoch"]) == ("done", 60, 10, 0)
    assert [(each["epoch"], each["step"]) for each in done["attempts"]] == [(0, 0), (4, 24)]
    assert [each.get("memory") for each in done["attempts"]] == [{"used": 23 * GIB}, None]
    assert {path.name for path in (folder(tmp_path) / "low").iterdir() if path.is_dir()} <= {"logs"}


@pytest.mark.parametrize("changes", [{"state": "interrupted", "epochs_done": 9}, {"state": "running", "files": []}])
def test_an_end_that_came_after_the_last_lora(
    changes: dict[str, object], tmp_path: Path, cli: Wanwrap, low: Words
) -> None:
    """Ctrl-C or a kill between the LoRA and the record: the next start puts it right, and trains nothing."""
    assert cli(*low).returncode == 0
    done, so_far = told(tmp_path), len(record(tmp_path))
    (folder(tmp_path) / "low" / "record.json").write_text(json.dumps({**done, "ended": "", **changes}))
    (state := folder(tmp_path) / "low" / "state-000009").mkdir()
    (lock := folder(tmp_path) / "low.lock").touch()
    again = cli(*low)
    assert again.returncode == 0 and "trained to its end" in again.stderr, again.stderr
    assert f"{NAME}-low.safetensors" in again.stdout and len(record(tmp_path)) == so_far
    now = told(tmp_path)
    assert (now["state"], now["epochs_done"], now["files"]) == ("done", 10, done["files"])
    assert len(now["files"]) == len(WHOLE) and not state.exists() and not lock.exists()


@pytest.mark.parametrize(
    ("how", "code", "state"),
    [
        *(pytest.param(how, 130, "interrupted", marks=signals) for how in ("SIGINT", "SIGTERM", "SIGHUP")),
        pytest.param("SIGKILL", -9, "killed", marks=signals),
        ("its launcher's", 10, "failed"),
    ],
)
def test_ended_from_outside(how: str, code: int, state: str, tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """Nothing of it lives on, `status` knows, and the next start goes on; the clock, set back, decides nothing."""
    with begin(tmp_path, *low, STANDIN_PACE="0.1") as process:
        until(lambda: saved(tmp_path))
        if how.startswith("SIG"):
            process.send_signal(getattr(signal, how))
        else:
            (launcher,) = (each for each in alive(tmp_path) if "accelerate.commands.launch" in each.cmdline())
            launcher.kill()
        text = ended(process, code)
    assert ("low goes on from epoch" in text) == (state == "interrupted") and (KILLED in text) == (state == "failed")
    until(lambda: not alive(tmp_path), 5)
    from_the_future(folder(tmp_path))
    assert json.loads(cli("status", NAME, "--json").stdout)["experts"]["low"]["state"] == state
    done = cli(*low)
    assert done.returncode == 0 and "going on from" in done.stderr, done.stderr
    assert loras(tmp_path) == WHOLE and told(tmp_path)["steps_done"] == 60


@pytest.mark.parametrize("now", [False, True])
def test_wanwrap_stop(now: bool, tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    with begin(tmp_path, *low, STANDIN_PACE="0.5" if now else "0.1") as process:
        until(lambda: told(tmp_path).get("attempts"))
        asked = cli("stop", *(["--now"] if now else []))
        assert asked.returncode == 0, asked.stderr
        ended(process, 130)
    kept = told(tmp_path)
    assert kept["state"] == "stopped" and not (folder(tmp_path) / "low" / "stop").exists()
    assert bool(kept["saved_epoch"]) != now
    assert not alive(tmp_path)
    assert cli(*low).returncode == 0
    assert loras(tmp_path) == WHOLE


def test_what_may_change_and_what_may_not(tmp_path: Path, cli: Wanwrap, anew: Words, cats: Path) -> None:
    """How upstream works, saves and tells; the precision that LoRAs are saved in, copies of the same files."""
    cli(*anew, STANDIN_DO="after:30")
    other = cli(*anew, "--lr", "1e-5", "--epochs", 12)
    assert other.returncode == 11 and "--restart" in other.stderr
    assert "learning_rate: 8e-05 -> 1e-05\n" in other.stderr and "max_train_epochs: 10 -> 12\n" in other.stderr
    caption = cats / "images" / "one.txt"
    before = caption.read_text()
    caption.write_text("another caption")
    data = cli(*anew)
    assert data.returncode == 11 and "captions" in data.stderr
    assert len(calls(tmp_path)) == 1 and saved(tmp_path) == 4
    caption.write_text(before)
    copies = shutil.copytree(tmp_path / "weights", tmp_path / "copies")
    files = ("--dit_low", copies / "low.safetensors", "--vae", copies / "vae.safetensors")
    own = ("--blocks_to_swap", 7, "--attention", "xformers", "--save_every", 5, *files)
    more = "--gradient_checkpointing_cpu_offload --split_attn --max_data_loader_n_workers 0 --save_precision float "
    more += "--training_comment mine --metadata_author me --log_prefix x --save_last_n_epochs 3 --no_metadata "
    more += "--block_swap_h2d_only"
    done = cli(*anew, *own, "--", *more.split())
    assert done.returncode == 0 and "going on from 4" in done.stderr, done.stderr
    assert option(calls(tmp_path)[-1], "blocks_to_swap") == "7" and option(calls(tmp_path)[-1], "resume")


def test_restart_puts_aside_loras_and_samples(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """Of that expert alone, and each time into a folder of its own."""
    cli(*low, "--noise_level", "both", STANDIN_DO="after:30", STANDIN_ONLY="low")
    (folder(tmp_path) / "low" / "samples").mkdir()
    (folder(tmp_path) / "low" / "samples" / "a.png").touch()
    again = cli(*low, "--lr", "1e-5", "--restart")
    assert again.returncode == 0, again.stderr
    assert loras(tmp_path) == WHOLE and option(calls(tmp_path)[-1], "resume") is None
    aside = folder(tmp_path) / "before-1"
    assert str(aside) in again.stderr and not (folder(tmp_path) / "low" / "samples").exists()
    there = {path.relative_to(aside).as_posix() for path in aside.rglob("*")}
    assert {f"{NAME}-low-000004.safetensors", "low/record.json", "low/samples/a.png"} <= there
    assert not any("high" in name or "state" in name for name in there)
    assert told(tmp_path, "high")["state"] == "done" and loras(tmp_path, "high") == WHOLE
    assert "--restart" not in told(tmp_path)["command"]  # which status tells to give again: it goes on
    assert cli(*low, "--restart").returncode == 0
    assert (folder(tmp_path) / "before-2" / f"{NAME}-low.safetensors").is_file()


@pytest.mark.parametrize("own", [{}, {"WANDB_NAME": "mine"}])
def test_wandb_has_a_run_for_each_attempt_in_one_group(
    own: dict[str, str], tmp_path: Path, cli: Wanwrap, low: Words
) -> None:
    """A step that is not above the last one W&B leaves out, and upstream counts from 1 each time."""
    assert cli(*low, "--", "--log_with", "wandb", STANDIN_DO="after:30", **own).returncode == 10
    done = cli(*low, "--", "--log_with", "wandb", **own)
    assert done.returncode == 0 and "group" in done.stderr, done.stderr
    trained = [call["env"] for call in record(tmp_path) if call["script"] == "wan_train_network.py"]
    names = [f"{NAME}-low", f"{NAME}-low from epoch 4"]
    assert [each["WANDB_NAME"] for each in trained] == ([own["WANDB_NAME"]] * 2 if own else names)
    assert [each["WANDB_RUN_GROUP"] for each in trained] == [NAME] * 2


def test_out_of_memory_takes_less_each_time_and_remembers(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """The stand-in fails for want of 2 GiB until 8 blocks are swapped."""
    strict = cli(*low, "--no_retry", STANDIN_DO="oom:8")
    assert strict.returncode == 10 and "--blocks_to_swap" in strict.stderr
    done = cli(*low, STANDIN_DO="oom:8")
    assert done.returncode == 0, done.stderr
    raised, tries = told(tmp_path)["raised"], calls(tmp_path)[1:]
    assert raised["blocks_to_swap"] >= 8 and f"--blocks_to_swap {raised['blocks_to_swap']}" in done.stderr
    assert raised[EMBEDDING] and all(f"--{EMBEDDING}" in argv for argv in tries[2:]) and len(tries) <= 6
    assert loras(tmp_path) == WHOLE
    (first, *_, last) = (each["memory"] for each in told(tmp_path)["attempts"] if "memory" in each)
    assert first["lacking"] == 2 * GIB and first["foretold"] > last["foretold"]
    measured = cli("fit", "--measured").stdout.splitlines()
    assert len(measured) == len(tries) and all("2.0 GiB more" in line for line in measured)
    never = cli(*low, "--restart", "--blocks_to_swap", 33, STANDIN_DO="oom:99")
    assert never.returncode == 10 and option(calls(tmp_path)[-1], "blocks_to_swap") == "39"


@pytest.mark.parametrize("curves", ["", "1"])
def test_a_loss_that_is_no_number_ends_it(curves: str, tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """Told by what upstream prints, or by its curves."""
    done = cli(*low, STANDIN_DO="nan:31", STANDIN_CURVES=curves)
    assert done.returncode == 10
    assert "since step 32" in done.stderr and "epoch 4 is kept" in done.stderr
    assert saved(tmp_path) == 4 and told(tmp_path)["state"] == "failed"
    assert {*loras(tmp_path)} == {"000002", "000004"}  # none of what came after
    assert cli(*low).returncode == 0 and loras(tmp_path) == WHOLE


def test_one_loss_that_is_no_number_is_nothing(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """fp16's scaler leaves such a step out; upstream's mean never recovers from it, the curves do."""
    done = cli(*low, STANDIN_DO="hiccup:15", STANDIN_CURVES="1")
    assert done.returncode == 0, done.stderr
    assert loras(tmp_path) == WHOLE
    assert [*(folder(tmp_path) / "low" / "logs" / "attempt-1").rglob("*tfevents*")]


def test_a_full_disk_leaves_nothing_half(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    done = cli(*low, STANDIN_DO="full")
    assert done.returncode == 13 and "disk is full" in done.stderr
    assert loras(tmp_path) == {}
    assert cli(*low).returncode == 0 and loras(tmp_path) == WHOLE


def test_a_state_that_is_damaged_is_not_gone_on_from(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """Bits that have turned on the disk: the one before is taken, if it is there; without asking none is trained anew."""
    cli(*low, STANDIN_DO="after:30")
    state = folder(tmp_path) / "low" / "state-000004"
    whole = shutil.copytree(state, state.with_name("state-000002"))
    content = bytearray((state / "optimizer.bin").read_bytes())
    content[content.index(b"steps")] ^= 1
    (state / "optimizer.bin").write_bytes(content)
    kept = whole.rename(tmp_path / "kept")
    gone = cli(*low)
    assert gone.returncode == 11 and "no whole state" in gone.stderr and "--restart" in gone.stderr
    kept.rename(whole)
    done = cli(*low)
    assert done.returncode == 0 and "going on from 2" in done.stderr, done.stderr
    assert option(calls(tmp_path)[-1], "max_train_epochs") == "8" and {*loras(tmp_path)} == {*WHOLE}


def test_a_state_is_not_said_to_be_kept_that_is_not_whole(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    cli(*low, STANDIN_DO="after:30")
    with begin(tmp_path, *low, STANDIN_PACE="0.5") as process:
        until(lambda: len(told(tmp_path)["attempts"]) == 2)
        (folder(tmp_path) / "low" / "state-000004" / "random_states_0.pkl").unlink()
        cli("stop", "--now")
        text = ended(process, 130)
    assert "damaged or gone" in text and "is kept" not in text and "goes on from epoch 4" not in text


@pytest.mark.parametrize("how", ["moved", pytest.param("linked", marks=symlinks)])
def test_a_workspace_that_is_elsewhere_now(how: str, tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    home, elsewhere = tmp_path / "home" / "local_training", tmp_path / "home" / "elsewhere"
    cli(*low, STANDIN_DO="after:30")
    if how == "moved":
        home.rename(elsewhere)
    else:
        elsewhere.symlink_to("local_training")
    done = cli(*low, "--base_dir", "elsewhere")
    assert done.returncode == 0 and "going on from 4" in done.stderr, done.stderr
    assert option(calls(tmp_path)[-1], "max_train_epochs") == "6"
    assert f"{os.sep}elsewhere{os.sep}" in str(option(calls(tmp_path)[-1], "resume"))
    if how == "moved":
        elsewhere.rename(home)
    assert loras(tmp_path) == WHOLE


def test_loras_at_other_intervals(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """Upstream counts its epochs from the last start: the numbers stay multiples of what is asked for."""
    run = (*low, "--epochs", 13)
    cli(*run, "--save_every", 4, STANDIN_DO="after:30")
    done = cli(*run, "--save_every", 5)
    assert done.returncode == 0 and "going on from 4" in done.stderr, done.stderr
    assert {*loras(tmp_path)} == {"000004", "000005", "000010", ""}


def test_of_loras_the_last_ones_are_kept(tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path) -> None:
    """Also under a name that looks like an epoch's."""
    one = ("run", "wan21-t2v-14b", "--epochs", 5, "--save_every", 1, cats, "--output_name", "cats-250113")
    dit = Path(weights[1]).rename(tmp_path / "weights" / "wan2.1_t2v_14B_fp16.safetensors")
    done = cli(*one, "--dit", dit, *weights[4:], "--", "--save_last_n_epochs", 3)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in folder(tmp_path, "cats-250113").glob("*.safetensors")}
    assert names == {"cats-250113.safetensors", *(f"cats-250113-00000{epoch}.safetensors" for epoch in (2, 3, 4))}


def test_a_name_with_what_globs_take_for_more(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """Trainings that were begun, LoRAs and samples are found all the same."""
    prompts, name = tmp_path / "prompts.txt", "a[1]"
    prompts.write_text("a cat --w 64 --h 64 --f 1 --s 2")
    run = (*low, "--output_name", name, "--sample_with_one_expert")
    samples = ("--", "--sample_prompts", prompts, "--sample_every_n_epochs", 2)
    assert cli(*run, *samples, STANDIN_DO="after:30").returncode == 10
    done = cli(*run, *samples)
    assert done.returncode == 0 and "going on from 4" in done.stderr, done.stderr
    assert loras(tmp_path, name=name) == WHOLE and cli("status", name).stdout.startswith(name)
    epochs = {path.name.partition("_e")[2][:6] for path in (folder(tmp_path, name) / "low" / "samples").iterdir()}
    assert epochs == {"000002", "000004", "000006", "000008", "000010"}
    assert cli(*run, "--restart").returncode == 0
    aside = folder(tmp_path, name) / "before-1"
    assert len([*(aside / "low" / "samples").iterdir()]) == 5 and len([*aside.glob("*.safetensors")]) == 5


def test_a_stop_between_the_experts(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """Asked for when no state is to come any more in the first one."""
    with begin(tmp_path, *low, "--noise_level", "both", "--epochs", 2, STANDIN_PACE="0.2") as process:
        until(lambda: told(tmp_path, "high").get("attempts"))
        assert cli("stop").returncode == 0
        assert "low was stopped" in ended(process, 130)
    assert told(tmp_path, "high")["state"] == "done" and told(tmp_path)["state"] == "waiting"


@pytest.mark.parametrize("expert", ["high", "low"])
def test_one_of_two_experts_is_stopped(expert: str, tmp_path: Path, cli: Wanwrap, anew: Words) -> None:
    """The other one is trained to its end. Meanwhile status knows of the one that comes next, whatever was cached."""
    other = "low" if expert == "high" else "high"
    both = (*anew, "--noise_level", "both", "--epochs", 6)
    with begin(tmp_path, *both, STANDIN_PACE="0.1") as process:
        until(lambda: told(tmp_path, "high").get("attempts"))
        assert "running (waiting)" in cli("status", NAME).stdout
        assert f"{expert} ends" in cli("stop", "--noise_level", expert).stdout
        ended(process, 130)
    assert told(tmp_path, other)["state"] == "done" and told(tmp_path, expert)["state"] != "done"
    so_far = len(calls(tmp_path))
    again = cli(*both)
    assert again.returncode == 0 and f"{other}: trained to its end" in again.stderr, again.stderr
    assert told(tmp_path, expert)["state"] == "done" and len(calls(tmp_path)) == so_far + 1
    assert f"{NAME}-high" in again.stdout and f"{NAME}-low" in again.stdout


def test_one_of_two_experts_is_stopped_before_both(tmp_path: Path, cli: Wanwrap, anew: Words) -> None:
    """While the data set is cached."""
    words, over = (*anew, "--noise_level", "both", "--epochs", 2), tmp_path / "over"
    hold = "import time\nwhile not p1.exists(): time.sleep(0.05)"
    with begin(tmp_path, *words, STANDIN_DO=f"meanwhile:{hold}", STANDIN_FILE=str(over)) as process:
        until(lambda: str(told(tmp_path, "high").get("doing")).startswith("cache"))
        assert cli("stop", "--noise_level", "high").returncode == 0
        over.touch()
        ended(process, 130)
    assert told(tmp_path)["state"] == "done" and not told(tmp_path, "high")["attempts"]


def test_another_rate_after_a_caching_that_failed(tmp_path: Path, cli: Wanwrap, anew: Words) -> None:
    """Nothing has been trained: nothing is another training."""
    failed = cli(*anew, STANDIN_DO="meanwhile:raise SystemExit(1)", STANDIN_FILE="")
    assert failed.returncode == 10 and told(tmp_path)["state"] == "failed"
    done = cli(*anew, "--lr", "1e-5")
    assert done.returncode == 0, done.stderr
    assert cli(*anew, "--lr", "2e-5").returncode == 11


def test_a_full_disk_at_the_last_record(
    tmp_path: Path, cli: Wanwrap, low: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LoRA is in its place: the training is done, whatever the record says."""
    monkeypatch.setattr(files, "HELD", ())  # what is in its way stays
    done = cli(*low, STANDIN_DO="last")
    assert done.returncode == 0, done.stderr
    assert told(tmp_path)["state"] == "running" and loras(tmp_path) == WHOLE
    assert cli("status").stdout.split()[1:] == ["low:", "finished"]
    (folder(tmp_path) / "low" / f"record.json{PART}").rmdir()
    assert cli(*low).returncode == 0 and len(calls(tmp_path)) == 1
    assert told(tmp_path)["state"] == "done"


def test_what_nobody_knows_of(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """A training that was begun by hand, a LoRA: put aside with --restart alone, and never overwritten there."""
    (folder(tmp_path) / "low" / "attempt-1").mkdir(parents=True)
    done = cli(*low)
    assert done.returncode == 11 and "by hand" in done.stderr
    mine = folder(tmp_path) / f"{NAME}-low-000004.safetensors"
    mine.write_bytes(b"mine")
    done = cli(*low)
    assert done.returncode == 11 and mine.name in done.stderr
    for _ in range(2):
        assert cli(*low, "--restart").returncode == 0 and loras(tmp_path) == WHOLE
        assert (folder(tmp_path) / "before-1" / mine.name).read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("per_epoch", "save_every", "state_every"),
    [(6, 5, 5), (6, 100, 25), (90, 10, 2), (90, 7, 1), (1000, 5, 1), (20, None, 10), (1, 3, 3)],
)
def test_states_come_often_enough(per_epoch: int, save_every: int | None, state_every: int) -> None:
    """Every 200 steps at most where epochs are shorter, in a part of the epochs of which LoRAs are kept."""
    assert state_interval(save_every, per_epoch) == state_every


def test_a_file_that_cannot_be_moved_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a scanner or a viewer has it open: that alone ends no night."""
    train = replace(golden_plan("wan21-t2v-14b").trainings[0], folder=tmp_path / "dit")
    record = Record("dit", "", {}, 100, 10, 10, 5, attempts=[BEGINNING])
    trying = Training(golden_plan("wan21-t2v-14b"), train, record)

    def keep(*_: object) -> bool:
        raise PermissionError(13, "in use")

    monkeypatch.setattr(Attempt, "keep", keep)
    monkeypatch.setattr(training, "PASSING", (FileNotFoundError,))
    with pytest.raises(PermissionError):
        trying._look(Attempt(train, record))
    monkeypatch.setattr(training, "PASSING", (PermissionError,))
    trying._look(Attempt(train, record))


def test_a_folder_that_the_user_has_made_stays(tmp_path: Path) -> None:
    (train,) = golden_plan("wan21-t2v-14b").trainings
    for name in ("attempt-1", "attempt-1 (copy)", "attempt-2-keep", f"attempt-2{states.REMOVED}"):
        (tmp_path / "dit" / name).mkdir(parents=True)
    remove_leftovers(replace(train, folder=tmp_path / "dit"))
    assert {path.name for path in (tmp_path / "dit").iterdir()} == {"attempt-1 (copy)", "attempt-2-keep"}


def test_a_state_that_a_kill_has_kept_from_going(tmp_path: Path) -> None:
    (train,) = golden_plan("wan21-t2v-14b").trainings
    train, record = replace(train, folder=tmp_path / "dit"), Record("dit", "", {}, 100, 10, 10, 5)
    for each in (lambda: last_state(train, record), lambda: remove_leftovers(train)):
        left = tmp_path / "dit" / f"state-000005{states.REMOVED}"
        left.mkdir(parents=True)
        each()
        assert not left.exists()


def test_a_state_that_upstream_removes_just_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps two: while one is taken over, two more may come."""
    (train,) = golden_plan("wan21-t2v-14b").trainings
    train = replace(train, folder=tmp_path / "run" / "dit")
    for epoch in (5, 10):
        state = train.attempt_folder(1) / f"{train.label}-{epoch:06d}-state"
        safetensors(state / "model.safetensors", {"a": ("F32", [1, 1])})
        with zipfile.ZipFile(state / states.LAST, "w") as archive:
            archive.writestr("a", "")

    def settle(state: Path, settle: Callable[[Path], None] = states.settle) -> None:
        if state.name.endswith("10-state"):
            shutil.rmtree(state)
        settle(state)

    monkeypatch.setattr(states, "settle", settle)
    record = Record("dit", "", {}, 100, 10, 10, 5, attempts=[BEGINNING])
    attempt = Attempt(train, record)
    with suppress(*training.PASSING):
        attempt.keep()
    assert attempt.keep()  # at the next look
    assert record.saved_epoch == 5
