"""What `doctor` says of Windows' own settings, from a registry that is a dict."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import Wanwrap

from wanwrap.machine import windows
from wanwrap.system import windows as system

WINDOWS = SimpleNamespace(platform="win32")
OWN = windows.SCRIPTS
GROUP = windows.POLICIES
ALLOWED = {("HKLM\\" + OWN, "ExecutionPolicy"): "RemoteSigned", (system.FILE_SYSTEM, "LongPathsEnabled"): 1}
DIT = 28_600_000_000

Registry = dict[tuple[str, str], Any]


@pytest.fixture(autouse=True)
def _windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "sys", WINDOWS)
    monkeypatch.setattr(system, "sys", WINDOWS)
    monkeypatch.setattr("platform.release", lambda: "11")
    for name in ("OneDrive", "OneDriveConsumer", "OneDriveCommercial", "PSEXECUTIONPOLICYPREFERENCE"):
        monkeypatch.delenv(name, raising=False)


def told(registry: Registry, monkeypatch: pytest.MonkeyPatch, base: Path = Path("/wan")) -> dict[str, str]:
    """The advice by its names, but for the one that is always given."""
    for module in (windows, system):
        monkeypatch.setattr(module, "registry", lambda key, name: registry.get((key, name)))
    found = dict(windows.advice(base, DIT))
    assert "Prefer No Sysmem Fallback" in found.pop("GPU memory")
    return found


@pytest.mark.parametrize(
    ("more", "way"),
    [
        ({}, "Bypass -File run.ps1"),  # nothing is set: a client is Restricted
        ({("HKCU\\" + OWN, "ExecutionPolicy"): "AllSigned"}, "RemoteSigned"),
        ({("HKCU\\" + OWN, "ExecutionPolicy"): "Bypass", ("HKLM\\" + OWN, "ExecutionPolicy"): "AllSigned"}, None),
        ({("HKLM\\" + OWN, "ExecutionPolicy"): "RemoteSigned"}, None),
        ({("HKLM\\" + GROUP, "EnableScripts"): 0, ("HKCU\\" + OWN, "ExecutionPolicy"): "Bypass"}, "wanwrap instead"),
        ({("HKCU\\" + GROUP, "ExecutionPolicy"): "AllSigned"}, "wanwrap instead"),
        ({("HKLM\\" + GROUP, "EnableScripts"): 1, ("HKLM\\" + GROUP, "ExecutionPolicy"): "Unrestricted"}, None),
    ],
)
def test_whether_scripts_may_run(more: Registry, way: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group's policy before the window's, the window's before the user's, the user's before the machine's."""
    registry = {(system.FILE_SYSTEM, "LongPathsEnabled"): 1, **more}
    found = told(registry, monkeypatch)
    assert [*found] == (["PowerShell"] if way else []) and (not way or way in found["PowerShell"])
    monkeypatch.setenv("PSEXECUTIONPOLICYPREFERENCE", "Bypass")
    assert bool(told(registry, monkeypatch)) == any(key.endswith(GROUP) for key, _ in more) * bool(way)


def test_a_server_lets_scripts_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "2022Server")
    assert not told({(system.FILE_SYSTEM, "LongPathsEnabled"): 1}, monkeypatch)


@pytest.mark.parametrize("value", [0, None])
def test_long_paths_are_off(value: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = told({**ALLOWED, (system.FILE_SYSTEM, "LongPathsEnabled"): value}, monkeypatch)
    assert [*found] == ["long paths"] and "LongPathsEnabled -Value 1" in found["long paths"]


@pytest.mark.parametrize(
    ("files", "ram", "says"),
    [
        (None, 0, None),  # nobody knows
        ([r"?:\pagefile.sys"], 0, None),
        ([r"C:\pagefile.sys 0 0"], 0, None),
        ([r"C:\pagefile.sys 4096 16384"], 16 << 30, None),
        ([r"C:\pagefile.sys 4096 8192", r"D:\pagefile.sys 0 0"], 0, None),
        ([r"C:\pagefile.sys 4096 4096", r"D:\pagefile.sys 4096 4096"], 16 << 30, "8.6 GB at most"),
        ([], 16 << 30, "there is none"),
        ([""], 16 << 30, "there is none"),
        ([], 64 << 30, None),
    ],
)
def test_a_page_file_in_which_a_dit_has_no_room(
    files: list[str] | None, ram: int, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=ram))
    found = told({**ALLOWED, (windows.MEMORY, "PagingFiles"): files}, monkeypatch)
    assert [*found] == (["page file"] if says else []) and (not says or says in found["page file"])


@pytest.mark.parametrize("name", ["OneDrive", "OneDriveCommercial"])
def test_a_workspace_that_is_uploaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, str(tmp_path / "OneDrive"))
    base = tmp_path / "OneDrive" / "Documents" / "local_training"
    assert "--base_dir" in told(ALLOWED, monkeypatch, base)["OneDrive"]
    assert not told(ALLOWED, monkeypatch, tmp_path / "OneDrive2")


def test_elsewhere_nothing_of_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """But in WSL2, whose driver is Windows'."""
    monkeypatch.setattr(windows, "sys", sys)
    assert sys.platform == "win32" or not [*windows.advice(Path(), DIT)]
    monkeypatch.setattr("platform.release", lambda: "5.15.167.4-microsoft-standard-WSL2")
    assert sys.platform == "win32" or [name for name, _ in windows.advice(Path(), DIT)] == ["GPU memory"]


def test_advice_is_nothing_to_do(cli: Wanwrap, monkeypatch: pytest.MonkeyPatch) -> None:
    """A note among doctor's lines, and an exit code that is another line's."""
    monkeypatch.setattr("wanwrap.machine.doctor.windows.advice", lambda *_: iter(()))
    before = cli("doctor", "t2v-vanilla", "--json")
    monkeypatch.setattr("wanwrap.machine.doctor.windows.advice", lambda *_: iter([("OneDrive", "give a --base_dir")]))
    done = cli("doctor", "t2v-vanilla", "--json")
    assert not any(row["note"] for row in json.loads(before.stdout))
    (row,) = (row for row in json.loads(done.stdout) if row["note"])
    assert row == {"name": "OneDrive", "text": "give a --base_dir", "code": 0, "note": True, "ok": True}
    assert done.returncode == before.returncode
    (line,) = (line for line in cli("doctor", "t2v-vanilla").stdout.splitlines() if "OneDrive" in line)
    assert line.startswith("  note  OneDrive")
