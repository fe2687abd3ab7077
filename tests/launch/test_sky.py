"""SkyPilot's file: as YAML, its scripts run by a real bash, and, marked `sky`, read by a real SkyPilot."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from jobs import each, job
from launchers import ODD, Far, compare, odd, small
from platforms import linux, posix_paths

from wanwrap.errors import OptionError
from wanwrap.launch import sky
from wanwrap.launch.bash import IMAGE
from wanwrap.launch.job import GPUS, Job

pytestmark = posix_paths  # SkyPilot is not for Windows
PYTHON = os.environ.get("WANWRAP_SKY_PYTHON", "")
NAME = "[a-zA-Z]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?"  # CLUSTER_NAME_VALID_REGEX in sky/skylet/constants.py of 0.14.1


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


def task(job: Job, **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(sky.render(job, **options).files["sky.yaml"])
    return made


def sent(job: Job, far: Far) -> dict[str, Any]:
    """The task, with its uploads where SkyPilot brings them."""
    made = task(job)
    for place, path in made["file_mounts"].items():
        there = far.home / place.removeprefix("~/")
        there.parent.mkdir(exist_ok=True)
        shutil.copytree(path, there) if Path(path).is_dir() else shutil.copy(path, there)
    return made


def test_golden(update: bool) -> None:
    made = sky.render(job(secrets=("HF_TOKEN",)))
    compare("sky/sky.yaml", made.files["sky.yaml"], update)
    commands = [*made.before, *made.start, *chain(*made.later.values())]
    compare("sky/commands.json", json.dumps(commands, indent=1) + "\n", update)


def test_types() -> None:
    made = task(job(gpus=2, ram=96, disk=300), idle=15, infra="runpod, vast,")
    rented = made["resources"]
    assert rented["any_of"] == [{"infra": "runpod"}, {"infra": "vast"}]
    assert rented["accelerators"] == {"A100-80GB": 2, "A100-80GB-SXM": 2}
    assert (rented["memory"], rented["disk_size"], rented["max_hourly_cost"]) == ("96+", 300, 5.0)
    assert rented["autostop"] == {"idle_minutes": 15, "down": True, "wait_for": "jobs"}
    assert "secrets" not in made and "volumes" not in made
    assert not [price for price in (None, 0) if "max_hourly_cost" in task(job(price=price))["resources"]]
    assert task(job(secrets=("HF_TOKEN",)))["secrets"] == {"HF_TOKEN": None}


def test_a_picture_that_is_gone_here_is_not_there(tmp_path: Path) -> None:
    """SkyPilot deletes nothing of what it has sent before."""
    made = small(tmp_path)
    before = task(made)["file_mounts"]
    assert task(made)["file_mounts"] == before
    next(iter(made.uploads.values())).joinpath("one.txt").unlink()
    assert len(task(made)["file_mounts"].keys() - before.keys()) == 1


def test_where() -> None:
    """Vast has A100s of both sizes under one name."""
    assert task(job())["resources"]["infra"] == "runpod"
    assert len(task(job(gpu="H100"))["resources"]["any_of"]) == 2
    assert task(job(), infra="ssh/mine")["resources"]["infra"] == "ssh/mine"
    assert task(job(), infra="k8s, lambda")["resources"]["any_of"] == [{"infra": "k8s"}, {"infra": "lambda"}]
    made = task(job(), volume="wan")
    assert made["resources"]["infra"] == "runpod" and made["volumes"] == {"/workspace": "wan"}
    assert "cd /workspace/wanwrap " in made["setup"] and "cd /workspace/wanwrap " in made["run"]


@pytest.mark.parametrize(
    ("made", "options", "noun"),
    [
        (job(), {"volume": "wan", "infra": "vast"}, "--volume"),
        (job(), {"volume": "wan", "infra": "runpod,vast"}, "--volume"),
        (each(), {"volume": "wan"}, "locks"),
        (job(), {"idle": 0}, "--idle"),
        (job(uploads={"x": Path("/it's/$HOME")}), {}, "rename"),
    ],
)
def test_what_cannot_be(made: Job, options: dict[str, Any], noun: str) -> None:
    with pytest.raises(OptionError, match=noun):
        sky.render(made, **options)


def test_a_machine_for_each_expert() -> None:
    made = sky.render(each())
    assert [*made.files] == ["sky-high.yaml", "sky-low.yaml"]
    started = [(words[words.index("-c") + 1], words[-1]) for words in made.start]
    assert started == [("cats-t2v-vanilla-high", "sky-high.yaml"), ("cats-t2v-vanilla-low", "sky-low.yaml")]
    for file, (name, _) in zip(made.files, started, strict=True):
        text = yaml.safe_load(made.files[file])
        assert text["name"] == name and f"--noise_level {name.rpartition('-')[2]})" in text["run"]
        assert all(any(name in " ".join(words) for words in several) for several in made.later.values())


@pytest.mark.parametrize("name", ["猫", "a b", "1", "x" * 200, "-", "cats", "it's $HOME", "a/b"])
def test_names_of_machines(name: str) -> None:
    (words,) = sky.render(job(name=name)).start
    assert re.fullmatch(NAME, words[words.index("-c") + 1]) and len(words[words.index("-c") + 1]) < 60
    assert words[words.index("-c") + 1] != sky.render(job(name=f"{name}.")).start[0][words.index("-c") + 1]


def test_results_are_said_to_go_with_the_machine() -> None:
    assert any("60 minutes" in note for note in sky.render(job()).notes)


def test_the_token_is_in_no_file_and_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    made = sky.render(job(secrets=("HF_TOKEN",)))
    assert made.start[0][-3:] == ("--secret", "HF_TOKEN", "sky.yaml")
    assert "hf_secret" not in repr(made)


def test_no_account(tmp_path: Path) -> None:
    assert "sky check" in (sky.complaint({}, tmp_path) or "")
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").touch()
    assert sky.complaint({}, tmp_path) is None
    assert sky.complaint({"KUBECONFIG": "x"}, tmp_path / "nobody") is None


@linux
@pytest.mark.parametrize(
    ("codes", "calls", "ended"),
    [
        ((), ["setup", "run"], 0),
        ((0, 4), ["setup", "run"], 4),
        ((5,), ["setup"], 5),
        ((0, 10, 12, 0), ["setup", "run", "run", "run"], 0),
        ((6, 8, 12, 0, 0), ["setup", "setup", "setup", "setup", "run"], 0),
        ((0, 10, 10, 10, 10, 0), ["setup", *["run"] * 4], 10),
    ],
)
def test_scripts(tmp_path: Path, codes: tuple[int, ...], calls: list[str], ended: int) -> None:
    work = small(tmp_path)
    far = Far(tmp_path, work.name, codes)
    made = sent(work, far)
    done = far.bash("-c", made["setup"])
    if not done.returncode:
        done = far.bash("-c", made["run"])
        assert (far.home / "results" / "a.safetensors").read_text() == "lora\n"  # which fetch brings
    assert [call[1] for call in far.calls("wanwrap")] == calls
    assert done.returncode == ended


@linux
def test_at_the_end_of_its_hours_it_is_asked_to_stop(tmp_path: Path) -> None:
    """Those begin with the setup."""
    work = small(tmp_path, hours=5 / 3600)
    far = Far(tmp_path, work.name, (0, "hang"))
    made = sent(work, far)
    assert far.bash("-c", made["setup"]).returncode == 0
    done = far.bash("-c", made["run"])
    assert done.returncode == 124 and "the hours are over" in done.stdout
    assert far.bash("-c", made["run"]).returncode == 124 and len(far.calls("wanwrap")) == 2


@linux
def test_the_same_again_installs_nothing_anew(tmp_path: Path) -> None:
    work = small(tmp_path)
    far = Far(tmp_path, work.name)
    made = sent(work, far)
    far.bash("-c", made["setup"])
    assert [call[:3] for call in far.calls("python3")] == [["python3", "-m", "venv"]]
    assert far.bash("-c", made["setup"]).returncode == 0
    assert not far.calls("python3")


@linux
def test_odd_names_arrive_whole(tmp_path: Path) -> None:
    """But for a folder on this machine that SkyPilot itself would misread."""
    work = odd(tmp_path, '$HOME `id` "猫" *')
    far = Far(tmp_path, work.name)
    made = sent(work, far)
    far.bash("-c", made["setup"])
    far.bash("-c", made["run"])
    assert far.calls("wanwrap") == [["wanwrap", "setup", "t2v-vanilla", ODD], ["wanwrap", "run", *work.runs[0]]]
    assert (far.home / "wanwrap" / "local_training" / "datasets" / ODD / "one.txt").read_text() == "a cat"
    assert (far.home / "results" / "a.safetensors").exists()


@linux
@pytest.mark.parametrize("shell", ["bash -n", "shellcheck -S warning -s bash"])
@pytest.mark.parametrize("part", ["setup", "run"])
def test_the_scripts_are_bash(tmp_path: Path, shell: str, part: str) -> None:
    if not shutil.which(shell.split()[0]):
        pytest.skip(f"no {shell.split()[0]} here")
    (tmp_path / "part").write_text(task(job())[part], encoding="utf-8")
    done = subprocess.run([*shell.split(), "part"], cwd=tmp_path, stdout=-1, stderr=-2, encoding="utf-8")
    assert not done.stdout


# ---- a real SkyPilot, in an environment of its own: pip install skypilot==0.14.1

real = [
    pytest.mark.sky,
    pytest.mark.skipif(not PYTHON, reason="needs WANWRAP_SKY_PYTHON, a Python with SkyPilot 0.14.1"),
    linux,
]
READ = """
import json, sys, sky
for file in sys.argv[1:]:
    task = sky.Task.from_yaml(file)
    rows = [{"cloud": str(r.cloud), "cards": r.accelerators, "most": r.max_hourly_cost, "image": r.image_id,
             "stop": r.autostop_config and r.autostop_config.to_yaml_config()} for r in task.resources]
    print("READ", json.dumps({"name": task.name, "rows": rows, "mounts": task.file_mounts, "setup": task.setup,
                              "run": task.run, "volumes": task.volumes}))
"""
UPLOAD = """
import sys
from sky.utils.command_runner import SSHCommandRunner
SSHCommandRunner(("127.0.0.1", 22), "root", None).rsync(sys.argv[1], "~/uploads/1", up=True, stream_logs=False)
"""


def run_sky(tmp_path: Path, code: str, *words: object, path: str = "") -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{path}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONUTF8": "1", "SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "STUBS": str(tmp_path)}  # fmt: skip
    argv = [PYTHON, "-c", code, *map(str, words)]
    return subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=240)


def read(tmp_path: Path, *texts: str) -> list[dict[str, Any]]:
    files = [tmp_path / f"{number}.yaml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    done = run_sky(tmp_path, READ, *files)
    assert done.returncode == 0, done.stderr
    return [json.loads(line.removeprefix("READ ")) for line in done.stdout.splitlines() if line.startswith("READ ")]


@pytest.mark.parametrize("_", [pytest.param(0, marks=real)])
def test_sky_reads_it(tmp_path: Path, _: int) -> None:
    plain, strange = small(tmp_path / "a", gpu="H100"), odd(tmp_path / "b", "$HOME `id` 猫")
    jobs = [plain, strange, *(job(gpu=gpu, gpus=2, uploads={}, secrets=("HF_TOKEN",)) for gpu in GPUS)]
    texts = [sky.render(work).files["sky.yaml"] for work in jobs]
    texts += [sky.render(plain, volume="wan").files["sky.yaml"], sky.render(plain, infra="ssh/mine").files["sky.yaml"]]
    first, second, *others = found = read(tmp_path, *texts)
    assert {row["cloud"] for row in first["rows"]} == {"RunPod", "Vast"} and len(first["rows"]) == 4
    for row in first["rows"]:
        assert row["stop"] == {"idle_minutes": 60, "down": True, "wait_for": "jobs"} and row["most"] == 2.5
        assert list(row["image"].values()) == [f"docker:{IMAGE}"]
    assert [*second["mounts"].values()] == [str(path) for path in strange.uploads.values()]
    for text, row in zip(texts, found, strict=True):
        made = yaml.safe_load(text)
        assert row["run"] == made["run"] and row["setup"] == made["setup"] and row["rows"]
    assert others[-2]["volumes"] == {"/workspace": "wan"}
    assert {row["cloud"] for row in others[-2]["rows"]} == {"RunPod"} and len(others) == len(GPUS) + 2


@pytest.mark.parametrize(("true", "wrong"), [pytest.param("max_hourly_cost", "max_hourly_costs", marks=real), pytest.param("file_mounts", "file_mount", marks=real)])  # fmt: skip
def test_sky_refuses_a_key_that_it_does_not_know(tmp_path: Path, true: str, wrong: str) -> None:
    (tmp_path / "it.yaml").write_text(sky.render(job(uploads={})).files["sky.yaml"].replace(f"{true}:", f"{wrong}:"))
    done = run_sky(tmp_path, READ, tmp_path / "it.yaml")
    assert done.returncode and wrong in done.stderr


@pytest.mark.parametrize("name", [pytest.param(name, marks=real) for name in ("my cats", "it's", '$HOME `id` "猫" *', ODD, "back\\slash", "wide\u3000space", "it's $HOME")])  # fmt: skip
def test_sky_uploads_folders_of_these_names_or_we_refuse_them(tmp_path: Path, name: str) -> None:
    """Its own rsync command, which is a line for a shell, with a program that stands in for rsync."""
    (folder := tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for program, text in {"rsync": 'printf "%s\\n" "$@" > "$STUBS/words"', "ssh": "echo /root"}.items():
        (tmp_path / "bin" / program).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / program).chmod(0o755)
    run_sky(tmp_path, UPLOAD, folder, path=str(tmp_path / "bin"))
    words = tmp_path / "words"  # none where the line was no command at all
    arrived = words.exists() and f"{folder}/" in words.read_text(encoding="utf-8").splitlines()
    work = job(uploads={"local_training/datasets/cats": folder})
    try:
        sky.render(work)
    except OptionError:
        assert not arrived
    else:
        assert arrived
