"""`launch`: what is checked before anything is sent, what is sent and run, and what looks after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, golden_plan
from platforms import in_bash, posix_paths
from runs import NAME, finished_record, folder

from wanwrap import __version__
from wanwrap.errors import LaunchError, OptionError, OutputError, PackageError, RoomError
from wanwrap.launch import wheel
from wanwrap.launch.engines import ENGINES
from wanwrap.launch.job import gpu

WORDS = ("t2v-vanilla", "--gpu", "A100-80GB", "--epochs", 4)
PROGRAM = """#!/bin/bash
echo "$(basename "$0") $*" >> "$TOLD"
case "$(basename "$0") $*" in {cases} esac
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a program on PATH that keeps its words; `cases` are bash's, of what it answers to them."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    monkeypatch.setenv("HOME", str(tmp_path))

    def make(name: str, cases: str = "") -> Path:
        (bin_ / name).write_text(PROGRAM.format(cases=cases), encoding="utf-8")
        (bin_ / name).chmod(0o755)
        return tmp_path / "told"

    return make


def token(tmp_path: Path) -> None:
    (tmp_path / ".modal.toml").write_text('[default]\ntoken_id = "ak-1"\ntoken_secret = "as-1"\n')


def test_the_wheel_is_this_wanwrap(tmp_path: Path) -> None:
    """Installed elsewhere it is the same version, with presets and templates; the same files make the same wheel."""
    made = wheel.write(tmp_path / "one")
    assert made.read_bytes() == wheel.write(tmp_path / "two").read_bytes()
    place = tmp_path / "site"
    with zipfile.ZipFile(made) as content:
        content.extractall(place)
        names = {*content.namelist()}
    assert {"wanwrap/presets/t2v_vanilla.py", "wanwrap/templates/upstream_flags.json"} <= names
    assert not [name for name in names if "__pycache__" in name]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WANWRAP"))}
    code = "import wanwrap, sys; sys.argv[1:] = ['presets']; from wanwrap.cli.main import main; main()"
    argv = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(place)!r}); {code}"]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", env=env, cwd=tmp_path)
    assert done.returncode == 0 and "t2v-vanilla" in done.stdout, done.stderr
    info = place / f"wanwrap-{__version__}.dist-info"
    assert f"Version: {__version__}" in (info / "METADATA").read_text() and "pillow" in (info / "METADATA").read_text()
    assert len((info / "RECORD").read_text().splitlines()) == len(names)


@in_bash
def test_sent_started_looked_after_and_fetched(
    tmp_path: Path, cli: Wanwrap, cats: Path, program: Callable[..., Path]
) -> None:
    """By Modal's own program, in the commands that a dry run prints."""
    token(tmp_path)
    plan = golden_plan("t2v-vanilla")
    results = folder(tmp_path) / "launch" / NAME
    got = f"mkdir -p '{results}/high' && echo mine > '{results}/{NAME}-high.safetensors' && cp '{tmp_path}/record' '{results}/high/record.json'"
    told = program(
        "modal", f"*run*) echo started ap-0123456789012345678901;; *get*) {got};; *logs*) echo step 7;; esac; case 1 in"
    )
    (tmp_path / "record").write_text(
        json.dumps(asdict(finished_record(plan, plan.trainings[0], updated="2026-11-22T12:00:00+00:00"))),
        encoding="utf-8",
    )
    dry = cli("launch", "modal", *WORDS[:1], cats, *WORDS[1:], "--price", 2.5, "--hours", 10, "--dry_run")
    assert dry.returncode == 0 and "25.00 at most" in dry.stderr and not folder(tmp_path).exists(), dry.stderr
    done = cli("launch", "modal", *WORDS[:1], cats, *WORDS[1:], "--hours", 10)
    assert done.returncode == 0 and f"wanwrap fetch {NAME}" in done.stdout, done.stderr
    text = (folder(tmp_path) / "launch" / "modal_app.py").read_text(encoding="utf-8")
    assert text.rstrip() in dry.stdout and str(cats) in text and "'--epochs', '4'" in text.replace('"', "'")
    assert told.read_text().splitlines() == ["modal run --detach modal_app.py"]
    assert (folder(tmp_path) / "launch" / wheel.NAME).is_file()
    again = cli("launch", "modal", *WORDS[:1], cats, *WORDS[1:])
    assert again.returncode == LaunchError.exit_code and "--again" in again.stderr
    status = cli("status", NAME, "--launched", "--json")
    (row,) = json.loads(status.stdout)
    assert "step 7" in row["says"] and row["ids"] == ["ap-0123456789012345678901"]
    assert (
        cli("fetch", NAME).returncode == 0 and (folder(tmp_path) / f"{NAME}-high.safetensors").read_text() == "mine\n"
    )
    assert (folder(tmp_path) / "report.html").is_file() and not results.exists()
    assert "finished" in cli("status", NAME).stdout
    assert cli("fetch", "dogs").returncode == LaunchError.exit_code


@in_bash
def test_a_cluster_gets_the_words_as_they_are(
    tmp_path: Path, cli: Wanwrap, cats: Path, program: Callable[..., Path]
) -> None:
    """Two jobs; the second is refused, and the first is on record. The site's options are remembered."""
    told = program("sbatch", "*--parsable*high*) echo 12;; *--parsable*) exit 1;; esac; case 1 in")
    (tmp_path / "bin" / "bash").write_text("#!/bin/sh\nexit 0\n")  # setup, which downloads
    (tmp_path / "bin" / "bash").chmod(0o755)
    words = (*WORDS[:1], cats, *WORDS[1:])
    program("sbatch", "*--parsable*high*) echo 12;; *--parsable*) exit 1;; esac; case 1 in")
    (tmp_path / "bin" / "sbatch").write_text(
        (tmp_path / "bin" / "sbatch").read_text().replace("/bin/bash", "/usr/bin/env -S /bin/bash")
    )
    done = cli("launch", "slurm", *words, "--separate", "--account", "lab", "--modules", "cuda/12", "--hours", 2)
    assert done.returncode == LaunchError.exit_code, done.stderr
    files = {path.name: path.read_text() for path in (folder(tmp_path) / "launch").glob("*.sbatch")}
    assert {*files} == {"high.sbatch", "low.sbatch"} and all("--account=lab" in text for text in files.values())
    assert f"{cats}" in files["low.sbatch"] and "--noise_level low" in files["low.sbatch"]
    launched = json.loads((folder(tmp_path) / "launch" / "launched.json").read_text())
    assert launched["ids"] == ["12"] and launched["later"]["stop"] == [["scancel", "12"]]
    assert "sbatch --parsable low.sbatch" in told.read_text()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 13\n")
    assert cli("launch", "slurm", *words, "--account", "lab", "--modules", "cuda/12", "--again").returncode == 0
    dry = cli("launch", "slurm", *words, "--dry_run")
    assert "--account=lab" in dry.stdout and "module load cuda/12" in dry.stdout


@pytest.mark.parametrize(
    ("words", "code", "noun"),
    [
        (("modal", "t2v-vanilla", "--gpu", "H1000"), OptionError.exit_code, "H100"),
        (("modal", "t2v-vanilla", "--gpu", "A100", "--account", "lab"), OptionError.exit_code, "--account"),
        (("sky", "t2v-vanila", "--gpu", "A100"), 3, "t2v-vanilla"),
        (("sky", "t2v-vanilla", "--gpu", "A100", "--vae", "v.safetensors"), 5, "v.safetensors"),
        (("script", "t2v-vanilla", "--gpu", "T4", "--blocks_to_swap", "0"), RoomError.exit_code, "T4"),
        (("modal", "t2v-vanilla", "--gpu", "A100", "--parallel", "--separate"), OptionError.exit_code, "--separate"),
        (("modal", "t2v-vanilla", "--gpu", "A100"), LaunchError.exit_code, "modal"),
    ],
)
def test_refused_before_it_costs(
    words: tuple[str, ...],
    code: int,
    noun: str,
    cli: Wanwrap,
    cats: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    done = cli("launch", *words[:2], cats, *words[2:])
    assert done.returncode == code and noun in done.stderr, done.stderr
    assert not folder(tmp_path).exists()


@in_bash
def test_no_account(cli: Wanwrap, cats: Path, program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    told = program("modal")
    monkeypatch.delenv("MODAL_TOKEN_ID", raising=False)
    done = cli("launch", "modal", "t2v-vanilla", cats, "--gpu", "H100")
    assert done.returncode == LaunchError.exit_code and "modal setup" in done.stderr and not told.exists()


@pytest.mark.parametrize("word", ENGINES)
def test_files_go_along(word: str, tmp_path: Path, cli: Wanwrap, cats: Path) -> None:
    """A preset and prompts of the user's own; a cluster finds them where they are."""
    mine = tmp_path / "mine.py"
    assert cli("show", "wan21-t2v-1.3b", "--out", mine).returncode == 0
    prompts = tmp_path / "my prompts.txt"
    prompts.write_text("a cat\n", encoding="utf-8")
    more = ("--", "--sample_prompts", prompts, "--sample_every_n_epochs", 2)
    done = cli("launch", word, mine, cats, "--gpu", "RTX4090", "--dry_run", "--json", *more)
    if word == "modal" and done.returncode == OptionError.exit_code:  # which has no such card
        done = cli("launch", word, mine, cats, "--gpu", "L4", "--dry_run", "--json", *more)
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    (run,) = job["runs"]
    if word == "slurm":
        assert run[0] == str(mine) and str(prompts) in run
        return
    assert str(tmp_path) not in " ".join(run) and "cats-mine" in run
    named = (run[0], run[1], next(word for word in run if word.endswith("my prompts.txt")))
    assert [job["uploads"][word.removeprefix("./")] for word in named] == [str(mine), str(cats), str(prompts)]


def job_of(cli: Wanwrap, *words: object) -> dict[str, Any]:
    done = cli("launch", *words, "--dry_run", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["job"]
    return found


def test_what_stands_in_a_run_file_goes_along(tmp_path: Path, cli: Wanwrap, cats: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(f'preset = "t2v-vanilla"\ndataset = {json.dumps(str(cats))}\nepochs = 7\noutput_name = "mine"\n')
    (run,) = job_of(cli, "modal", file, "--gpu", "H100")["runs"]
    assert run[2:] == ["--epochs", "7", "--output_name", "mine"] or {"--epochs", "7", "mine"} <= {*run}


def test_ones_own_data_set_called_sample_is_sent(tmp_path: Path, cli: Wanwrap, cats: Path) -> None:
    cats.rename(tmp_path / "home" / "sample")
    mine = job_of(cli, "modal", "t2v-vanilla", "sample", "--gpu", "H100")
    assert mine["uploads"][mine["runs"][0][1]] == str(tmp_path / "home" / "sample")
    cats.parent.joinpath("home", "sample").rename(cats)
    shipped = job_of(cli, "modal", "t2v-vanilla", "sample", "--gpu", "H100")
    assert shipped["runs"][0][1] == "sample" and [*shipped["uploads"]] == [wheel.NAME]


@in_bash
def test_what_may_have_begun_is_on_record(
    tmp_path: Path, cli: Wanwrap, cats: Path, program: Callable[..., Path]
) -> None:
    """A start that fails may have rented a machine; and one that the engine has forgotten hides no other."""
    program("sky", "*launch*) exit 1;; *status*) exit 1")
    monkey = tmp_path / ".sky"
    monkey.mkdir()
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_text("[default]\napi_key = 'x'\n")
    done = cli("launch", "sky", "t2v-vanilla", cats, "--gpu", "H100")
    assert done.returncode == LaunchError.exit_code and "sky down" in done.stderr, done.stderr
    told = cli("status", "--launched")
    assert told.returncode == 0 and NAME in told.stdout and "ended long ago" in told.stderr
    assert cli("status", "dogs", "--launched").returncode == LaunchError.exit_code


@in_bash
def test_a_run_of_this_machine_is_not_written_over(
    tmp_path: Path, cli: Wanwrap, cats: Path, weights: list[str], program: Callable[..., Path]
) -> None:
    token(tmp_path)
    told = program("modal")
    assert cli("run", "t2v-vanilla", cats, *weights, "--epochs", 1).returncode == 0
    done = cli("launch", "modal", "t2v-vanilla", cats, "--gpu", "H100", "--epochs", 1)
    assert done.returncode == OutputError.exit_code and not told.exists()


@pytest.mark.parametrize("words", [("--separate", "--sample"), ("--parallel", "--noise_level", "high")])
def test_what_would_end_there_is_refused_here(words: tuple[str, ...], cli: Wanwrap, cats: Path) -> None:
    done = cli("launch", "script", "t2v-vanilla", cats, "--gpu", "H100", *words, "--dry_run")
    assert done.returncode == OptionError.exit_code


def test_a_names_own_dollar_is_no_mark(cli: Wanwrap, cats: Path) -> None:
    """And a pod that is destroyed takes the results along."""
    done = cli("launch", "modal", "t2v-vanilla", cats, "--gpu", "H100", "--output_name", "a$url", "--dry_run")
    assert done.returncode == 0 and "'a$url'" in done.stdout
    end = ("--end", "vastai destroy instance 1")
    assert "destroys" in cli("launch", "script", "t2v-vanilla", cats, "--gpu", "H100", *end, "--dry_run").stderr


def told(cli: Wanwrap, *words: object) -> str:
    """What a refused launch says."""
    done = cli("launch", *words)
    assert done.returncode, done.stdout
    return f"{done.returncode} {done.stderr}"


def test_packages_that_options_want(tmp_path: Path, cli: Wanwrap, cats: Path) -> None:
    """An optimizer by the name that pip knows, which the user says; loggers by their own, with their key."""
    words = ("t2v-vanilla", cats, "--gpu", "H100", "--optimizer", "prodigyopt.Prodigy", "--lr", 1)
    for word in ENGINES:
        assert told(cli, word, *words, "--dry_run").startswith(str(PackageError.exit_code))
    assert job_of(cli, "sky", *words, "--package", "prodigyopt")["setup"][-2:] == ["--package", "prodigyopt"]
    mine = tmp_path / "mine.py"
    assert cli("show", "t2v-vanilla", "--out", mine).returncode == 0
    text = mine.read_text(encoding="utf-8")
    mine.write_text(text.replace('"network_dim"', '"log_with": "wandb", "network_dim"'), encoding="utf-8")
    job = job_of(cli, "sky", mine, cats, "--gpu", "H100")
    assert job["secrets"] == ["WANDB_API_KEY"] and job["setup"][-2:] == ["--package", "wandb"]


def test_two_runs_at_once_on_one_volume(tmp_path: Path, cli: Wanwrap, cats: Path, program: Callable[..., Path]) -> None:
    """They would not see each other's locks."""
    token(tmp_path)
    calls = program("modal", "*run*) echo started ap-0123456789012345678901;; esac; case 1 in")
    words = ("modal", "t2v-vanilla", cats, "--gpu", "H100")
    assert cli("launch", *words).returncode == 0
    for more in ((), ("--again",)):
        assert NAME in told(cli, *words, "--epochs", 3, "--output_name", "another", *more)
    assert len(calls.read_text().splitlines()) == 1
    assert cli("launch", *words, "--output_name", "third", "--volume", "mine").returncode == 0
    plan = golden_plan("t2v-vanilla")
    for train in plan.trainings:  # both fetched
        record = finished_record(plan, train, updated="2026-11-22T12:00:00+00:00")
        place = folder(tmp_path) / train.expert
        place.mkdir(parents=True)
        (place / "record.json").write_text(json.dumps(asdict(record)), encoding="utf-8")
        if train.expert == "high":
            assert NAME in told(cli, *words, "--output_name", "another")
    assert cli("launch", *words, "--output_name", "another").returncode == 0


def test_what_would_not_be_sent(cli: Wanwrap, cats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("t2v-vanilla", cats, "--gpu", "H100", "--dry_run")
    (cats / ".gitignore").write_text("*.mp4\n")
    assert ".gitignore" in told(cli, "sky", *words)
    assert cli("launch", "modal", *words).returncode == 0
    (cats / ".gitignore").unlink()
    monkeypatch.setattr("wanwrap.launch.words.MOST_DATA", 10)
    assert told(cli, "modal", *words).startswith(str(RoomError.exit_code))
    assert cli("launch", "slurm", *words).returncode == 0  # which sends nothing
    monkeypatch.undo()


@posix_paths
def test_a_link_is_not_sent(tmp_path: Path, cli: Wanwrap, cats: Path) -> None:
    """But the data set itself may be one."""
    words = ("t2v-vanilla", "linked", "--gpu", "H100")
    (tmp_path / "home" / "linked").symlink_to(cats)
    job = job_of(cli, "sky", *words)
    assert job["uploads"][job["runs"][0][1]] == str(cats)
    picture = next(cats.rglob("*.png"))
    picture.rename(tmp_path / "elsewhere.png")
    picture.symlink_to(tmp_path / "elsewhere.png")
    assert picture.name in told(cli, "sky", *words, "--dry_run")


def test_pictures_of_prompts_stay_here(tmp_path: Path, cli: Wanwrap, cats: Path) -> None:
    (tmp_path / "p.txt").write_text(f"a cat --i {next(cats.rglob('*.png'))}\n", encoding="utf-8")
    more = ("--", "--sample_prompts", tmp_path / "p.txt", "--sample_every_n_epochs", 2)
    words = ("wan21-i2v-480p", cats, "--gpu", "H100", "--dry_run", *more)
    assert "pictures" in told(cli, "modal", *words) and cli("launch", "slurm", *words).returncode == 0


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("rtx_a6000", "A6000"),
        ("RTXA6000", "A6000"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("a100-40gb", "A100-40GB"),
    ],
)
def test_a_card_by_any_of_its_names(name: str, found: str) -> None:
    assert gpu(name) == found


def test_a_machine_that_waits_costs(cli: Wanwrap, cats: Path) -> None:
    words = ("sky", "t2v-vanilla", cats, "--gpu", "H100", "--hours", 2, "--price", 3, "--idle", 20, "--dry_run")
    assert "7.00 at most" in cli("launch", *words).stderr


def test_an_option_that_is_remembered_is_told_and_taken_back(
    tmp_path: Path, cli: Wanwrap, cats: Path, program: Callable[..., Path]
) -> None:
    words = ("slurm", "t2v-vanilla", cats, "--gpu", "H100")
    file = tmp_path / "home" / "local_training" / "wanwrap.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[launch.slurm]\naccount = "lab" # ours\nmodules = ["cuda"]\n', encoding="utf-8")
    dry = cli("launch", *words, "--dry_run")
    assert "--account lab" in dry.stderr and "--account=lab" in dry.stdout
    program("sbatch", "*) echo 12;; esac; case 1 in")
    program("bash")  # setup, which downloads
    for name in ("bash", "sbatch"):
        path = tmp_path / "bin" / name
        path.write_text(path.read_text().replace("#!/bin/bash", "#!/usr/bin/env -S /bin/bash"))
    done = cli("launch", *words, "--modules", "", "--torch", "cu128")
    assert done.returncode == 0, done.stderr
    text = file.read_text(encoding="utf-8")
    assert 'account = "lab" # ours' in text and "modules" not in text and 'torch = "cu128"' in text
    assert "setup t2v-vanilla" in (calls := (tmp_path / "told").read_text()) and "--torch cu128" in calls


def test_a_cluster_trains_what_was_looked_at(tmp_path: Path, cli: Wanwrap, cats: Path) -> None:
    """Whatever lies in `datasets` when the job begins; and with the whole of its card."""
    there = tmp_path / "home" / "local_training" / "datasets" / "-pets"
    there.parent.mkdir(parents=True)
    cats.rename(there)
    (run,) = job_of(cli, "slurm", "t2v-vanilla", "--gpu", "H100", "--vram", 24)["runs"]
    assert run[:2] == ["t2v-vanilla", str(there)] and "--vram" not in run


@pytest.mark.parametrize("word", ENGINES)
def test_what_a_run_file_switches_off_or_run_alone_knows(word: str, tmp_path: Path, cli: Wanwrap, cats: Path) -> None:
    file = tmp_path / "r.toml"
    lines = ["skip_bad = false", "sample = false", "parallel = false", "no_retry = true"]
    file.write_text("\n".join([f'preset = "t2v-vanilla"\ndataset = {json.dumps(str(cats))}', *lines]))
    done = cli("launch", word, file, "--gpu", "H100", "--dry_run", "--json")
    assert done.returncode == 0 and "no_retry is not sent" in done.stderr, done.stderr
    (run,) = json.loads(done.stdout)["job"]["runs"]
    assert "--no_sample" in run and "--skip_bad" not in run and "--parallel" not in run


def test_one_that_cannot_be_fetched_keeps_no_other_back(
    tmp_path: Path, cli: Wanwrap, cats: Path, program: Callable[..., Path]
) -> None:
    program("sky")
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").touch()
    assert cli("launch", "sky", "t2v-vanilla", cats, "--gpu", "H100", "--separate").returncode == 0
    told = program("rsync", "*-high:*) exit 255;; esac; case 1 in")
    assert cli("fetch", NAME).returncode == LaunchError.exit_code
    calls = [line for line in told.read_text().splitlines() if line.startswith("rsync")]
    assert [call.split()[2] for call in calls] == [f"{NAME}-high:results/", f"{NAME}-low:results/"]


def test_what_goes_on_elsewhere_was_not_killed(
    tmp_path: Path, cli: Wanwrap, cats: Path, program: Callable[..., Path]
) -> None:
    """A record that was fetched in the middle; the workspace has been moved meanwhile."""
    token(tmp_path)
    program(
        "modal", "*run*) echo started ap-0123456789012345678901;; *get*) cp -r ../../../../got/. .;; esac; case 1 in"
    )
    assert cli("launch", "modal", "t2v-vanilla", cats, "--gpu", "H100").returncode == 0
    plan = golden_plan("t2v-vanilla")
    record = finished_record(plan, plan.trainings[0], updated="2026-11-22T12:00:00+00:00")
    place = tmp_path / "home" / "got" / NAME / "high"
    place.mkdir(parents=True)
    there = {**asdict(record), "state": "running", "command": "wanwrap run there", "cwd": "/workspace", "steps_done": 5}
    (place / "record.json").write_text(json.dumps(there), encoding="utf-8")
    (tmp_path / "home" / "local_training").rename(tmp_path / "home" / "moved")
    assert cli("fetch", NAME, "--base_dir", "moved").returncode == 0
    said = cli("status", NAME, "--base_dir", "moved").stdout
    assert "killed" not in said and "wanwrap run there" not in said and "--launched" in said
    stop = cli("stop", NAME, "--base_dir", "moved")
    assert stop.returncode == OutputError.exit_code and "launched.json" in stop.stderr
    (one,) = json.loads(cli("status", "--json", "--base_dir", "moved").stdout)
    assert one["experts"]["high"]["state"] == "running" and not one["running"]


def test_again_forgets_nothing(tmp_path: Path, cli: Wanwrap, cats: Path, program: Callable[..., Path]) -> None:
    """The first goes on, and costs, whether the second starts or not; other settings can't go on there."""
    token(tmp_path)
    words = ("modal", "t2v-vanilla", cats, "--gpu", "H100", "--epochs", 3)
    program("modal", "*run*) echo started ap-0123456789012345678901;; esac; case 1 in")
    assert cli("launch", *words).returncode == 0
    program("modal", "*run*) exit 1;; esac; case 1 in")
    failed = told(cli, *words, "--again")
    assert "cost" in failed and "app stop ap-0" not in failed  # which would end the first
    assert "ap-0123456789012345678901" in (folder(tmp_path) / "launch" / "launched.json").read_text()
    program("modal", "*run*) echo started ap-1123456789012345678901;; esac; case 1 in")
    assert cli("launch", *words, "--again").returncode == 0
    launched = json.loads((folder(tmp_path) / "launch" / "launched.json").read_text())
    assert len(launched["ids"]) == len(launched["later"]["stop"]) == 2
    plan = golden_plan("t2v-vanilla")
    record = finished_record(plan, plan.trainings[0], updated="2026-11-22T12:00:00+00:00")
    (folder(tmp_path) / "high").mkdir()
    (folder(tmp_path) / "high" / "record.json").write_text(json.dumps(asdict(record)), encoding="utf-8")
    assert told(cli, *words, "--again", "--lr", "1e-3").startswith(str(OutputError.exit_code))
    assert "--output_name" in told(cli, *words, "--again", "--volume", "other")
    program("sky")
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").touch()
    assert "modal" in told(cli, "sky", *words[1:], "--again")


def test_experts_at_the_same_time(cli: Wanwrap, cats: Path) -> None:
    """Take as long as one, and its RAM twice where they are on one machine."""
    words = ("script", "t2v-vanilla", cats, "--gpu", "H100", "--epochs", 4000)
    plain, parallel, separate = (job_of(cli, *words, *more) for more in ((), ("--parallel",), ("--separate",)))
    assert separate["hours"] == parallel["hours"] < plain["hours"] - 2
    assert separate["ram"] <= parallel["ram"]


def test_a_script_is_on_record(cli: Wanwrap, cats: Path) -> None:
    words = ("launch", "script", "t2v-vanilla", cats, "--gpu", "H100")
    assert "written to" in cli(*words).stdout
    assert NAME in cli("status", "--launched").stdout and "start.sh" in cli("fetch", NAME).stderr
    assert cli(*words, "--end", "true").returncode == 0  # nothing has begun


def test_a_damaged_record_hides_no_other(tmp_path: Path, cli: Wanwrap, cats: Path) -> None:
    assert cli("launch", "script", "t2v-vanilla", cats, "--gpu", "H100").returncode == 0
    other = folder(tmp_path).parent / "other" / "launch"
    other.mkdir(parents=True)
    (other / "launched.json").write_text("{")
    said = cli("status", "--launched")
    assert NAME in said.stdout and "other" in said.stderr and said.returncode == 0


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        (("modal", "--hours", "nan"), "nan"),
        (("modal", "--price", "inf"), "inf"),
        (("modal", "--package", ""), "empty"),
        (("modal", "--any_upstream"), "--any_upstream"),
    ],
)
def test_what_makes_no_sense(words: tuple[str, ...], noun: str, cli: Wanwrap, cats: Path) -> None:
    assert noun in told(cli, words[0], "t2v-vanilla", cats, "--gpu", "H100", *words[1:], "--dry_run")


@pytest.mark.parametrize("line", ['modules = "cuda"', "cpus = 8", 'acount = "lab"'])
def test_wrong_lines_by_hand(line: str, tmp_path: Path, cli: Wanwrap, cats: Path) -> None:
    (base := tmp_path / "home" / "local_training").mkdir(parents=True)
    (base / "wanwrap.toml").write_text(f"[launch.slurm]\n{line}\n", encoding="utf-8")
    said = told(cli, "slurm", "t2v-vanilla", cats, "--gpu", "H100", "--dry_run")
    assert said.startswith(str(OptionError.exit_code)) and "wanwrap.toml" in said


def test_a_run_that_was_gone_on_with_here_is_not_fetched_over(
    tmp_path: Path, cli: Wanwrap, cats: Path, weights: list[str], program: Callable[..., Path]
) -> None:
    token(tmp_path)
    program("modal", "*run*) echo started ap-0123456789012345678901;; esac; case 1 in")
    words = ("t2v-vanilla", cats, "--epochs", 1)
    assert cli("launch", "modal", *words, "--gpu", "H100").returncode == 0
    assert cli("fetch", NAME).returncode == 0 and cli("fetch", NAME).returncode == 0
    assert cli("run", *words, *weights).returncode == 0
    told = cli("fetch", NAME)
    assert told.returncode == OutputError.exit_code and "here" in told.stderr


def test_what_slurm_refuses_was_not_launched(cli: Wanwrap, cats: Path, program: Callable[..., Path]) -> None:
    program("sbatch", "*--test-only*) ;; *) exit 1;; esac; case 1 in")
    program("bash")
    for name in ("bash", "sbatch"):
        path = Path(os.environ["PATH"].split(os.pathsep)[0]) / name
        path.write_text(path.read_text().replace("#!/bin/bash", "#!/usr/bin/env -S /bin/bash"))
    words = ("launch", "slurm", "t2v-vanilla", cats, "--gpu", "H100")
    done = cli(*words)
    assert done.returncode == LaunchError.exit_code and "cost" not in done.stderr
    program("sbatch", "*) echo 12;; esac; case 1 in")
    path.write_text(path.read_text().replace("#!/bin/bash", "#!/usr/bin/env -S /bin/bash"))
    assert cli(*words).returncode == 0


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (("slurm",), "goes back into the queue"),
        (("modal",), "--again"),
        (("sky",), "--volume"),
        (("sky", "--volume", "wan"), "--again"),
        (("script",), "ended"),
    ],
)
def test_hours_that_are_too_few(words: tuple[str, ...], way: str, cli: Wanwrap, cats: Path) -> None:
    more = ("--gpu", "H100", "--epochs", 9000, "--hours", 2, "--dry_run")
    said = cli("launch", words[0], "t2v-vanilla", cats, *more, *words[1:]).stderr
    (line,) = (line for line in said.splitlines() if "too few" in line)
    assert way in line
