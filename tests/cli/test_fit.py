"""What is said and done of a card's memory: dry runs, scripts, runs, and the verb that tells beforehand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, record
from runs import calls, folder, option

from wanwrap.plan import preflight
from wanwrap.plan.card import ALLOCATOR
from wanwrap.system import gpu
from wanwrap.system.gpu import Gpu
from wanwrap.upstream.memory import EMBEDDING, GIB, OFFLOAD

DRY = ("run", "t2v-vanilla", "sample", "--dry_run")  # its largest batch are 45 frames of 960x544
ROOM = 13


@pytest.fixture(autouse=True)
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch can grow its segments, and has not been told to; no GPU but the stand-in's."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(gpu, "wsl", lambda: False)
    monkeypatch.setattr(gpu, "listed", list)
    for name in (ALLOCATOR, "PYTORCH_ALLOC_CONF", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def dry(cli: Wanwrap, *words: object) -> dict[str, Any]:
    done = cli(*DRY, *words, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def trained(plan: dict[str, Any]) -> list[list[str]]:
    """The commands that train."""
    return [step["argv"] for step in plan["steps"] if step["name"].startswith("train")]


# ---- a dry run


def test_a_dry_run_tells_and_takes_what_is_chosen(cli: Wanwrap) -> None:
    plan = dry(cli, "--vram", 24)
    assert [row["expert"] for row in plan["memory"]] == ["high", "low"]
    for row, argv in zip(plan["memory"], trained(plan), strict=True):
        assert row["fits"] is True and row["card_gib"] == 24 and row["total_gib"] <= 24 - 1.2
        assert row["chosen"][EMBEDDING] is True and f"--{EMBEDDING}" in argv
        assert option(argv, "blocks_to_swap") == str(row["chosen"]["blocks_to_swap"])
        assert (f"--{OFFLOAD}" in argv) == (OFFLOAD in row["chosen"])
        assert row["expandable_segments"] is True
    assert plan["env"][ALLOCATOR] == "expandable_segments:True"
    assert plan["time"] is None  # nobody knows how fast that card is


@pytest.mark.parametrize("words", [("run", "t2v-vanilla", "sample", "--dry_run"), ("fit", "t2v-vanilla")])
@pytest.mark.parametrize("size", ["nan", "0", "-3", "1e9", "x", "8,x"])
def test_a_size_that_no_card_has(words: tuple[str, ...], size: str, cli: Wanwrap) -> None:
    assert cli(*words, f"--vram={size}").returncode == 2


def test_a_script_for_windows_sets_no_allocator(cli: Wanwrap) -> None:
    """Which has none of the kind; what is chosen then fits all the same."""
    done = cli(*DRY, "--shell", "powershell", "--vram", 24)
    assert ALLOCATOR not in done.stdout and f"--{OFFLOAD}" in done.stdout


def test_a_script_that_is_copied_elsewhere_sets_torchs_allocator(cli: Wanwrap) -> None:
    line = f"export {ALLOCATOR}=expandable_segments:True\n"
    assert line in cli(*DRY, "--shell", "bash", "--vram", 24).stdout
    assert line not in cli(*DRY, "--shell", "bash", "--vram", 80).stdout


def test_a_card_that_is_too_small_is_told_with_what_would_do(cli: Wanwrap) -> None:
    (words,) = [line for line in dry(cli, "--vram", 8)["missing"] if "train high" in line]
    assert "7.0 GiB" in words and "24480 tokens, 45 frames of 960x544" in words
    assert "45 frames of 960x544 (to " in words and "wanwrap fit" in words
    assert not any("train" in line for line in dry(cli, "--vram", 8, "--fit", "off")["missing"])


def test_without_a_card_nothing_is_chosen_and_that_is_said(cli: Wanwrap) -> None:
    plan = dry(cli)
    assert [row["fits"] for row in plan["memory"]] == [None, None] and ALLOCATOR not in plan["env"]
    assert trained(plan) == trained(dry(cli, "--fit", "off"))
    assert "--vram" in cli(*DRY).stdout


def test_what_is_given_stays(cli: Wanwrap, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = dry(cli, "--vram", 8, "--blocks_to_swap", 3)
    assert [option(argv, "blocks_to_swap") for argv in trained(plan)] == ["3", "3"]
    assert plan["memory"][0]["fits"] is False
    monkeypatch.setenv(ALLOCATOR, "max_split_size_mb:64")
    plan = dry(cli, "--vram", 24)
    assert ALLOCATOR not in plan["env"] and plan["memory"][0]["fits"] is True


# ---- a run


def test_what_does_not_fit_ends_before_anything_is_cached(
    cli: Wanwrap, anew: tuple[object, ...], tmp_path: Path
) -> None:
    done = cli(*anew, "--vram", 8)
    assert done.returncode == ROOM and "would fit" in done.stderr
    assert not (tmp_path / "home" / "local_training" / "cache").exists() and not (tmp_path / "record.jsonl").exists()


def test_it_is_started_all_the_same(cli: Wanwrap, low: tuple[object, ...], tmp_path: Path) -> None:
    assert cli(*low, "--vram", 8, "--fit", "off", "--epochs", 1).returncode == 0
    (argv,) = calls(tmp_path)
    assert f"--{EMBEDDING}" not in argv and option(argv, "blocks_to_swap") is None


def test_a_run_fits_the_gpu_that_torch_sees(
    cli: Wanwrap, low: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here torch's first is the smaller one: nvidia-smi counts by slots, torch by speed."""
    others = [Gpu("large", "Another", 0, 80 * GIB), Gpu("0-a", "Standin 0", 0, 24 * GIB)]
    monkeypatch.setattr(gpu, "listed", lambda: others)
    done = cli(*low, "--epochs", 1)
    assert done.returncode == 0 and "of 24.0 GiB on Standin 0" in done.stderr
    (call,) = [call for call in record(tmp_path) if call["script"] == "wan_train_network.py"]
    assert f"--{EMBEDDING}" in call["argv"] and option(call["argv"], "blocks_to_swap")
    assert call["env"][ALLOCATOR] == "expandable_segments:True"


def test_a_gpu_that_nvidia_smi_does_not_know(cli: Wanwrap, low: tuple[object, ...], tmp_path: Path) -> None:
    """As where it is not there: torch tells how large it is."""
    assert cli(*low, "--epochs", 1).returncode == 0
    (argv,) = calls(tmp_path)
    assert option(argv, "blocks_to_swap") is None  # it has 80 GiB


def test_other_programs_on_the_gpu(
    cli: Wanwrap, low: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = (*low, "--dim", 640, "--epochs", 1)  # 64 of 80 GiB
    monkeypatch.setattr(preflight, "check_disk", lambda *_: None)  # such LoRAs are large as well
    done = cli(*large, STANDIN_FREE=str(40 * GIB))
    assert done.returncode == ROOM and "40.0 GiB" in done.stderr and "nvidia-smi" in done.stderr
    assert not folder(tmp_path).exists() and not (tmp_path / "record.jsonl").exists()
    done = cli(*large, STANDIN_FREE=str(62 * GIB))
    assert done.returncode == 0 and "18.0 GiB of the GPU's 80.0 GiB" in done.stderr


# ---- the verb


def test_each_card_is_told_to_people(cli: Wanwrap) -> None:
    """Of the sample, without weights or upstream."""
    done = cli("fit", "t2v-vanilla", "--vram", "8,24,80", standin=False)
    assert done.returncode == 0, done.stderr
    assert "does not fit" in done.stdout and "45 frames of 960x544 (to " in done.stdout
    assert f"--{EMBEDDING}" in done.stdout and "--blocks_to_swap" in done.stdout


def test_each_card_is_told_to_programs(cli: Wanwrap) -> None:
    rows = json.loads(cli("fit", "wan21-t2v-14b", "--vram", "8,24,80", "--json", standin=False).stdout)
    assert [row["card_gib"] for row in rows] == [8, 24, 80] and [row["fits"] for row in rows] == [False, True, True]
    assert rows[1]["chosen"] and not rows[2]["chosen"] and rows[2]["ram_gib"] < rows[1]["ram_gib"]
    assert all(row["allocated_gib"] < row["total_gib"] and row["tokens"] == 24480 for row in rows)


def test_the_verb_and_a_dry_run_say_the_same(cli: Wanwrap) -> None:
    words = ("t2v-vanilla", "sample", "--vram", "24", "--dim", 8, "--noise_level", "low", "--json")
    (told,) = json.loads(cli("fit", *words).stdout)
    (planned,) = json.loads(cli("run", *words, "--dry_run").stdout)["memory"]
    assert told == planned
