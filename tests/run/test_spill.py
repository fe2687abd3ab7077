"""A GPU whose memory is full while steps take far too long: what is told of it. No GPU is needed."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

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
from wanwrap.upstream.dit import flops
from wanwrap.upstream.memory import GIB

RTX4090 = {
    "name": "NVIDIA GeForce RTX 4090",
    "uuid": "a",
    "memory": 24 * GIB,
    "capability": [8, 9],
    "multiprocessors": 128,
}
PLAN = golden_plan("t2v-vanilla")  # its largest batch are 45 frames of 960x544: 4 PFLOP, about 80 s at worst
FAST, SPILT = 30.0, 600.0


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose driver it is that spills."""
    monkeypatch.setattr(gpu, "wsl", lambda: True)


def watch(monkeypatch: pytest.MonkeyPatch, used: float = 23.8, card: Any = RTX4090, **options: Any) -> Watch:
    """A training of 20 steps an epoch on a card of 24 GiB, of which so many are in use."""
    monkeypatch.setattr(
        gpu,
        "find",
        lambda uuid: Gpu(uuid, "NVIDIA GeForce RTX 4090", round(used * GIB), 24 * GIB) if uuid == "a" else None,
    )
    train = replace(PLAN.trainings[0], options={**PLAN.trainings[0].options, **options}, per_epoch=20)
    record = replace(unknown(train.folder), machine={"gpus": [card] if card else []})
    return Watch(PLAN, train, record)


def test_a_run_that_spills_from_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the card is built for; what would fit is named, and on Windows the driver's setting."""
    text = watch(monkeypatch).look([SPILT] * spill.FEW)
    assert text and "600 s" in text and "23.8 GiB of 24.0 GiB" in text and "Sysmem" not in text
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(
        sys, "argv", ["wanwrap", "run", "t2v-vanilla", "cats", "--dim", "8", "--", "--max_grad_norm", "0"]
    )
    text = watch(monkeypatch).look([SPILT] * spill.FEW)
    assert text and "Prefer No Sysmem Fallback" in text and "--now" in text
    (again,) = re.findall("`(wanwrap run [^`]*)`", text)
    assert re.fullmatch(
        r"wanwrap run t2v-vanilla cats --dim 8 --blocks_to_swap \d+ -- --max_grad_norm 0 --force_v2_1_time_embedding "
        "--gradient_checkpointing_cpu_offload",
        again,
    )


@pytest.mark.parametrize(
    ("seconds", "used", "card"),
    [
        ([FAST] * 45, 23.8, RTX4090),
        ([SPILT] * (spill.FEW - 1), 23.8, RTX4090),
        ([*[FAST] * 30, *[3600.0] * 4], 23.8, RTX4090),  # a machine that slept
        ([*[FAST] * 18, 3600.0, *[FAST] * 19, 3600.0], 23.8, RTX4090),  # samples after each epoch
        ([SPILT] * 45, 23.8, {**RTX4090, "capability": [6, 1]}),  # nobody knows how fast it is
        ([SPILT] * 45, 23.8, {**RTX4090, "uuid": "b"}),
        ([SPILT] * 45, 23.8, None),
        ([0.0] * 45, 23.8, RTX4090),  # a clock that ticks slowly
    ],
)
def test_what_is_not_told(seconds: Sequence[float], used: float, card: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch(monkeypatch, used, card).look(seconds) is None


def test_where_nothing_spills_it_is_slow_for_another_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "how hot" in str(watch(monkeypatch, used=19.0).look([SPILT] * 45))
    monkeypatch.setattr(gpu, "wsl", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    text = watch(monkeypatch).look([SPILT] * 45)
    assert "how hot" in str(text) and "RAM" not in str(text)


@pytest.mark.parametrize("several", [1, 4])
def test_a_mixed_data_set_is_not_called_slow(several: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures and large clips in any order, on a card at its usual speed; nothing too fast is learned of it."""
    drawn = random.Random(several)
    for share in range(5, 100, 5):
        sizes = [((960, 544, 45), share, 1), ((512, 512), 100 - share, 1)]
        data = SimpleNamespace(batch_shapes=sizes, largest=(24_480, sizes[0][0]))
        seen = watch(monkeypatch, gradient_accumulation_steps=several)
        seen._plan, seen._train = (
            cast(Any, SimpleNamespace(dataset=data, env={})),
            replace(seen._train, per_epoch=100 // several),
        )
        seconds = list[float]()
        for _ in range(4):
            epoch = [key for key, count, _ in sizes for _ in range(count)]
            drawn.shuffle(epoch)
            batches = [0.8 + flops("t2v-A14B", buckets.tokens(key)) / 9e13 for key in epoch]
            seconds += [sum(batches[at : at + several]) for at in range(0, 100, several)]
        assert not [at for at in range(1, len(seconds)) if seen.look(seconds[1:at])]
        assert 0.5e13 < seen._own < 1e14


def test_a_run_that_begins_to_spill_is_told_by_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a card that nobody knows, by an epoch that was quick."""
    seen = watch(monkeypatch, card={**RTX4090, "capability": [6, 1]})
    seconds = [10.0] * 19
    assert seen.look(seconds) is None
    seconds += [90.0] * 20
    monkeypatch.setattr(spill, "OFTEN", 0)
    assert "90 s" in str(seen.look(seconds))
    monkeypatch.setattr(spill, "OFTEN", 60)
    assert seen.look(seconds) is None  # nvidia-smi is not asked each second


def test_what_a_card_has_done_is_known_to_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown_card = {**RTX4090, "capability": [6, 1]}
    first = watch(monkeypatch, card=unknown_card)
    first.look([10.0] * 19)
    first.keep()
    watch(monkeypatch, card=None).keep()
    assert watch(monkeypatch, card=unknown_card).look([SPILT] * 19)
    monkeypatch.setattr(spill, "OFTEN", 0)
    spilt = watch(monkeypatch, card=unknown_card)
    spilt.look([1.0] * 19)
    spilt.look([*[1.0] * 19, *[SPILT] * 20])
    spilt.keep()  # of a run that spills nothing is learned
    place = user_cache_path("wanwrap") / "speeds.json"
    assert [*json.loads(place.read_text()).values()] == [first._own]
    for damage in ("null", "[1]", '{"NVIDIA GeForce RTX 4090": null}', "{"):
        place.write_text(damage)
        assert watch(monkeypatch).look([SPILT] * 19)
    place.unlink()


def test_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [SPILT] * spill.FEW
    assert "--dim" in str(watch(monkeypatch, network_dim=512).look(slow))
    small = watch(monkeypatch)
    pictures = replace(PLAN.dataset, entries=PLAN.dataset.entries[:1])
    small._plan = replace(PLAN, dataset=pictures)
    assert "what else uses the GPU" in str(small.look(slow))


def test_its_size_is_nvidia_smis_as_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    its = watch(monkeypatch, card={**RTX4090, "memory": 23 * GIB}).fit.card
    assert its and its.memory == 24 * GIB


def test_nvidia_smi_is_asked_for_the_gpu_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["GPU-1f-2, RTX 3060, 100, 12288, Disabled", "GPU-a, RTX 4090, 24000, 24564, Enabled"]
    monkeypatch.setattr(gpu, "capture", lambda *_: "\n".join(rows))
    assert gpu.find("a") == Gpu("a", "RTX 4090", 24000 * 2**20, 24564 * 2**20, True)
    assert gpu.find("") is None
    rows[1] = "GPU-a, RTX 4090, [N/A], [N/A], Enabled"
    assert gpu.find("a") is None


def test_a_run_says_it_and_keeps_it_on_record(
    tmp_path: Any, low: tuple[object, ...], cli: Wanwrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = user_cache_path("wanwrap") / "speeds.json"
    place.write_text(json.dumps({"Standin 0": 1e18}))
    monkeypatch.setattr("wanwrap.upstream.pace.FIXED", 0.0)
    monkeypatch.setattr(spill, "OFTEN", 0)
    monkeypatch.setattr(gpu, "find", lambda uuid: Gpu(uuid, "Standin 0", 80 * GIB, 80 * GIB) if uuid == "0-a" else None)
    try:
        done = cli(*low, STANDIN_PACE="0.05")
    finally:
        place.unlink()
    assert done.returncode == 0 and done.stderr.count("memory is full") == 1
    assert "memory is full" in told(tmp_path)["slow"] and told(tmp_path)["memory"]["used"] == 80 * GIB
    assert "memory is full" in cli("status", "cats-t2v-vanilla").stdout.replace("\n         ", "")


def test_an_allocator_of_a_presets_own_counts_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another setting of torch's allocator grows no segments."""
    monkeypatch.setattr(gpu, "wsl", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    totals = []
    for own in (
        {},
        {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"},
        {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    ):
        seen = watch(monkeypatch)
        seen._plan = replace(PLAN, env=own)
        totals.append(seen.fit.memory.total)
    assert totals[0] == totals[1] > totals[2]
