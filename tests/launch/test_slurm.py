"""What Slurm is given: as a reviewer can read it, carried out by bash as Slurm would, and given to a real Slurm."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Submitted, cluster, stub
from helpers import ROOT, Wanwrap
from jobs import each, job
from platforms import in_bash, mini_slurm, posix, posix_paths, shellcheck
from runs import until

from wanwrap.errors import OptionError
from wanwrap.launch.job import Rendered
from wanwrap.launch.slurm import OPTIONS, render

GOLDEN = ROOT / "tests" / "golden" / "launch" / "slurm"
HERE: dict[str, Any] = {"python": "/here/.venv/bin/python", "cwd": Path("/here")}
SITE: dict[str, Any] = {
    "account": "cats-lab",
    "partition": "long",
    "gres": "gpu:a100",
    "cpus": 16,
    "mem": "120G",
    "modules": ["gcc/12.3", "cuda/12.8"],
    "torch": "cu128",
    "sbatch": ["--qos=long", "--mail-type=END"],
}
posix_signals: Any = signal  # with those that Windows has not
ODD = 'it\'s "1" $HOME `id` 猫 #'  # no \\ and no %j: Slurm replaces those in the place of a log, wherever they stand


def commands(made: Rendered) -> str:
    """All of them as they are typed, and what is said."""
    rows = [("before", words) for words in made.before] + [("start", words) for words in made.start]
    rows += [(name, words) for name, several in made.later.items() for words in several]
    lines = [f"{name:8}{shlex.join(words)}" for name, words in rows]
    return "\n".join([*lines, *(f"note    {note}" for note in made.notes), ""])


@posix_paths
@pytest.mark.parametrize("name", ["one", "each"])
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    made = render(job(), **HERE) if name == "one" else render(each(gpus=2), **HERE, **SITE)
    for file, text in {**made.files, "commands.txt": commands(made)}.items():
        path = GOLDEN / name / file
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text


def test_every_option_is_in_the_golden_files() -> None:
    assert SITE.keys() == {name for name, _, _ in OPTIONS}


def batch(**options: Any) -> str:
    (text,) = render(job(), **HERE, **options).files.values()
    return text


def test_a_gpu_by_its_kind_with_or_without_a_number() -> None:
    assert "--gres=gpu:a100:1\n" in batch(gres="gpu:a100")
    assert "--gres=gpu:a100:1\n" in batch(gres="gpu:a100:4")
    assert "KIND" in "".join(render(job(), **HERE).notes) and "KIND" not in "".join(render(job(), **HERE, **SITE).notes)


@pytest.mark.parametrize(("hours", "limit"), [(0.5, "0:30:00"), (1.999, "2:00:00"), (48, "48:00:00")])
def test_the_limit(hours: float, limit: str) -> None:
    (text,) = render(job(hours=hours), **HERE).files.values()
    assert f"--time={limit}\n" in text


def test_a_limit_that_leaves_no_time_to_train() -> None:
    with pytest.raises(OptionError, match=r"0\.25"):
        render(job(hours=0.1), **HERE)


def hostile(tmp_path: Path) -> tuple[Rendered, Path, tuple[str, ...]]:
    """A job whose every name is odd, the folder that it starts in, and its words."""
    place, words = tmp_path / ODD, ("t2v-vanilla", ODD, "", "a\nb", "%j\\", "--", "--x={y}")
    made = render(job(name=ODD, runs=(words,), setup=(ODD,)), python=stub(place / "bin"), cwd=place)
    return made, place, words


def told(path: Path) -> list[str]:
    """Where the stub was, whether offline, with which GPUs, and its words."""
    return path.read_text(encoding="utf-8").split("\0")[:-1]


@in_bash
@shellcheck
def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    (text,), plain = hostile(tmp_path)[0].files.values(), render(each(), **HERE, **SITE).files.values()
    for each_text, severity in [(text, "warning"), *((one, "style") for one in plain)]:  # it wonders at a quoted `id`
        subprocess.run(["shellcheck", f"--severity={severity}", "-"], input=each_text, encoding="utf-8", check=True)


SCONTROL = """#!/bin/bash
echo "$@" > "$TOLD.scontrol"
kill -KILL "$PPID"  # as Slurm does with the batch script
"""


class Batch:
    """A batch file that bash carries out, as slurmd does it: in a process group of its own."""

    def __init__(self, tmp_path: Path, text: str, **env: str) -> None:
        self.told = tmp_path / "told.both"
        (tmp_path / "both.sbatch").write_text(text, encoding="utf-8")
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "scontrol").write_text(SCONTROL)
        (programs / "scontrol").chmod(0o755)
        own = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x-both", "TOLD": str(tmp_path / "told")}
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        argv = ["bash", str(tmp_path / "both.sbatch")]
        self.process = subprocess.Popen(argv, env={**os.environ, "PATH": path, **own, **env}, start_new_session=True)
        until(self.told.exists)

    @property
    def requeued(self) -> str:
        path = self.told.with_name("told.scontrol")
        return path.read_text() if path.exists() else ""


@in_bash
def test_words_and_folder_arrive_whole(tmp_path: Path) -> None:
    made, place, words = hostile(tmp_path)
    ran = Batch(tmp_path, made.files["both.sbatch"], CODE="0", CUDA_VISIBLE_DEVICES="0")
    assert ran.process.wait(20) == 0
    assert told(ran.told) == [str(place), "1", "0", "-m", "wanwrap", "run", *words]
    subprocess.run(made.before[-1], env={**os.environ, "TOLD": str(tmp_path / "setup")}, check=True)
    assert told(tmp_path / "setup.")[3:] == ["-m", "wanwrap", "setup", ODD]


@in_bash
@pytest.mark.parametrize("code", [0, 4, 10, 130])
def test_the_exit_code_is_the_jobs(tmp_path: Path, code: int) -> None:
    made = render(job(), python=stub(tmp_path), cwd=tmp_path)
    ran = Batch(tmp_path, made.files["both.sbatch"], CODE=str(code))
    assert (ran.process.wait(20), ran.requeued) == (code, "")


@in_bash
@pytest.mark.parametrize(
    ("env", "status", "requeued"),
    [
        ({}, -9, "requeue 7\n"),
        ({"SLURM_RESTART_COUNT": "19"}, -9, "requeue 7\n"),
        ({"SLURM_RESTART_COUNT": "20"}, 130, ""),
        ({"CODE_TERM": "0"}, 0, ""),
        ({"CODE_TERM": "10"}, 10, ""),
    ],
    ids=["goes on", "the last time", "too often", "it was done", "it failed"],
)
def test_the_limit_is_near(tmp_path: Path, env: dict[str, str], status: int, requeued: str) -> None:
    made = render(job(), python=stub(tmp_path), cwd=tmp_path)
    ran = Batch(tmp_path, made.files["both.sbatch"], **env)
    ran.process.send_signal(posix_signals.SIGUSR1)
    assert (ran.process.wait(20), ran.requeued) == (status, requeued)


@in_bash
def test_ended_by_somebody(tmp_path: Path) -> None:
    """scancel and preemption tell every process of the job; the script waits for wanwrap."""
    made = render(job(), python=stub(tmp_path), cwd=tmp_path)
    ran = Batch(tmp_path, made.files["both.sbatch"])
    posix.killpg(ran.process.pid, signal.SIGTERM)
    assert (ran.process.wait(20), ran.requeued) == (130, "")


@in_bash
def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    """Nothing is trained without it."""
    made = render(job(), python=stub(tmp_path), cwd=tmp_path, modules=["cuda/1"])
    done = subprocess.run(
        ["bash", "-c", made.files["both.sbatch"]], capture_output=True, env={**os.environ, "CODE": "0"}
    )
    assert done.returncode == 127 and b"ended with" not in done.stdout


# ---- by a real Slurm


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with cluster(tmp_path_factory.mktemp("slurm"), gpus=2) as env:
        yield env


def submit(tmp_path: Path, slurm: dict[str, str], made: Rendered, **env: str) -> Submitted:
    return Submitted(made, tmp_path / "launch", **slurm, TOLD=str(tmp_path / "told"), **env)


@pytest.mark.slurm
@mini_slurm
class TestSlurm:
    """Its words, its logs and its signals; what takes minutes is done in tests/upstream/test_real_slurm.py."""

    @pytest.mark.parametrize(("code", "state"), [("0", "COMPLETED"), ("4", "FAILED")])
    def test_to_its_end(self, tmp_path: Path, slurm: dict[str, str], code: str, state: str) -> None:
        """Whatever the names of the run and its folders are."""
        made, place, words = hostile(tmp_path)
        env = {**slurm, "TOLD": str(tmp_path / "told"), "CODE": code}
        ran = Submitted(made, place / "launch", **env)
        until(lambda: ran.state() == state)
        assert told(tmp_path / "told.both") == [str(place), "1", "0", "-m", "wanwrap", "run", *words]
        assert ran.fields()["ExitCode"] == f"{code}:0"
        assert f"wanwrap has ended with {code}" in ran.log()
        assert ODD in ran.later("status") and state in ran.later("status")

    def test_launched(self, slurm: dict[str, str], wanwrap: Wanwrap, cats: Path, weights: list[str]) -> None:
        """By the verb: set up here, trained there by the stand-in for upstream, each expert on a GPU of its own."""
        words = ("t2v-vanilla", cats, *weights, "--gpu", "H100", "--gpus", 1, "--epochs", 1, "--separate")
        done = wanwrap("launch", "slurm", *words, **slurm)
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: wanwrap("status", "--launched", "--json", **slurm).stdout.count("COMPLETED") == 2)
        (run,) = json.loads(wanwrap("status", "--json").stdout)
        assert {expert: each["state"] for expert, each in run["experts"].items()} == {"high": "done", "low": "done"}
        assert wanwrap("fetch", run["name"]).stdout.count(".safetensors") == 2

    def test_two_at_the_same_time(self, tmp_path: Path, slurm: dict[str, str]) -> None:
        """Each has a GPU of its own; both are stopped by one command."""
        ran = submit(tmp_path, slurm, render(each(), python=stub(tmp_path), cwd=tmp_path))
        until(lambda: all((tmp_path / f"told.{expert}").exists() for expert in ("high", "low")))
        found = {expert: told(tmp_path / f"told.{expert}") for expert in ("high", "low")}
        assert {row[2] for row in found.values()} == {"0", "1"}
        assert all(row[-2:] == ["--noise_level", expert] for expert, row in found.items())
        assert ran.later("status").count("RUNNING") == 2
        ran.later("stop")
        until(lambda: ran.later("status").count("CANCELLED") == 2)
        until(lambda: all("ended with 130" in ran.log(expert) for expert in ("high", "low")))

    def test_scancel(self, tmp_path: Path, slurm: dict[str, str]) -> None:
        """wanwrap is told, and waited for; nothing is requeued."""
        ran = submit(tmp_path, slurm, render(job(), python=stub(tmp_path), cwd=tmp_path))
        until((tmp_path / "told.both").exists)
        ran.later("stop")
        until(lambda: "wanwrap has ended with 130" in ran.log())
        until(lambda: ran.state() == "CANCELLED")
        assert ran.fields()["Restarts"] == "0"

    def test_the_limit_is_near(self, tmp_path: Path, slurm: dict[str, str]) -> None:
        """wanwrap ends, and the job waits in the queue to go on."""
        ran = submit(tmp_path, slurm, render(job(), python=stub(tmp_path), cwd=tmp_path))
        until((tmp_path / "told.both").exists)
        ran.call("scancel", "--signal=USR1", "--batch", ran.id)
        until(lambda: ran.state() == "PENDING")
        assert "wanwrap has ended with 130" in ran.log() and ran.fields()["Restarts"] == "1"
        (tmp_path / "told.both").unlink()
        until(ran.goes_on)
        until((tmp_path / "told.both").exists)
        assert "requeued 1 times" in ran.log()
        ran.later("stop")

    def test_preempted(self, tmp_path: Path, slurm: dict[str, str]) -> None:
        """Slurm itself requeues it."""
        ran = submit(tmp_path, slurm, render(job(), python=stub(tmp_path), cwd=tmp_path))
        until((tmp_path / "told.both").exists)
        ran.call("scontrol", "requeue", ran.id)
        until(lambda: ran.state() == "PENDING")
        assert "wanwrap has ended with 130" in ran.log() and ran.fields()["Restarts"] == "1"
        ran.later("stop")

    @pytest.mark.parametrize("wrong", [{"partition": "nowhere"}, {"gres": "gpu:h100"}, {"sbatch": ["--qus=long"]}])
    def test_what_the_cluster_has_not(self, tmp_path: Path, slurm: dict[str, str], wrong: dict[str, Any]) -> None:
        """Refused before anything is submitted."""
        made = render(job(), python=stub(tmp_path), cwd=tmp_path, **wrong)
        (tmp_path / "both.sbatch").write_text(made.files["both.sbatch"])
        assert subprocess.run(made.before[0], cwd=tmp_path, env={**os.environ, **slurm}).returncode
