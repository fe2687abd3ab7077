"""What the tests of runs share: a run that is started and not waited for, and what it leaves; upstream is the stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from helpers import PYTHONPATH, STANDIN, record

from wanwrap.look.samples import Sample
from wanwrap.plan.plan import Plan, Train
from wanwrap.run.record import Record, inference, settings
from wanwrap.system.safetensors import read_header
from wanwrap.system.shell import native
from wanwrap.weights.provenance import trained as counted

NAME = "cats-t2v-vanilla"
SCRIPT = "run.sh" if native() == "bash" else "run.ps1"
LOW = ("run", "t2v-vanilla", "--noise_level", "low", "--epochs", 10, "--save_every", 2)  # 6 steps an epoch
WHOLE = {**{f"{epoch:06d}": (epoch, 6 * epoch) for epoch in (2, 4, 6, 8)}, "": (10, 60)}  # its LoRAs

# a shell's part: to make a terminal the session's own
ATTACH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


def folder(tmp_path: Path, name: str = NAME) -> Path:
    """A run's."""
    return tmp_path / "home" / "local_training" / "outputs" / name


def told(tmp_path: Path, expert: str = "low", name: str = NAME) -> dict[str, Any]:
    """The record of an expert's training; empty where there is none."""
    path = folder(tmp_path, name) / expert / "record.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def saved(tmp_path: Path, expert: str = "low") -> int:
    """The epoch that it would go on from."""
    return int(told(tmp_path, expert).get("saved_epoch", 0))


def calls(tmp_path: Path, script: str = "wan_train_network.py") -> list[list[str]]:
    """The arguments of each start of one of upstream's scripts."""
    return [call["argv"] for call in record(tmp_path) if call["script"] == script]


def option(argv: list[str], name: str) -> str | None:
    return argv[argv.index(f"--{name}") + 1] if f"--{name}" in argv else None


def loras(tmp_path: Path, expert: str = "low", name: str = NAME) -> dict[str, tuple[int, int]]:
    """Epoch and steps that each LoRA tells of itself, over all starts, by its number."""
    found = {}
    for path in folder(tmp_path, name).glob(f"*-{expert}*.safetensors"):
        facts = counted(read_header(path)["__metadata__"])
        found[path.stem.rpartition(f"-{expert}")[2].removeprefix("-")] = (facts["epoch"], facts["steps"])
    return found


def environment(tmp_path: Path) -> dict[str, str]:
    """Of a `wanwrap` with the stand-in; all that it starts has its GOING_ON."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("WANWRAP_")}
    own = {"PYTHONPATH": PYTHONPATH, "WANWRAP_MUSUBI_DIR": str(STANDIN), "GOING_ON": str(tmp_path)}
    return {**base, **own, "STANDIN_RECORD": str(tmp_path / "record.jsonl")}


def begin(
    tmp_path: Path, *words: object, tty: int | None = None, before: Sequence[str] = (), flags: int = 0, **env: str
) -> subprocess.Popen[str]:
    """`wanwrap` in a process of its own, by the command `before` it or on a terminal if one is given; `flags` are Windows'."""
    argv = [*before, sys.executable, "-m", "wanwrap", *map(str, words)]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    if tty is not None:
        argv, streams = [sys.executable, "-c", ATTACH, *argv], dict.fromkeys(("stdin", "stdout", "stderr"), tty)
    (tmp_path / "home").mkdir(exist_ok=True)
    whole = {**environment(tmp_path), **env}
    return subprocess.Popen(
        argv, cwd=tmp_path / "home", env=whole, start_new_session=True, encoding="utf-8", creationflags=flags, **streams
    )


def ended(process: subprocess.Popen[str], code: int) -> str:
    """What it has said; it must end with this code."""
    text: str = process.communicate(timeout=120)[0]
    assert process.returncode == code, text
    return text


def heard(process: subprocess.Popen[str], words: str) -> None:
    """Until it says that."""
    assert process.stdout
    said = [""]
    while words not in said[-1]:
        said.append(process.stdout.readline())
        assert said[-1], "".join(said)


def until(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def alive(tmp_path: Path) -> list[psutil.Process]:
    """The processes that `begin` has started, below whatever."""
    mine = []
    for each in psutil.process_iter():
        try:
            if each.environ().get("GOING_ON") == str(tmp_path) and each.status() != psutil.STATUS_ZOMBIE:
                mine.append(each)
        except psutil.Error:
            continue
    return mine


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has asked after stays listed as a zombie."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def asleep(tmp_path: Path, process: subprocess.Popen[str]) -> int:
    """The number of the stand-in's process, once it sleeps as STANDIN_DO has told it to."""
    place = tmp_path / "asleep"
    until(lambda: process.poll() is not None or (place.exists() and place.read_text()))
    assert process.poll() is None, process.communicate()[0]
    return int(place.read_text())


def finished_record(plan: Plan, train: Train, **changes: Any) -> Record:
    """The record of one expert of a plan that has been carried out."""
    row = {
        "steps_planned": train.steps,
        "epochs_planned": train.epochs,
        "steps_per_epoch": train.per_epoch,
        "state_every": train.state_every,
        "wanwrap": "1.0.0",
        "preset": plan.request.called,
        "inference": inference(plan.request),
        "trigger": "mycat",
        "dataset": {"name": plan.dataset.name, "items": plan.dataset.train_items},
        "machine": {"upstream": {"version": "0.3.4"}},
        "state": "done",
        "started": "2026-01-02T03:04:05+00:00",
        "files": train.loras,
    }
    return Record(train.expert, train.lora.name, settings(train, plan.dataset), **{**row, **changes})


def sample(**changes: Any) -> Sample:
    """One that was made with the LoRAs of the last epoch."""
    row: dict[str, Any] = {"file": "samples/one.mp4", "prompt": "mycat", "epoch": 50, "strength": 1.0, "width": 832}
    row |= {"height": 480, "frames": 81, "infer_steps": 40, "seed": 42}
    return Sample(**{**row, **changes})
