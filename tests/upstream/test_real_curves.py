"""Upstream's own tracker writes: the points are read as TensorBoard itself reads them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wanwrap.upstream.output import Curves, points

pytestmark = pytest.mark.upstream
PYTHON = os.environ.get("WANWRAP_PYTHON", sys.executable)

TRAINS = """
import sys, time
from accelerate import Accelerator
accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=sys.argv[1] + "/20250101000000")
accelerator.init_trackers("network_train", config={"lr": 1e-4, "network": "lora"}, init_kwargs={})
accelerator.log({}, step=0)
for step in range(1, 503):
    loss = step if step < 500 else float("nan")
    accelerator.log({"loss/current": loss, "loss/average": 0, "lr/unet": 0.25, "note": "in words"}, step=step)
    if step % 5 == 0:
        accelerator.log({"loss/epoch": step}, step=step // 5)
    time.sleep(0.002)
accelerator.end_training()
"""

READS = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
read.Reload()
print(json.dumps({tag: [(each.step, str(each.value)) for each in read.Scalars(tag)] for tag in read.Tags()["scalars"]}))
"""


def test_points_are_read_while_they_are_written(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    with subprocess.Popen([PYTHON, "-c", TRAINS, str(tmp_path)], stderr=subprocess.PIPE) as child:
        while child.poll() is None:
            curves.follow()
            time.sleep(0.02)
        assert child.returncode == 0, child.stderr and child.stderr.read()
    curves.follow()
    assert curves.losses[:499] == [*range(1, 500)] and [*map(math.isnan, curves.losses[499:])] == [True] * 3
    assert curves.broken_for == 3
    (path,) = (path for path in tmp_path.rglob("*tfevents*") if path.parent.name == "network_train")
    found = dict[str, list[list[object]]]()
    with path.open("rb") as file:
        for step, tag, value in points(file):
            found.setdefault(tag, []).append([step, str(value)])
    argv = [PYTHON, "-c", READS, str(path.parent)]
    assert found == json.loads(subprocess.run(argv, check=True, capture_output=True, encoding="utf-8").stdout)
