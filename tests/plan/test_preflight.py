"""What is known to be wrong before the first file is written: packages, memory, and what can't be built."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from helpers import PYTHONPATH, Wanwrap, golden_plan

from wanwrap.errors import OptionError, PackageError, RoomError
from wanwrap.plan import preflight
from wanwrap.plan.plan import Rewrite

NOT_THERE = "ModuleNotFoundError: No module named 'x'"


def test_all_that_is_missing_is_told_at_once() -> None:
    """By its modules, with what gets each: `wanwrap setup`, or pip where that doesn't."""
    modules = ("accelerate", "bitsandbytes.optim:AdamW8bit", "prodigyopt:Prodigy", "xformers.ops")
    with pytest.raises(PackageError) as caught:
        preflight.check_packages({"missing": dict.fromkeys(modules, NOT_THERE)}, "/training/python")
    told = str(caught.value)
    assert all(module.partition(":")[0] in told for module in modules) and "AdamW8bit" not in told
    assert "`wanwrap setup`" in told and "/training/python -m pip install prodigyopt" in told and "--attention" in told


def test_dits_that_are_merged_need_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sources may be gone: 57 GB that nothing reads any more must not stop a night's run."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 20 * 10**9))
    plan = replace(golden_plan("t2v-lightning"), folder=tmp_path)
    steps = [replace(step, out=tmp_path / step.out.name) if isinstance(step, Rewrite) else step for step in plan.steps]
    plan = replace(plan, steps=tuple(steps))
    assert "to download" in str(preflight.lacking_disk(plan, 0))
    for rewrite in plan.rewrites:
        rewrite.out.touch()
    assert preflight.lacking_disk(plan, 0) is None
    preflight.check_disk(plan, 0)


def test_prompts_that_an_earlier_start_has_left_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset's own are written when the run begins."""
    asked = dict[str, list[str]]()

    def ask(*arguments: Any) -> dict[str, Any]:
        asked.update({name: row["argv"] for name, row in arguments[3].items()})
        return {"missing": {}, "gpus": [{}], "python": "3.11", "packages": {}, "upstream": {}}

    monkeypatch.setattr(preflight, "ask", ask)
    own = golden_plan("wan21-t2v-1.3b-video")
    preflight.check_machine(own, gpus=1)
    assert "--sample_prompts" in own.trainings[0].argv and "--sample_prompts" not in asked["dit"]
    given = {"sample_prompts": "/p.txt", "sample_every_n_epochs": 1}
    preflight.check_machine(golden_plan("wan21-t2v-14b", given=given), gpus=1)
    assert "/p.txt" in asked["dit"]


def test_setup_is_not_named_for_what_it_does_not_install() -> None:
    with pytest.raises(PackageError) as caught:
        preflight.check_packages({"missing": {"prodigyopt:Prodigy": NOT_THERE}}, "python")
    assert "wanwrap setup" not in str(caught.value)


def test_a_class_is_called_no_module() -> None:
    with pytest.raises(PackageError, match="no Bogus in ") as caught:
        preflight.check_packages({"missing": {"torch.optim:Bogus": "AttributeError: no attribute"}}, "python")
    assert "pip" not in str(caught.value)


GB = 10**9


@pytest.mark.parametrize(
    ("swap", "together", "ram", "page", "enough"),
    [
        (30, False, 18, 0, True),  # a 28.6 GB DiT halved on its way into RAM, and a Python
        (30, False, 12, 0, False),
        (30, False, 12, 6, True),  # the page file counts
        (30, True, 18, 6, False),  # both experts at once
        (30, True, 36, 0, True),
        (0, False, 4, 0, True),  # straight onto the GPU
    ],
)
def test_ram_and_page_file(
    swap: int, together: bool, ram: int, page: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=ram * GB))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=page * GB))
    plan = golden_plan("t2v-vanilla", given={"blocks_to_swap": swap})
    if enough:
        preflight.check_ram(plan, together=together)
        return
    with pytest.raises(RoomError, match=f"{ram}.0 GB"):
        preflight.check_ram(plan, together=together)


POOR = """
import toy_models, types, psutil
psutil.virtual_memory = lambda: types.SimpleNamespace(available=10**9, total=10**9)
psutil.swap_memory = lambda: types.SimpleNamespace(free=0)
"""


def test_a_run_asks_for_ram_before_anything_starts(
    tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    (tmp_path / "poor").mkdir()
    (tmp_path / "poor" / "sitecustomize.py").write_text(POOR)
    place = f"{tmp_path / 'poor'}{os.pathsep}{PYTHONPATH}"
    done = wanwrap("run", "t2v-vanilla", cats, *weights, PYTHONPATH=place)
    assert done.returncode == RoomError.exit_code and "RAM" in done.stderr, done.stderr
    assert not (tmp_path / "record.jsonl").exists()


@pytest.mark.parametrize(
    ("extra", "noun"),
    [
        (["--optimizer_args", "weight_decay=abc"], "optimizer"),
        (["--lr_scheduler_type", "os.bogus"], "learning rate"),
    ],
)
def test_what_the_training_python_cant_build_is_refused_before_anything_starts(
    extra: list[str], noun: str, tmp_path: Path, wanwrap: Wanwrap, weights: list[str], cats: Path
) -> None:
    """What upstream itself makes of many more, upstream/test_real.py asks. A dry run asks no training Python."""
    run = ("run", "t2v-vanilla", cats, *weights)
    assert wanwrap(*run, "--dry_run", "--", *extra).returncode == 0
    done = wanwrap(*run, "--", *extra)
    assert done.returncode == OptionError.exit_code and noun in done.stderr, done.stderr
    assert not (tmp_path / "record.jsonl").exists()
