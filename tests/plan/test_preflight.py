"""What is known to be wrong before the first file is written: packages, memory, and what can't be built."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from helpers import Wanwrap, golden_plan

from wanwrap.errors import OptionError, PackageError, RoomError, WanwrapError
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


def test_disk_for_all_merges_together_but_not_for_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sources may be gone: 57 GB that nothing reads any more must not stop a night's run."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**12, used=0, free=20 * 10**9))
    plan = replace(golden_plan("t2v-lightning"), folder=tmp_path)
    steps = [replace(step, out=tmp_path / step.out.name) if isinstance(step, Rewrite) else step for step in plan.steps]
    plan = replace(plan, steps=tuple(steps))
    lacking = str(preflight.lacking_disk(plan, 0))
    assert "to download" in lacking and "57.2 GB for DiTs" in lacking  # of both together
    for rewrite in plan.rewrites:
        rewrite.out.touch()
    assert preflight.lacking_disk(plan, 0) is None and preflight.lacking_disk(plan, 10**11)


@pytest.mark.parametrize(("why", "wrong"), [(NOT_THERE, "wanwrap setup"), ("AttributeError", "pip")])
def test_no_way_is_named_that_leads_nowhere(why: str, wrong: str) -> None:
    with pytest.raises(PackageError, match="prodigyopt") as caught:
        preflight.check_packages({"missing": {"prodigyopt:Prodigy": why}}, "python")
    assert wrong not in str(caught.value)


def have(monkeypatch: pytest.MonkeyPatch, ram: int, page: int = 0) -> None:
    """A machine with so much memory free, in GB."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=ram * 10**9, total=64 * 10**9))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=page * 10**9, total=page * 10**9))


@pytest.mark.parametrize(
    ("swap", "together", "ram", "page", "enough"),
    [
        (30, False, 18, 0, True),  # a 28.6 GB DiT halved on its way into RAM, and a Python
        (30, False, 12, 0, False),
        (30, False, 12, 6, True),  # the page file counts
        (30, True, 18, 6, False),  # both experts at once
        (0, False, 4, 0, True),  # straight onto the GPU
    ],
)
def test_ram_and_page_file(
    swap: int, together: bool, ram: int, page: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, ram, page)
    with nullcontext() if enough else pytest.raises(RoomError, match=f"{ram}.0 GB"):
        preflight.check_ram(golden_plan("t2v-vanilla", given={"blocks_to_swap": swap}), together=together)


@pytest.mark.parametrize(
    ("extra", "error", "noun"),
    [
        (["--optimizer_args", "weight_decay=abc"], OptionError, "optimizer"),
        (["--lr_scheduler_type", "os.bogus"], OptionError, "learning rate"),
        ([], RoomError, "RAM"),
    ],
)
def test_what_the_machine_cant_do_is_refused_before_anything_starts(
    extra: list[str],
    error: type[WanwrapError],
    noun: str,
    tmp_path: Path,
    cli: Wanwrap,
    low: tuple[object, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What upstream itself makes of many more, upstream/test_real.py asks. A dry run asks no training Python."""
    have(monkeypatch, 1)
    assert cli(*low, "--dry_run", "--", *extra).returncode == 0
    done = cli(*low, "--", *extra)
    assert done.returncode == error.exit_code and noun in done.stderr, done.stderr
    assert not (tmp_path / "record.jsonl").exists()
