"""A GPU whose memory is full while steps take far too long: what is told of it. No GPU is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from helpers import Wanwrap, golden_plan
from platformdirs import user_cache_path
from runs import told

from wanwrap.run import spill
from wanwrap.run.record import unknown
from wanwrap.run.spill import Watch
from wanwrap.system import gpu
from wanwrap.system.gpu import Gpu
from wanwrap.upstream import buckets
from wanwrap.upstream.memory import GIB

RTX4090 = {"name": "NVIDIA GeForce RTX 4090", "uuid": "a", "capability": [8, 9], "multiprocessors": 128}
PLAN = golden_plan("t2v-vanilla")  # its largest batch are 45 frames of 960x544: 4 PFLOP, about 80 s at worst
FAST, SPILT = 30.0, 600.0


def watch(monkeypatch: pytest.MonkeyPatch, used: float = 23.8, card: Any = RTX4090, **options: Any) -> Watch:
    """A training on a card of 24 GiB, of which so many are in use."""
    monkeypatch.setattr(gpu, "find", lambda uuid: Gpu(uuid, round(used * GIB), 24 * GIB) if uuid == "a" else None)
    train = replace(PLAN.trainings[0], options={**PLAN.trainings[0].options, **options}, per_epoch=20)
    record = replace(unknown(train.folder), machine={"gpus": [card] if card else []})
    return Watch(PLAN, train, record)


def test_a_run_that_spills_from_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the card is built for; what would fit is named, and on Windows the driver's setting."""
    monkeypatch.setattr(sys, "platform", "win32")
    text = watch(monkeypatch).look([SPILT] * spill.FEW)
    assert text and "600 s" in text and "23.8 of 24.0 GiB" in text and "Prefer No Sysmem Fallback" in text
    assert "--blocks_to_swap" in text and "-- --force_v2_1_time_embedding --gradient_checkpointing_cpu_offload" in text
    monkeypatch.setattr(sys, "platform", "linux")
    text = watch(monkeypatch).look([SPILT] * spill.FEW)
    assert text and "Sysmem" not in text


@pytest.mark.parametrize(
    ("seconds", "used", "card"),
    [
        ([FAST] * 30, 23.8, RTX4090),
        ([SPILT] * 30, 19.0, RTX4090),  # slow for another reason
        ([SPILT] * (spill.FEW - 1), 23.8, RTX4090),
        ([*[FAST] * 30, *[3600.0] * 4], 23.8, RTX4090),  # samples, or a machine that slept
        ([SPILT] * 30, 23.8, {**RTX4090, "capability": [6, 1]}),  # nobody knows how fast it is
        ([SPILT] * 30, 23.8, {**RTX4090, "uuid": "b"}),
        ([SPILT] * 30, 23.8, None),
    ],
)
def test_what_is_not_told(seconds: Sequence[float], used: float, card: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(monkeypatch, used, card).look(seconds) is None


def test_a_run_that_begins_to_spill_is_told_by_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a card that nobody knows; an epoch tells of steps that are not the largest."""
    seen = watch(monkeypatch, card={**RTX4090, "capability": [6, 1]})
    seconds = [10.0] * 20
    assert seen.look(seconds) is None
    seconds += [60.0] * 20
    assert "60 s" in str(seen.look(seconds))
    assert seen.look(seconds) is None  # nvidia-smi is not asked each second


def test_what_a_card_has_done_is_known_to_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown_card = {**RTX4090, "capability": [6, 1]}
    first = watch(monkeypatch, card=unknown_card)
    first.look([10.0] * 20)
    first.keep()
    assert watch(monkeypatch, card=unknown_card).look([SPILT] * 20)
    spilt = watch(monkeypatch, card=unknown_card)
    spilt.look([10.0] * 20)
    spilt.look([*[1.0] * 20, *[SPILT] * 20])
    spilt.keep()  # of a run that spills nothing is learned
    assert [*json.loads((user_cache_path("wanwrap") / "speeds.json").read_text()).values()] == [first._own]


def test_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [SPILT] * spill.FEW
    assert "fewer frames" in str(watch(monkeypatch, network_dim=512).look(slow))
    small = watch(monkeypatch)
    monkeypatch.setattr(buckets, "tokens", lambda _: 1024)
    assert "what else uses the GPU" in str(small.look(slow))


def test_nvidia_smi_is_asked_for_the_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["GPU-1f-2, 100, 12288", "GPU-a, 24000, 24564"]
    monkeypatch.setattr(gpu, "capture", lambda *_: "\n".join(rows))
    assert gpu.find("a") == Gpu("a", 24000 * 2**20, 24564 * 2**20)
    assert gpu.find("") is None
    rows[1] = "GPU-a, [N/A], [N/A]"
    assert gpu.find("a") is None


def test_a_run_says_it_and_keeps_it_on_record(
    tmp_path: Any, low: tuple[object, ...], cli: Wanwrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = user_cache_path("wanwrap") / "speeds.json"
    place.write_text(json.dumps({"Standin 0": 1e18}))
    monkeypatch.setattr(spill, "FIXED", 0.0)
    monkeypatch.setattr(gpu, "find", lambda uuid: Gpu(uuid, 24 * GIB, 24 * GIB) if uuid == "0-a" else None)
    try:
        done = cli(*low, STANDIN_PACE="0.05")
    finally:
        place.unlink()
    assert done.returncode == 0 and done.stderr.count("memory is full") == 1
    assert "memory is full" in told(tmp_path)["slow"]
    assert "memory is full" in cli("status", "cats-t2v-vanilla").stdout.replace("\n         ", "")
