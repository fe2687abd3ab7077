"""The card that a training is fitted to: which of the machine's CUDA may see, how torch's is found, and what it has shown."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

from wanwrap.plan import card
from wanwrap.plan.card import ALLOCATOR, LEAST, MOST, SPREAD
from wanwrap.system import gpu
from wanwrap.upstream.memory import GIB

# by their slots: an old card, the one that trains, and one that draws
SMI = (
    "GPU-11aa, NVIDIA GeForce GTX 1080, 5, 8192, Disabled\n"
    "GPU-22bb, NVIDIA GeForce RTX 4090, 700, 24564, Enabled\n"
    "GPU-22cc, NVIDIA GeForce RTX 3060, 1, 12288, Disabled\n"
)
ALL = [8192, 24564, 12288]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests."""
    for name in ("CUDA_VISIBLE_DEVICES", gpu.ORDER, ALLOCATOR, "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpu, "smi", lambda *_: SMI)


def absent(*_: str) -> str:
    raise FileNotFoundError("nvidia-smi")


@pytest.mark.parametrize(
    ("environ", "sizes"),
    [
        ({}, ALL),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ALL),  # by speed, which nvidia-smi doesn't tell: any of them
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, ALL),
        ({"CUDA_VISIBLE_DEVICES": "1", gpu.ORDER: "FASTEST_FIRST"}, ALL),
        ({"CUDA_VISIBLE_DEVICES": "1", gpu.ORDER: "PCI_BUS_ID"}, [24564]),
        ({"CUDA_VISIBLE_DEVICES": " 0 , 2 ", gpu.ORDER: "PCI_BUS_ID"}, [8192, 12288]),
        ({"CUDA_VISIBLE_DEVICES": "7", gpu.ORDER: "PCI_BUS_ID"}, []),
        ({gpu.ORDER: "PCI_BUS_ID"}, ALL),
        ({"CUDA_VISIBLE_DEVICES": "GPU-22bb"}, [24564]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-22"}, [24564, 12288]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-22cc,GPU-1"}, [8192, 12288]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-5c2a"}, []),
    ],
)
def test_which_gpus_cuda_may_see(environ: Mapping[str, str], sizes: list[int]) -> None:
    assert [each.total // 2**20 for each in gpu.visible(gpu.listed(), environ)] == sizes


def test_of_several_the_largest_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = card.here()
    assert found and (found.name, found.memory) == ("NVIDIA GeForce RTX 4090", 24564 * 2**20) and found.ram
    assert found.draws  # a screen, which takes some of it
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-22cc")
    assert (found := card.here()) and found.memory == 12288 * 2**20 and not found.draws
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert card.here() is None


@pytest.mark.parametrize(
    "smi",
    [
        absent,
        lambda *_: "",
        lambda *_: "No devices were found\n",
        lambda *_: "GPU-1, NVIDIA GB10, [N/A], [N/A], Disabled\n",
        lambda *_: "Unable to determine the device handle for GPU0: GPU is lost. Reboot the system\n",
    ],
)
def test_nvidia_smi_is_absent_or_tells_nothing(smi: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "smi", smi)
    assert card.here() is None
    row = {"uuid": "22bb", "name": "NVIDIA GeForce RTX 4090", "memory": 23 * GIB, "capability": [8, 9], "multiprocessors": 128}  # fmt: skip
    assert (found := card.seen([row])) and found.memory == 23 * GIB  # torch knows one all the same


def test_nvidia_smi_is_not_asked_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its time; a dry run ought not to."""
    first, place = card.here(), user_cache_path("wanwrap") / "cards.json"
    monkeypatch.setattr(gpu, "smi", absent)
    assert first and card.here() == first
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-22cc")
    assert (found := card.here()) and found.memory == 12288 * 2**20
    os.utime(place, (time.time() - 2 * card.LATELY,) * 2)
    assert card.here() is None and place.is_file()


@pytest.mark.parametrize("text", ["", "{", "3", "null", '["a"]', '[{"name": "a"}]', "\udcff"])
def test_a_note_of_it_that_is_damaged_is_made_anew(text: str) -> None:
    place = user_cache_path("wanwrap") / "cards.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text.encode("utf-8", "surrogateescape"))
    for _ in range(2):
        assert (found := card.here()) and found.memory == 24564 * 2**20


def seen(uuid: str, name: str, gib: float = 1) -> dict[str, Any]:
    """As the probe tells of it."""
    return {"uuid": uuid, "name": name, "memory": round(gib * GIB), "capability": [8, 9], "multiprocessors": 128}


def test_torchs_gpus_are_found_by_their_uuid() -> None:
    """The smallest of those that train together decides, by nvidia-smi's size: tonight's plan is tomorrow's."""
    found = card.seen([seen("22bb", "NVIDIA GeForce RTX 4090", 23.5)])
    assert found and found.memory == 24564 * 2**20
    found = card.seen([seen("22bb", "NVIDIA GeForce RTX 4090", 23.5), seen("22cc", "NVIDIA GeForce RTX 3060", 11.6)])
    assert found and found.memory == 12288 * 2**20
    found = card.seen([seen("unknown", "NVIDIA L4", 22)])
    assert found and (found.name, found.memory) == ("NVIDIA L4", 22 * GIB)
    assert card.seen([]) is None


@pytest.mark.parametrize(
    ("own", "expandable"),
    [
        ({}, None),
        ({ALLOCATOR: ""}, None),
        ({ALLOCATOR: "expandable_segments:True"}, True),
        ({ALLOCATOR: "max_split_size_mb:128, expandable_segments: True"}, True),
        ({ALLOCATOR: "max_split_size_mb:128"}, False),
        ({ALLOCATOR: "expandable_segments:False"}, False),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, True),
        ({"PYTORCH_ALLOC_CONF": "backend:native", ALLOCATOR: "expandable_segments:True"}, False),
    ],
)
def test_torchs_segments(own: Mapping[str, str], expandable: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user has set stays, and counts."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(gpu, "wsl", lambda: False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert card.described(24).expandable is expandable
    assert (found := card.here()) and found.expandable is expandable


@pytest.mark.parametrize(("system", "wsl"), [("win32", False), ("linux", True)])
def test_windows_driver_grows_no_segments(system: str, wsl: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(gpu, "wsl", lambda: wsl)
    assert card.described(24).expandable is False


def test_a_card_that_is_not_here() -> None:
    """Nobody knows its machine's RAM, or how fast it is."""
    found = card.described(24)
    assert (found.memory, found.ram, found.speed) == (24 * GIB, None, (0.0, 0.0)) and "24" in found.name


# ---- what it has shown


def test_what_it_is_built_for_until_it_has_shown_more() -> None:
    built = gpu.operations("NVIDIA GeForce RTX 4090", [8, 9], 128)
    assert built == pytest.approx(165e12, rel=0.01)
    assert card.of("a", GIB, built).speed == (LEAST * built, MOST * built)
    card.keep_speed("a", 9e13)
    card.keep_speed("a", 5e13)  # a slower run: another data set, or something beside it
    card.keep_speed("b", 1e13)
    assert card.of("a", GIB, built).speed == (SPREAD * 9e13, 9e13 / SPREAD)
    assert card.of("b", GIB).speed[0] == SPREAD * 1e13
    assert card.of("c", GIB).speed == (0.0, 0.0)


def speeds() -> Path:
    return user_cache_path("wanwrap") / "speeds.json"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": null}', '{"a": "fast"}', '{"a": [1]}', "\udcff"])
def test_speeds_that_are_damaged_are_forgotten(text: str) -> None:
    speeds().parent.mkdir(parents=True, exist_ok=True)
    speeds().write_bytes(text.encode("utf-8", "surrogateescape"))
    assert card.of("a", GIB, 1e14).speed == (LEAST * 1e14, MOST * 1e14)
    card.keep_speed("a", 9e13)
    assert card.of("a", GIB).speed[0] == SPREAD * 9e13


def test_a_cache_that_cant_be_written_costs_nothing() -> None:
    speeds().parent.parent.mkdir(parents=True, exist_ok=True)
    speeds().parent.touch()
    card.keep_speed("a", 9e13)
    assert card.of("a", GIB).speed == (0.0, 0.0)
