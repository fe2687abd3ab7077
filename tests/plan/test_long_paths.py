"""Paths that are too long for Windows are refused before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import Wanwrap, golden_plan

from wanwrap.plan.long_paths import MOST, too_long
from wanwrap.plan.plan import Plan
from wanwrap.plan.planner import make_plan
from wanwrap.system import windows


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The registry's, of a Windows where long paths are off."""
    values = dict[str, int]()
    monkeypatch.setattr(windows, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(windows, "registry", lambda _, name: values.get(name))
    monkeypatch.setattr("platform.node", lambda: "DESKTOP-ABC1234")
    return values


def deep(plan: Plan, letters: int) -> Plan:
    """The same in a workspace whose path is so long, and with the data set's caches there."""
    request = replace(plan.request, base_dir=Path("/" + "b" * (letters - 1)))
    return make_plan(request, plan.dataset, plan.weights)


@pytest.mark.parametrize(
    ("name", "asked", "file"),
    [
        ("t2v-vanilla", {}, "tfevents.1700000000.DESKTOP-ABC1234"),
        ("t2v-vanilla", {"output_name": "n" * 60}, "-state.removed/random_states_0.pkl"),
        ("wan21-t2v-1.3b-video", {"output_name": "n" * 60}, "/sample/"),
        ("t2v-lightning", {"output_name": "n"}, ".safetensors.wanwrap-part"),  # a merged DiT
    ],
)
def test_the_longest_path_decides(name: str, asked: dict[str, Any], file: str, values: dict[str, int]) -> None:
    """To the letter, and only where long paths are off."""
    plan = golden_plan(name, **asked)
    why = str(too_long(deep(plan, MOST)))
    longest = why.partition(" would")[0].replace("\\", "/")
    assert file in longest and str(len(longest)) in why and "--base_dir" in why
    fits = MOST - len(longest.removeprefix(deep(plan, MOST).request.base_dir.as_posix()))
    assert too_long(deep(plan, fits)) is None and f"{MOST + 1} characters" in str(too_long(deep(plan, fits + 1)))
    values["LongPathsEnabled"] = 1
    assert too_long(deep(plan, MOST)) is None


@pytest.mark.usefixtures("values")
def test_the_name_of_a_picture_makes_a_cache_too_long() -> None:
    plan = golden_plan("t2v-vanilla")
    (entry, *others) = plan.dataset.entries
    item = replace(entry.items[0], path=entry.items[0].path.with_name(f"{'long' * 50}.png"))
    dataset = replace(plan.dataset, entries=(replace(entry, items=(item,)), *others))
    assert too_long(plan) is None
    assert "longlong" in str(too_long(make_plan(plan.request, dataset, plan.weights)))


@pytest.mark.usefixtures("values")
def test_nothing_is_written(tmp_path: Path, cli: Wanwrap, low: tuple[object, ...]) -> None:
    long = (*low, "--output_name", "n" * 150)
    done = cli(*long)
    assert done.returncode == 11 and "LongPathsEnabled" in done.stderr, done.stderr
    assert not (tmp_path / "home" / "local_training" / "outputs").exists()
    dry = cli(*long, "--dry_run")
    assert dry.returncode == 0 and "LongPathsEnabled" in dry.stderr
    rehearsed = cli("rehearse", *long[1:])
    assert rehearsed.returncode == 11 and not (tmp_path / "home" / "local_training" / "rehearsal").exists()


def test_a_value_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its hive and key; none where there is no such key."""

    @contextmanager
    def opened(hive: str, path: str) -> Iterator[str]:
        if path != "SYSTEM\\x":
            raise FileNotFoundError(path)
        yield f"{hive}:{path}"

    fake = SimpleNamespace(HKEY_LOCAL_MACHINE="machine", HKEY_CURRENT_USER="user", OpenKey=opened)
    fake.QueryValueEx = lambda key, name: (f"{key}:{name}", 1)
    monkeypatch.setitem(sys.modules, "winreg", fake)
    assert windows.registry("HKLM\\SYSTEM\\x", "y") is None or sys.platform == "win32"
    monkeypatch.setattr(windows, "sys", SimpleNamespace(platform="win32"))
    assert windows.registry("HKLM\\SYSTEM\\x", "y") == "machine:SYSTEM\\x:y"
    assert windows.registry("HKCU\\SYSTEM\\x", "y") == "user:SYSTEM\\x:y"
    assert windows.registry("HKLM\\nothing", "y") is None
