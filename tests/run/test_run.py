"""`wanwrap run` as a process, with a stand-in that refuses what upstream refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import STANDIN, Wanwrap, clip, dit, lora, picture, record
from runs import asleep, begin, calls, ended, folder, is_gone, told

from wanwrap.system.failures import failure
from wanwrap.system.files import is_locked, lock
from wanwrap.system.log import Log, last_lines
from wanwrap.system.process import Command, interruptible, run, signals
from wanwrap.upstream.output import TrainingOutput

RUN = ("run", "t2v-vanilla")


def test_a_whole_run(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    done = wanwrap(*RUN, cats, *weights)
    assert done.returncode == 0, done.stderr
    out, files = folder(tmp_path), set[str]()
    for expert in ("high", "low"):
        kept, label = told(tmp_path, expert), f"cats-t2v-vanilla-{expert}"
        files |= {f"{label}.safetensors", *(f"{label}-{epoch:06d}.safetensors" for epoch in range(5, 50, 5))}
        assert (kept["state"], kept["steps_done"], kept["steps_planned"], kept["epochs_done"]) == ("done", 300, 300, 50)
        assert {*kept["files"]} == {name for name in files if label in name}
        assert kept["loss"] == 0.05 and kept["bytes"]["lora"] == (out / f"{label}.safetensors").stat().st_size
        assert (kept["machine"]["gpus"][0]["name"], kept["machine"]["upstream"]["version"]) == ("Standin 0", "0.3.4")
        assert {Path(weight["path"]).name: weight["bytes"] for weight in kept["weights"]}["vae.safetensors"] > 0
        own = {"run.sh", "run.log", "record.json", "dataset.toml", "accelerate.yaml"}
        assert {path.name for path in (out / expert).iterdir()} == own
        log = (out / expert / "run.log").read_text(encoding="utf-8")
        assert log.count("steps: ") <= 52 and "steps: 100%" in log  # a bar's last state, not each of its drawings
        assert str(out / f"{label}.safetensors") in done.stdout
    assert {path.name for path in out.iterdir()} == {"high", "low", *files}
    assert "-high on the high-noise model" in done.stdout


def test_one_expert_as_json(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    done = wanwrap(*RUN, cats, *weights, "--noise-level", "low", "--json", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    experts = json.loads(done.stdout)["experts"]
    assert {name: each["state"] for name, each in experts.items()} == {"low": "done"}
    assert len(record(tmp_path)) == 3


def test_the_guides_options_reach_upstream(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    options = "--lr 5e-5 --scheduler cosine --optimizer adamw --dim 32 --alpha 16 --epochs 3 --save_every 1 --seed 9 "
    options += "--flow_shift 7 --output_name mine --blocks_to_swap 20 --attention xformers --network_args rank_dropout=0.1 verbose=True"
    done = wanwrap(*RUN, cats, *weights, "--noise_level", "low", *options.split(), "--", "--lr_warmup_steps", "10")
    assert done.returncode == 0, done.stderr
    argv = record(tmp_path)[-1]["argv"]
    for words in (
        "--learning_rate 5e-05",
        "--lr_scheduler cosine",
        "--lr_scheduler_type transformers.optimization.get_cosine_schedule_with_warmup",
        "--lr_scheduler_args num_warmup_steps=10 num_training_steps=18",
        "--optimizer_type adamw",
        "--network_dim 32",
        "--network_alpha 16",
        "--max_train_epochs 3",
        "--save_every_n_epochs 1",
        "--seed 9",
        "--discrete_flow_shift 7.0",
        "--output_name mine-low",
        "--blocks_to_swap 20",
        "--xformers",
        "--network_args rank_dropout=0.1 verbose=True",
    ):
        assert words in " ".join(argv), words
    assert "--sdpa" not in argv


def test_two_gpus(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    wanted = [*RUN, cats, *weights, "--noise_level", "low", "--gpus", 2]
    done = wanwrap(*wanted)
    assert done.returncode == 9 and "sees 1 CUDA GPU(s)" in done.stderr
    done = wanwrap(*wanted, STANDIN_GPUS="2")
    assert done.returncode == 0, done.stderr
    assert "total_iters=300" in calls(tmp_path)[-1]  # 6 batches: 3 steps in each of 50 epochs, on both


def test_ones_own_toml_is_used_as_it_is(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        f'[general]\ncaption_extension = ".txt"\n[[datasets]]\nimage_directory = "{cats}/images"\nresolution = [64, 64]\ncache_directory = "{tmp_path}/c"\n'
    )
    done = wanwrap(*RUN, "--dataset_config", own, *weights, "--noise_level", "low")
    assert done.returncode == 0, done.stderr
    assert record(tmp_path)[0]["toml"] == own.read_text()
    assert str(own) in record(tmp_path)[2]["argv"]


def test_bf16_dit_trains_in_bf16(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    mine = dit(tmp_path / "mine.safetensors", "BF16")
    done = wanwrap(*RUN, cats, *weights, "--noise_level", "low", "--dit_low", mine)
    assert done.returncode == 0, done.stderr
    assert " ".join(record(tmp_path)[-1]["argv"]).count("_precision bf16") == 2


def test_fp8_dit_is_not_scaled_again(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    mine = dit(tmp_path / "mine.safetensors", "F8_E4M3")
    done = wanwrap(*RUN, cats, *weights, "--noise_level", "low", "--dit_low", mine)
    assert done.returncode == 0, done.stderr
    assert "is fp8 already" in done.stderr
    assert "--fp8_scaled" not in record(tmp_path)[-1]["argv"]


@pytest.mark.parametrize(
    ("preset", "env", "extra", "code", "message"),
    [
        (
            "t2v-lightning",
            {},
            [],
            5,
            "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors (1.2 GB) is not there",
        ),
        ("t2v-vanilla", {"STANDIN_GPUS": "0"}, [], 9, "sees no CUDA GPU"),
        (
            "t2v-vanilla",
            {"STANDIN_LACKS": "xformers"},
            ["--attention", "xformers"],
            8,
            "(ImportError: built for another torch)",
        ),
        ("t2v-vanilla", {}, ["--attention", "flash_attn"], 8, "--attention sdpa"),
        ("t2v-vanilla", {}, ["--optimizer", "prodigyopt.Prodigy"], 8, "pip install prodigyopt"),
        ("t2v-vanilla", {}, ["--optimizer", "lion8bit"], 7, "lion8bit"),
        ("t2v-vanilla", {}, ["--python", "/nowhere/python"], 8, "/nowhere/python can't be used to train"),
        ("t2v-vanilla", {}, ["--python", "/bin/echo"], 8, "/bin/echo can't be used to train"),
        ("t2v-vanilla", {}, ["--python", "/bin/false"], 8, "it printed nothing"),
        ("t2v-vanilla", {}, ["--base_dir", "a[b]"], 7, "can't find its caches"),
        ("t2v-vanilla", {}, ["--base_dir", ""], 2, "it is empty"),
        ("t2v-vanilla", {}, ["--base_dir", "/proc/x"], 11, "give another place"),
        ("t2v-vanilla", {}, ["--", "--sample_prompts", "nowhere.txt"], 7, "there is no file"),
        ("t2v-vanilla", {}, ["--", "--log_with", "wandb"], 8, "can't import wandb"),
        ("t2v-vanilla", {}, ["--blocks_to_swap", "40"], 7, "39 at most"),
        ("t2v-vanilla", {}, ["--", "--max_grad_nrom", "0"], 7, "Did you mean max_grad_norm?"),
        ("t2v-vanilla", {}, ["--", "--dry_run"], 7, "--dry_run is wanwrap's own: put it before the `--`"),
        ("t2v-vanilla", {"WANWRAP_MUSUBI_DIR": "/"}, [], 6, "no checkout of musubi-tuner"),
        ("t2v-vanila", {}, [], 3, "Did you mean t2v-vanilla?"),
        ("wan21-t2v-14b", {}, ["--noise_level", "low"], 7, "without noise levels"),
    ],
)
def test_refused_with_a_code_of_its_own(
    preset: str,
    env: dict[str, str],
    extra: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    wanwrap: Wanwrap,
    weights: list[str],
    cats: Path,
) -> None:
    done = wanwrap("run", preset, cats, *weights, *extra, **env)
    assert done.returncode == code and "Error: " in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "home" / "local_training" / "outputs").exists()
    assert not (tmp_path / "record.jsonl").exists()


def test_missing_weights_come_with_their_command(tmp_path: Path, wanwrap: Wanwrap, cats: Path) -> None:
    done = wanwrap(*RUN, cats, "--noise_level", "low")
    assert done.returncode == 5
    assert "wan2.2_t2v_low_noise_14B_fp16.safetensors (28.6 GB) is not there" in done.stderr
    assert done.stderr.count("is not there") == 3
    assert "`wanwrap setup t2v-vanilla --noise_level low` gets what is missing" in done.stderr
    assert not (tmp_path / "home" / "local_training").exists()


def test_upstream_at_another_commit(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    other = tmp_path / "musubi"
    (other / ".git" / "refs" / "heads").mkdir(parents=True)
    (other / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (other / ".git" / "refs" / "heads" / "main").write_text("f" * 40 + "\n")
    (other / "src").symlink_to(STANDIN / "src")
    arguments = (*RUN, cats, *weights, "--noise_level", "low", "--musubi_dir", other)
    done = wanwrap(*arguments)
    assert done.returncode == 6
    assert "f" * 40 in done.stderr and "30c658c" in done.stderr and "--any_upstream" in done.stderr
    accepted = wanwrap(*arguments, "--any_upstream")
    assert accepted.returncode == 0
    assert "warning: musubi-tuner" in accepted.stderr


def test_no_upstream_at_all(wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    done = wanwrap(*RUN, cats, *weights, standin=False)
    assert done.returncode == 6
    assert "has no musubi-tuner; `wanwrap setup` gets it" in done.stderr


@pytest.mark.parametrize(
    ("mischief", "words"), [("fail", "failed with exit status 1"), ("kill", "was ended by SIGKILL")]
)
def test_a_child_that_dies(
    mischief: str, words: str, tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    done = wanwrap(*RUN, cats, *weights, STANDIN_DO=mischief)
    assert done.returncode == 10
    error = done.stderr[done.stderr.rindex("\nError: ") :]
    assert f"train high {words}" in error
    assert "CalledProcessError" not in error
    assert ("told to fail" in error) == (mischief == "fail")
    assert "run.log" in error
    assert [told(tmp_path, expert)["state"] for expert in ("high", "low")] == ["failed", "failed"]
    failed = wanwrap(*RUN, cats, *weights, "--json", STANDIN_DO=mischief)
    assert json.loads(failed.stdout)["experts"]["low"]["state"] == "failed"


def test_another_number_of_steps_stops_the_run_at_once(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    begin = time.monotonic()
    done = wanwrap(*RUN, cats, *weights, STANDIN_DO="disagree")
    assert done.returncode == 10
    assert "upstream announced 301 steps and wanwrap planned 300" in done.stderr
    assert time.monotonic() - begin < 30
    assert is_gone(int((tmp_path / "asleep").read_text()))


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("sent", "to_group", "trainer"),
    [
        (signal.SIGINT, True, "sleep"),
        (signal.SIGINT, False, "sleep"),
        (signal.SIGTERM, False, "sleep"),
        (signal.SIGHUP, False, "sleep"),
        (signal.SIGINT, True, "deaf"),  # as one that is stuck in CUDA, while its launcher dies at once
    ],
)
def test_stopping_leaves_nothing_behind(
    sent: signal.Signals, to_group: bool, trainer: str, tmp_path: Path, weights: list[str], cats: Path
) -> None:
    with begin(tmp_path, *RUN, cats, *weights, STANDIN_DO=trainer) as process:
        pid = asleep(tmp_path, process)
        (os.killpg if to_group else os.kill)(process.pid, sent)
        if trainer == "deaf":
            time.sleep(1)
            os.killpg(process.pid, sent)  # the second Ctrl-C
        text = ended(process, 130)
    assert "stopping: waiting for the command" in text
    assert "the same command goes on. There is no whole state of high yet" in text
    assert is_gone(pid)
    assert [told(tmp_path, expert)["state"] for expert in ("high", "low")] == ["interrupted", "waiting"]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no SIGHUP")
def test_under_nohup_a_closed_terminal_is_nothing() -> None:
    with signals(signal.SIG_IGN, signal.SIGHUP), interruptible():
        os.kill(os.getpid(), signal.SIGHUP)
    with signals(signal.SIG_DFL, signal.SIGHUP), pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.skipif(sys.platform != "linux", reason="names as Linux has them")
def test_a_weight_file_whose_name_is_no_text(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    at, odd = weights.index("--vae") + 1, tmp_path / os.fsdecode(b"v\xff.safetensors")
    shutil.copyfile(weights[at], odd)
    done = wanwrap(*RUN, cats, "--noise_level", "low", "--epochs", 1, *weights[:at], odd, *weights[at + 1 :])
    assert done.returncode == 0, done.stderr


def test_a_relative_python_and_a_screen_that_is_gone(tmp_path: Path, cats: Path, weights: list[str]) -> None:
    """The child runs in another folder; a terminal that closes must neither stop it nor block it."""
    relative = os.path.relpath(sys.executable, tmp_path / "home")
    with begin(tmp_path, *RUN, cats, *weights, "--python", relative) as process:
        assert process.stdout
        process.stdout.close()
        process.wait(60)
    assert [told(tmp_path, expert)["state"] for expert in ("high", "low")] == ["done", "done"]


def test_a_full_disk_ends_the_run_and_the_child(tmp_path: Path) -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device", "run.log")

    code = "import time, sys\nwhile True: print('x' * 9999, flush=True)"
    with pytest.raises(OSError, match="No space left"):
        run(Command([sys.executable, "-c", code], tmp_path), full)


def test_a_second_wanwrap_in_the_same_folder_is_refused(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    """Its lock alone tells; one that a power cut has left is none."""
    busy = folder(tmp_path) / "low"
    busy.parent.mkdir(parents=True)
    busy.with_name("low.lock").touch()
    with lock(busy, "mine"):
        done = wanwrap(*RUN, cats, *weights)
        assert done.returncode == 11 and f"another wanwrap is at work in {busy}" in done.stderr
    busy.with_name("low.lock").touch()
    assert wanwrap(*RUN, cats, *weights).returncode == 0
    assert not is_locked(busy) and not busy.with_name("low.lock").exists()


def test_a_launcher_that_dies_leaves_no_trainer(tmp_path: Path, weights: list[str], cats: Path) -> None:
    with begin(tmp_path, *RUN, cats, *weights, "--noise_level", "low", STANDIN_DO="deaf") as process:
        trainer = psutil.Process(asleep(tmp_path, process))
        time.sleep(1)
        psutil.Process(trainer.ppid()).kill()
        ended(process, 10)
    assert is_gone(trainer.pid)


def test_brackets_in_a_data_sets_name(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    """Upstream globs its cache folders without escaping them."""
    done = wanwrap(*RUN, cats.rename(tmp_path / "cats [v2]*"), *weights, "--noise_level", "low")
    assert done.returncode == 0, done.stderr
    caches = [line for line in record(tmp_path)[0]["toml"].splitlines() if line.startswith("cache_directory")]
    assert len(caches) == 3
    assert not any(letter in line for line in caches for letter in "[*?")


def test_resume_from_checks_the_file(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    old = lora(tmp_path / "old.safetensors", rank=8, alpha=8)
    arguments = (*RUN, cats, *weights, "--noise_level", "low", "--resume_from", old)
    done = wanwrap(*arguments)
    assert done.returncode == 5
    assert "--dim 8 --alpha 8" in done.stderr and "42" in done.stderr
    assert wanwrap(*arguments, "--dry_run").returncode == 5  # the script would do the same
    done = wanwrap(*arguments, "--dim", 8)
    assert done.returncode == 0, done.stderr
    assert f"--network_weights {old}" in " ".join(record(tmp_path)[-1]["argv"])
    assert "note: old.safetensors gives its weights alone: the optimizer's moments" in done.stderr
    assert "the rate at the full --lr 8e-05" in done.stderr and "give its command again" in done.stderr


def test_dry_run_says_what_is_missing_and_writes_nothing(tmp_path: Path, wanwrap: Wanwrap) -> None:
    picture(tmp_path / "home" / "a b" / "x.png")
    clip(tmp_path / "home" / "a b" / "y.mp4", frames=60)
    before = sorted(tmp_path.rglob("*"))
    done = wanwrap("run", "i2v-lightning", "--dataset", "a b", "--dry_run", standin=False)
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    for words in (
        "musubi-tuner is not there",
        "`wanwrap setup i2v-lightning` gets",
        "(28.6 GB) is not there",
        "(1.2 GB) is not there",
    ):
        assert words in done.stderr
    assert done.stdout.startswith("#!/usr/bin/env bash")
    plan = json.loads(wanwrap("run", "i2v-lightning", "--dataset", "a b", "--dry_run", "--json").stdout)
    assert len([why for why in plan["missing"] if "is not there" in why]) == 6
    assert plan["steps"][-1]["optimizer_steps"] == plan["batches_per_epoch"] * 50


def test_progress_is_read_across_chunks() -> None:
    output = TrainingOutput()
    text = "  total optimization steps / 学習ステップ数: 900\n\rsteps:   1%|1         | 10/900 [00:52<1:26:40,  5.25s/it, avr_loss=nan]".encode()
    for start in range(0, len(text), 7):
        output.read(text[start : start + 7])
        assert output.announced in (None, 900)
    assert (output.announced, output.done, output.loss, output.broken_for) == (900, 10, "nan", 10)


def test_how_a_child_ended() -> None:
    assert failure(3, "").text == "failed with exit status 3."
    assert (
        failure(-9, "").text
        == "was ended by SIGKILL (usually: out of RAM; close other programs, or swap fewer blocks)."
    )
    assert "raise --blocks_to_swap" in failure(1, "torch.OutOfMemoryError: CUDA out of memory. Tried to").text


def test_accelerates_own_traceback_is_left_out() -> None:
    output = (
        b'before\nTraceback (most recent call last):\n  File "train.py"\nValueError: the cause\n'
        b'Traceback (most recent call last):\n  File "/x/accelerate/commands/launch.py", line 990\n'
        b"subprocess.CalledProcessError: Command '['a', 'b']' returned non-zero exit status 1.\n"
    )
    assert last_lines(output).splitlines()[-1] == "ValueError: the cause"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_why_a_step_failed_is_known_where_the_log_takes_nothing() -> None:
    with Path("/dev/full").open("ab", buffering=0) as file:
        log = Log(file)
        log.write(b"steps: 1%\rsteps: 2%\nOSError: [Errno 28] No space")
        log.write(b" left on device")
        assert log.end() == "steps: 2%\nOSError: [Errno 28] No space left on device"
