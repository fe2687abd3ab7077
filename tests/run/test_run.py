"""`wanwrap run`, with a stand-in that refuses what upstream refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from helpers import STANDIN, Wanwrap, clip, dit, picture, record
from platforms import KILLED, STAR, full_disk, linux, odd_names, posix, signals, symlinks
from runs import LOW, NAME, SCRIPT, asleep, begin, calls, ended, folder, heard, is_gone, told

from wanwrap.errors import UpstreamError
from wanwrap.plan.preflight import check_upstream
from wanwrap.system import process
from wanwrap.system.log import Log
from wanwrap.system.process import Command, interruptible, run
from wanwrap.upstream.output import TrainingOutput
from wanwrap.upstream.pin import Upstream

RUN = ("run", "t2v-vanilla")
Words = tuple[object, ...]


def test_a_whole_run(tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path) -> None:
    done = wanwrap(*RUN, cats, *weights)
    assert done.returncode == 0, done.stderr
    out, files = folder(tmp_path), set[str]()
    for expert in ("high", "low"):
        kept, label = told(tmp_path, expert), f"{NAME}-{expert}"
        files |= {f"{label}.safetensors", *(f"{label}-{epoch:06d}.safetensors" for epoch in range(5, 50, 5))}
        assert (kept["state"], kept["steps_done"], kept["steps_planned"], kept["epochs_done"]) == ("done", 300, 300, 50)
        assert {*kept["files"]} == {name for name in files if label in name}
        assert kept["loss"] == 0.05 and kept["bytes"]["lora"] == (out / f"{label}.safetensors").stat().st_size
        assert (kept["machine"]["gpus"][0]["name"], kept["machine"]["upstream"]["version"]) == ("Standin 0", "0.3.4")
        assert {Path(weight["path"]).name: weight["bytes"] for weight in kept["weights"]}["vae.safetensors"] > 0
        own = {SCRIPT, "run.log", "record.json", "dataset.toml", "accelerate.yaml"}
        assert {path.name for path in (out / expert).iterdir()} == own
        log = (out / expert / "run.log").read_text(encoding="utf-8")
        assert log.count("steps: ") <= 52 and "steps: 100%" in log  # a bar's last state, not each of its drawings
        assert str(out / f"{label}.safetensors") in done.stdout
    assert {path.name for path in out.iterdir()} == {"high", "low", "report.html", "comfyui_workflow.json", *files}


def test_the_guides_options_reach_upstream(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    options = "--lr 5e-5 --scheduler cosine --optimizer adamw --dim 32 --alpha 16 --epochs 3 --save_every 1 --seed 9 "
    options += "--flow_shift 7 --output_name mine --blocks_to_swap 20 --attention xformers --json --noise-level low "
    options += "--network_args rank_dropout=0.1 verbose=True"
    done = cli(*low, *options.split(), "--", "--lr_warmup_steps", "10")
    assert done.returncode == 0, done.stderr
    assert {name: each["state"] for name, each in json.loads(done.stdout)["experts"].items()} == {"low": "done"}
    argv = " ".join(record(tmp_path)[-1]["argv"])
    reached = "learning_rate 5e-05 --lr_scheduler cosine --lr_scheduler_args num_warmup_steps=10 num_training_steps=18 "
    reached += (
        "--optimizer_type adamw --network_dim 32 --network_alpha 16 --max_train_epochs 3 --save_every_n_epochs 1 "
    )
    reached += "--seed 9 --discrete_flow_shift 7.0 --output_name mine-low --blocks_to_swap 20 --xformers "
    reached += "--network_args rank_dropout=0.1 verbose=True"
    for words in reached.split(" --"):
        assert f"--{words.strip()}" in argv, words
    assert "get_cosine_schedule_with_warmup" in argv and "--sdpa" not in argv


@pytest.mark.parametrize("how", [(), ("--restart",)])
def test_the_other_expert_was_trained_for_another_use(
    how: tuple[str, ...], tmp_path: Path, cli: Wanwrap, low: Words
) -> None:
    """One with Lightning, one without, are no pair: refused before the training, and nothing is put aside."""
    assert cli(*low, "--epochs", 1).returncode == 0
    place = folder(tmp_path) / "low" / "record.json"
    row = json.loads(place.read_text(encoding="utf-8"))
    row["inference"]["lightning"] = {"release": "t2v-v1.1", "strength": 1.0, "inference": {}}
    place.write_text(json.dumps(row), encoding="utf-8")
    before = len(calls(tmp_path))
    done = cli(*low, "--epochs", 1, "--noise_level", "high", *how)
    assert done.returncode == 11 and "t2v-v1.1" in done.stderr and "--output_name" in done.stderr, done.stderr
    assert len(calls(tmp_path)) == before and not (folder(tmp_path) / "before-1").exists()


def test_two_gpus(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    wanted = (*low, "--gpus", 2)
    done = cli(*wanted)
    assert done.returncode == 9 and "1 CUDA GPU" in done.stderr
    done = cli(*wanted, STANDIN_GPUS="2")
    assert done.returncode == 0, done.stderr
    assert "total_iters=60" in calls(tmp_path)[-1]  # 6 batches: 3 steps in each of 10 epochs, on both


def test_ones_own_toml_is_used_as_it_is(tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[general]\ncaption_extension = ".txt"\nresolution = [64, 64]\n[[datasets]]\n'
        f'image_directory = "{cats.as_posix()}/images"\ncache_directory = "{tmp_path.as_posix()}/c"\n'
    )
    done = cli(*RUN, "--dataset_config", own, *weights, "--noise_level", "low")
    assert done.returncode == 0, done.stderr
    latents, _, train = record(tmp_path)
    assert latents["toml"] == own.read_text() and str(own) in train["argv"]


@pytest.mark.parametrize(("dtype", "option"), [("BF16", "--mixed_precision bf16"), ("F8_E4M3", "--fp8_base")])
def test_a_dit_of_ones_own(dtype: str, option: str, tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """It is trained in the precision that it is in; fp8 is not scaled again."""
    done = cli(*low, "--dit_low", dit(tmp_path / "mine.safetensors", dtype))
    assert done.returncode == 0, done.stderr
    argv = " ".join(record(tmp_path)[-1]["argv"])
    fp8 = dtype == "F8_E4M3"
    assert option in argv and ("--fp8_scaled" in argv) != fp8 and ("fp8 already" in done.stderr) == fp8


@pytest.mark.parametrize(
    ("preset", "env", "extra", "code", "noun"),
    [
        ("t2v-lightning", {}, [], 5, "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors"),
        ("t2v-vanilla", {"STANDIN_GPUS": "0"}, [], 9, "no CUDA GPU"),
        ("t2v-vanilla", {"STANDIN_LACKS": "xformers"}, ["--attention", "xformers"], 8, "ImportError"),
        ("t2v-vanilla", {}, ["--attention", "flash_attn"], 8, "--attention sdpa"),
        ("t2v-vanilla", {}, ["--optimizer", "prodigyopt.Prodigy"], 8, "pip install prodigyopt"),
        ("t2v-vanilla", {}, ["--optimizer", "lion8bit"], 7, "lion8bit"),
        ("t2v-vanilla", {}, ["--python", "/nowhere/python"], 8, "/nowhere/python"),
        ("t2v-vanilla", {}, ["--python", "/bin/echo"], 8, "/bin/echo"),
        pytest.param("t2v-vanilla", {}, ["--python", "/bin/false"], 8, "printed nothing", marks=linux),
        ("t2v-vanilla", {}, ["--base_dir", "a[b]"], 7, "caches"),
        ("t2v-vanilla", {}, ["--base_dir", ""], 2, "empty"),
        pytest.param("t2v-vanilla", {}, ["--base_dir", "/proc/x"], 11, "/proc", marks=linux),
        ("t2v-vanilla", {}, ["--", "--sample_prompts", "nowhere.txt"], 7, "nowhere.txt"),
        ("t2v-vanilla", {"STANDIN_LACKS": "wandb"}, ["--", "--log_with", "wandb"], 8, "wandb"),
        ("t2v-vanilla", {}, ["--blocks_to_swap", "40"], 7, "39"),
        ("t2v-vanilla", {}, ["--", "--max_grad_nrom", "0"], 7, "max_grad_norm?"),
        ("t2v-vanilla", {}, ["--", "--dry_run"], 7, "`--`"),
        ("t2v-vanilla", {"WANWRAP_MUSUBI_DIR": "/"}, [], 6, "no checkout"),
        ("t2v-vanila", {}, [], 3, "t2v-vanilla?"),
        ("wan21-t2v-14b", {}, ["--noise_level", "low"], 7, "noise levels"),
    ],
)
def test_refused_with_a_code_of_its_own(
    preset: str, env: dict[str, str], extra: list[str], code: int, noun: str, tmp_path: Path, cli: Wanwrap, low: Words
) -> None:
    done = cli("run", preset, *low[len(LOW) :], *extra, **env)
    assert done.returncode == code and "Error: " in done.stderr and noun in done.stderr, done.stderr
    assert not (tmp_path / "home" / "local_training" / "outputs").exists()
    assert not (tmp_path / "record.jsonl").exists()


@symlinks
def test_upstream_at_another_commit(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    other = tmp_path / "musubi"
    (other / ".git" / "refs" / "heads").mkdir(parents=True)
    (other / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (other / ".git" / "refs" / "heads" / "main").write_text("f" * 40 + "\n")
    (other / "src").symlink_to(STANDIN / "src")
    done = cli(*low, "--musubi_dir", other)
    assert done.returncode == 6
    assert "f" * 40 in done.stderr and "30c658c" in done.stderr and "--any_upstream" in done.stderr
    accepted = cli(*low, "--musubi_dir", other, "--any_upstream")
    assert accepted.returncode == 0 and "warning: musubi-tuner" in accepted.stderr
    with pytest.raises(UpstreamError, match="`wanwrap setup`"):  # where there is none at all
        check_upstream({"missing": {"musubi_tuner": "no module"}}, sys.executable, Upstream(), any_upstream=True)


@pytest.mark.parametrize(("mischief", "word"), [("fail", "told to fail"), ("kill", KILLED)])
def test_a_child_that_dies(mischief: str, word: str, tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """Its own reason is told, and not accelerate's; the other expert is tried all the same."""
    both = (*low, "--noise_level", "both")
    done = cli(*both, STANDIN_DO=mischief)
    assert done.returncode == 10
    error = done.stderr[done.stderr.rindex("\nError: ") :]
    assert "train high" in error and word in error and "run.log" in error and "CalledProcessError" not in error
    assert [told(tmp_path, expert)["state"] for expert in ("high", "low")] == ["failed", "failed"]
    failed = cli(*both, "--json", STANDIN_DO=mischief)
    assert json.loads(failed.stdout)["experts"]["low"]["state"] == "failed"


def test_another_number_of_steps_stops_the_run_at_once(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    done = cli(*low, STANDIN_DO="disagree")  # which then would sleep
    assert done.returncode == 10 and "61 steps" in done.stderr and "planned 60" in done.stderr
    assert is_gone(int((tmp_path / "asleep").read_text()))


@signals
@pytest.mark.parametrize("trainer", ["sleep", "deaf"])
def test_stopping_leaves_nothing_behind(trainer: str, tmp_path: Path, low: Words) -> None:
    """Ctrl-C, which a terminal sends to all; a trainer may be stuck in CUDA, while its launcher dies at once."""
    with begin(tmp_path, *low, "--noise_level", "both", STANDIN_DO=trainer) as process:
        pid = asleep(tmp_path, process)
        posix.killpg(process.pid, signal.SIGINT)
        heard(process, "stopping: waiting")
        if trainer == "deaf":
            posix.killpg(process.pid, signal.SIGINT)
        text = ended(process, 130)
    assert "no whole state of high" in text
    assert is_gone(pid)
    assert [told(tmp_path, expert)["state"] for expert in ("high", "low")] == ["interrupted", "waiting"]


@signals
def test_under_nohup_a_closed_terminal_is_nothing() -> None:
    hangup = signal.Signals["SIGHUP"]
    with process.signals(signal.SIG_IGN, hangup), interruptible():
        os.kill(os.getpid(), hangup)
    with process.signals(signal.SIG_DFL, hangup), pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), hangup)


@odd_names
def test_a_weight_file_whose_name_is_no_text(tmp_path: Path, wanwrap: Wanwrap, low: Words) -> None:
    odd = shutil.copyfile(str(low[low.index("--vae") + 1]), tmp_path / os.fsdecode(b"v\xff.safetensors"))
    done = wanwrap(*low, "--vae", odd)
    assert done.returncode == 0, done.stderr


def test_a_relative_python_and_a_screen_that_is_gone(tmp_path: Path, low: Words) -> None:
    """The child runs in another folder; a terminal that closes must neither stop it nor block it."""
    relative = os.path.relpath(sys.executable, tmp_path / "home")
    with begin(tmp_path, *low, "--python", relative) as process:
        assert process.stdout
        process.stdout.close()
        process.wait(60)
    assert told(tmp_path)["state"] == "done"


def test_a_full_disk_ends_the_run_and_the_child(tmp_path: Path) -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device", "run.log")

    code = "import time, sys\nwhile True: print('x' * 9999, flush=True)"
    with pytest.raises(OSError, match="No space left"):
        run(Command([sys.executable, "-c", code], tmp_path), full)


def test_brackets_in_a_data_sets_name(tmp_path: Path, cli: Wanwrap, weights: list[str], cats: Path) -> None:
    """Upstream globs its cache folders without escaping them."""
    done = cli(*RUN, cats.rename(tmp_path / f"cats [v2]{STAR}"), *weights, "--noise_level", "low", "--epochs", 1)
    assert done.returncode == 0, done.stderr
    caches = [line for line in record(tmp_path)[0]["toml"].splitlines() if line.startswith("cache_directory")]
    assert len(caches) == 3
    assert not any(letter in line for line in caches for letter in "[*?")


def test_what_is_missing_comes_with_its_command_and_nothing_is_written(tmp_path: Path, cli: Wanwrap) -> None:
    picture(tmp_path / "home" / "a b" / "x.png")
    clip(tmp_path / "home" / "a b" / "y.mp4", frames=60)
    before, words = sorted(tmp_path.rglob("*")), ("run", "i2v-lightning", "--dataset", "a b")
    refused = cli(*words, "--noise_level", "low")
    assert refused.returncode == 5 and refused.stderr.count("is not there") == 4
    assert "`wanwrap setup i2v-lightning --noise_level low`" in refused.stderr
    done = cli(*words, "--dry_run", standin=False)
    assert done.returncode == 0 and done.stdout.startswith("#"), done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    for noun in ("musubi-tuner", "`wanwrap setup i2v-lightning`", "28.6 GB", "1.2 GB"):
        assert noun in done.stderr, noun
    plan = json.loads(cli(*words, "--dry_run", "--json").stdout)
    assert len([why for why in plan["missing"] if "is not there" in why]) == 6
    assert plan["steps"][-1]["optimizer_steps"] == plan["batches_per_epoch"] * 50


def test_progress_is_read_across_chunks() -> None:
    output = TrainingOutput()
    text = "  total optimization steps / 学習ステップ数: 900\n\rsteps:   1%|1         | 10/900 [00:52<1:26:40,  5.25s/it, avr_loss=nan]".encode()
    for start in range(0, len(text), 7):
        output.read(text[start : start + 7])
        assert output.announced in (None, 900)
    assert (output.announced, output.done, output.loss, output.broken_for) == (900, 10, "nan", 10)


@full_disk
def test_why_a_step_failed_is_known_where_the_log_takes_nothing() -> None:
    with Path("/dev/full").open("ab", buffering=0) as file:
        log = Log(file)
        log.write(b"steps: 1%\rsteps: 2%\nOSError: [Errno 28] No space")
        log.write(b" left on device")
        assert log.end() == "steps: 2%\nOSError: [Errno 28] No space left on device"
