"""Upstream's own tracker writes, TensorBoard itself reads what became of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from wanwrap.run.curves import Curves

pytestmark = pytest.mark.upstream
PYTHON = os.environ.get("WANWRAP_PYTHON", sys.executable)

TRAINS = """
import sys, time
from accelerate import Accelerator
folder, steps, offset = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=folder + "/20250101000000")
accelerator.init_trackers("network_train", config={"lr": 1e-4, "network": "lora"}, init_kwargs={})
accelerator.log({}, step=0)
for step in range(1, steps + 1):
    loss = offset + step if step < 500 else float("nan")
    accelerator.log({"loss/current": loss, "loss/average": offset, "lr/unet": 0.25, "note": "in words"}, step=step)
    if step % 5 == 0:
        accelerator.log({"loss/epoch": offset + step}, step=step // 5)
    time.sleep(0.002)
accelerator.end_training()
"""

READS = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
read.Reload()
scalars = {tag: [(each.step, each.value) for each in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
tensors = {tag: [each.step for each in read.Tensors(tag)] for tag in read.Tags()["tensors"]}
print(json.dumps({"scalars": scalars, "tensors": tensors}))
"""


def train(logs: Path, steps: int, offset: float, curves: Curves, end: int | None = None) -> None:
    """An attempt that is followed as it goes; killed, if it is to end early."""
    argv = [PYTHON, "-c", TRAINS, str(logs), str(steps), str(offset)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as child:
        while child.poll() is None:
            curves.follow(logs)
            if end and curves.seen >= end:
                child.kill()
            time.sleep(0.02)
        assert end or child.returncode == 0, child.stderr and child.stderr.read()
    curves.follow(logs)


def read(folder: Path) -> Any:
    done = subprocess.run([PYTHON, "-c", READS, str(folder)], check=True, capture_output=True, encoding="utf-8")
    return json.loads(done.stdout)


def test_tensorboard_reads_two_attempts_as_one(tmp_path: Path) -> None:
    out = tmp_path / "logs" / "low"
    first = Curves(out, 0, 0)
    train(tmp_path / "1", 100_000, 0, first, end=72)
    assert first.seen >= 72
    before = max(out.iterdir()).read_bytes()
    second = Curves(out, 70, 14)
    train(tmp_path / "2", 502, 1000, second)
    assert (second.seen, second.broken) == (502, 3)

    found = read(out)
    losses = found["scalars"]["loss/current"]
    assert [step for step, _ in losses] == list(range(1, 573))
    assert losses[:569] == [[step, step if step <= 70 else 930 + step] for step in range(1, 570)]
    assert all(value != value for _, value in losses[569:])
    assert found["scalars"]["loss/epoch"] == [[n, 5 * n if n <= 14 else 930 + 5 * n] for n in range(1, 115)]
    assert found["scalars"]["lr/unet"] == [[step, 0.25] for step in range(1, 573)]
    assert found["tensors"]["note/text_summary"] == list(range(1, 573))
    assert found["tensors"].get("_hparams_/experiment", [0]) == [0]

    (out / "events.out.tfevents.wanwrap-0001").write_bytes(before)  # a kill before the old file was emptied
    again = read(out)
    assert [step for step, _ in again["scalars"]["loss/current"]] == list(range(1, 573))
    assert again["scalars"]["loss/epoch"] == found["scalars"]["loss/epoch"]
