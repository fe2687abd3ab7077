"""What is otherwise on Windows, as far as it can be simulated: its signals, names, drives, consoles and PowerShell."""

from __future__ import annotations

import enum
import signal
from pathlib import Path

import pytest
from helpers import Wanwrap, golden_plan

from wanwrap.errors import OptionError, OutputError, PresetError
from wanwrap.plan.request import check_name
from wanwrap.plan.script import encoded, script, start
from wanwrap.preset import load
from wanwrap.system import disk
from wanwrap.system.failures import failure

ODD = "猫 Jürgen"


class WindowsSignals(enum.IntEnum):
    """`signal.Signals` there."""

    CTRL_C_EVENT = 0
    CTRL_BREAK_EVENT = 1
    SIGINT = 2
    SIGTERM = 15


@pytest.mark.parametrize(
    ("status", "says"), [(128, "exit status 128"), (1, "exit status 1"), (0xC0000005, "0xc0000005"), (-15, "SIGTERM")]
)
def test_how_a_child_ended(status: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "Signals", WindowsSignals)
    assert says in failure(status, "").text


@pytest.mark.parametrize("name", ["con", "NUL", "aux.txt", "lpt1", "cats.", "cats "])
def test_names_that_windows_keeps_for_itself(name: str) -> None:
    with pytest.raises(OptionError, match="output_name"):
        check_name(name)
    assert check_name("console") == "console"


def test_a_drive_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanwrap.system.disk.os.path.lexists", lambda _: False)
    with pytest.raises(OutputError, match="absent"):
        disk.writable(Path("/absent/local_training"))


def test_what_goes_into_a_file_is_utf_8_whatever_the_console_speaks(tmp_path: Path, wanwrap: Wanwrap) -> None:
    done = wanwrap("status", tmp_path / ODD, PYTHONIOENCODING="cp1252")
    assert done.returncode == 11 and ODD in done.stderr
    shown = wanwrap("run", "t2v-vanilla", "sample", "--dry_run", "--base_dir", tmp_path / ODD, PYTHONIOENCODING="cp850")
    assert shown.returncode == 0 and str(tmp_path / ODD) in shown.stdout


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_a_preset_that_powershell_has_written(coding: str, tmp_path: Path, cli: Wanwrap) -> None:
    source = cli("show", "t2v-vanilla", "--source").stdout
    mine = tmp_path / "mine.py"
    mine.write_bytes((b"\xfe\xff" if coding == "utf-16-be" else b"") + source.encode(coding))
    assert load(str(mine)).train == load("t2v-vanilla").train and load(str(mine)).doc == load("t2v-vanilla").doc
    assert cli("show", mine, "--source").stdout == source
    mine.write_bytes(f"{source}\nassert __file__".encode("utf-16"))
    assert load(str(mine))
    mine.write_bytes("preset = 1 +".encode("utf-16"))
    with pytest.raises(PresetError, match="mine"):
        load(str(mine))


def test_a_preset_and_a_script_as_files(tmp_path: Path, cli: Wanwrap) -> None:
    mine, run = tmp_path / "mine.py", tmp_path / "run.ps1"
    assert cli("show", "t2v-vanilla", "--out", mine).returncode == 0 and load(str(mine))
    dry = ("run", "t2v-vanilla", "sample", "--dry_run")
    done = cli(*dry, "--shell", "powershell", "--out", run)
    assert done.returncode == 0 and run.read_bytes().startswith(b"\xef\xbb\xbf# wanwrap") and "Bypass" in done.stderr
    assert cli("show", "t2v-vanilla", "--script", "--out", tmp_path / "x").returncode == 7
    assert cli("show", "t2v-vanilla", "--out", run).returncode == cli(*dry, "--out", run).returncode == 11
    assert cli(*dry, "--out", tmp_path / "x", "--json").returncode == cli(*dry[:3], "--out", "x").returncode == 7
    assert cli(*dry, "--shell", "bash", "--out", tmp_path / "run.sh").returncode == 0
    assert (tmp_path / "run.sh").read_bytes().startswith(b"#!")


def test_powershell_goes_on_where_a_program_writes_to_stderr() -> None:
    """Windows PowerShell takes that for an error; what is its own still ends the script."""
    text = script(golden_plan("wan21-t2v-1.3b"), "powershell")
    before, _, steps = text.partition("& 'python'")
    assert before.rindex("'Stop'") < before.rindex("'Continue'") and "-ErrorAction Stop" in steps
    assert encoded(text, "powershell").decode("utf-8-sig") == text
    assert steps.count("$global:LASTEXITCODE = 1\n& ") == steps.count("\n& ")
    assert start(Path("my run.ps1"), "powershell").endswith('-File "my run.ps1"')
