"""What a real Windows alone can show: its PowerShells, consoles, jobs, files that one program has for itself, pipes.

What is the same elsewhere is run elsewhere too: with bash, with PowerShell 7 where it is, with paths of any length.
"""

from __future__ import annotations

import ctypes
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import Wanwrap, golden_plan
from platforms import WINDLL, in_bash, long_paths, pwsh, windows
from runs import NAME, WHOLE, alive, asleep, begin, ended, environment, folder, is_gone, loras, told, until

from wanwrap.plan.script import encoded, script, start
from wanwrap.system.shell import Shell

Words = tuple[object, ...]
NEW_CONSOLE = 0x10
ODD = "猫 Jürgen"
HOSTILE = [
    *("a b", "", 'say "hi"', "it's", '"', "$HOME $(1)", "a`nb", "‘x’ “y” ‚z‛", "%PATH%", ODD, "a;b|c&d>e", "@{}()#,"),
    *(
        "back\\",
        "a b\\",
        'a\\"b',
        '\\\\"',
        "C:\\a b\\c.safetensors",
        "tab\there",
        "tab\there\\",
        "--x",
        "-y:z",
        "--",
        "*?",
    ),
]
SHELLS = {"bash": in_bash, "powershell": windows, "pwsh": pwsh}
in_each = pytest.mark.parametrize("program", [pytest.param(name, marks=mark) for name, mark in SHELLS.items()])


def by_hand(program: str, file: Path, **how: Any) -> subprocess.CompletedProcess[bytes]:
    """A script, started as wanwrap says; PowerShell 7 as 5."""
    command = start(file, language(program))
    if program == "pwsh":
        command = command.replace("powershell", "pwsh", 1)
    argv = command if sys.platform == "win32" else shlex.split(command)
    return subprocess.run(argv, capture_output=True, **how)


def language(program: str) -> Shell:
    return "bash" if program == "bash" else "powershell"


@in_each
def test_what_is_given_arrives(program: str, tmp_path: Path) -> None:
    """Each word at a program's own command line, whatever is in it and in the script's own place."""
    (tmp_path / "echo.py").write_text("import json, sys\nopen('given', 'w').write(json.dumps(sys.argv[1:]))")
    place, shell = tmp_path / ODD / "it's", language(program)
    place.mkdir(parents=True)
    plan = golden_plan("wan21-t2v-14b")
    echo = (sys.executable, str(tmp_path / "echo.py"), *HOSTILE)
    train = replace(plan.trainings[0], folder=place / "dit", argv=echo)
    text = script(replace(plan, folder=place, files={}, steps=(train,)), shell)
    (place / "run.ps1").write_bytes(encoded(text, shell))
    done = by_hand(program, place / "run.ps1")
    assert json.loads((place / "given").read_text()) == HOSTILE, done
    assert done.returncode  # no LoRA has come of it


@in_each
def test_a_printed_run(program: str, tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """From its file, which `--out` has written: what `run` makes is there."""
    file = tmp_path / ODD / "my run.ps1"
    done = cli(*low, "--dry_run", "--shell", language(program), "--out", file)
    assert done.returncode == 0 and start(file, language(program)) in done.stderr, done.stderr
    ran = by_hand(program, file, env=environment(tmp_path), cwd=tmp_path)
    assert ran.returncode == 0, ran
    assert {*loras(tmp_path)} == {*WHOLE}


# Presses Ctrl-C (0) or Ctrl-Break (1) in its own console when there is a file, and ends as the command does. Who is
# started in a group of its own hears no Ctrl-C, nor do those below: the runner of a workflow may be.
PRESS = """
import ctypes, pathlib, subprocess, sys
key, file, *argv = sys.argv[1:]
kernel = ctypes.windll.kernel32
kernel.SetConsoleCtrlHandler(None, 0)
group = subprocess.CREATE_NEW_PROCESS_GROUP if key == "1" else 0
command = subprocess.Popen(argv, stdout=1, stderr=2, creationflags=group)
while command.poll() is None and not pathlib.Path(file).exists():
    try: command.wait(0.1)
    except subprocess.TimeoutExpired: pass
kernel.SetConsoleCtrlHandler(None, 1)
assert kernel.GenerateConsoleCtrlEvent(int(key), command.pid if group else 0)
sys.exit(command.wait(60))
"""


@windows
@pytest.mark.parametrize("key", ["0", "1"])
def test_ctrl_c_and_ctrl_break(key: str, tmp_path: Path, low: Words) -> None:
    """In a console of its own: nothing is left running, and the record says what has happened."""
    before = [sys.executable, "-c", PRESS, key, str(tmp_path / "asleep")]
    with begin(tmp_path, *low, before=before, flags=NEW_CONSOLE, STANDIN_DO="sleep") as process:
        text = ended(process, 130)
    assert told(tmp_path)["state"] == "interrupted", text
    until(lambda: not alive(tmp_path), 10)


@windows
def test_what_is_killed_takes_all_with_it(tmp_path: Path, low: Words) -> None:
    """By the job that holds them."""
    with begin(tmp_path, *low, STANDIN_DO="sleep") as process:
        trainer = asleep(tmp_path, process)
        process.kill()
        until(lambda: is_gone(trainer) and not alive(tmp_path), 10)


def held(paths: Sequence[Path], seconds: float) -> bool:
    """Open the first of these files for oneself alone for a while; whether there was one that could be."""
    create = WINDLL.kernel32.CreateFileW
    create.restype = ctypes.c_void_p
    for path in paths:
        handle = create(str(path), 0x80000000, 0, None, 3, 0, None)  # GENERIC_READ, shared with nobody, OPEN_EXISTING
        if handle != ctypes.c_void_p(-1).value:
            time.sleep(seconds)
            WINDLL.kernel32.CloseHandle(ctypes.c_void_p(handle))
            return True
    return False


@windows
def test_files_that_a_scanner_has_for_itself(tmp_path: Path, low: Words) -> None:
    """A LoRA, a state and the record."""
    with begin(tmp_path, *low, STANDIN_PACE="0.3") as process:
        for name in ("attempt-1/*-000002.safetensors", "attempt-1/*-state/optimizer.bin", "record.json"):
            until(lambda name=name: held([*(folder(tmp_path) / "low").glob(name)], 3))  # type: ignore[misc]
            assert process.poll() is None
        ended(process, 0)
    assert loras(tmp_path) == WHOLE and told(tmp_path)["state"] == "done"


@long_paths
def test_paths_of_more_than_260_characters(tmp_path: Path, cli: Wanwrap, low: Words) -> None:
    """The run's folder itself has fewer: Windows starts no program in a longer one."""
    base = tmp_path / ("w" * (240 - len(str(tmp_path / "outputs" / NAME)) - 1))
    done = cli(*low, "--base_dir", base)
    assert done.returncode == 0, done.stderr
    there = [path for path in (base / "outputs" / NAME).iterdir() if path.suffix == ".safetensors"]
    assert len(there) == len(WHOLE) and all(len(str(path)) > 260 for path in there)


def test_a_script_behind_a_redirection_is_utf_8(tmp_path: Path) -> None:
    """Whatever this system's own encoding is: no variable of Python's says otherwise."""
    words = f'"{sys.executable}" -m wanwrap run t2v-vanilla sample --dry_run --base_dir "{tmp_path / ODD}" > script'
    env = {name: value for name, value in environment(tmp_path).items() if not name.startswith("PYTHON")}
    env["PYTHONPATH"] = environment(tmp_path)["PYTHONPATH"]
    subprocess.run(words, shell=True, check=True, env=env, cwd=tmp_path)
    assert str(tmp_path / ODD) in (tmp_path / "script").read_text(encoding="utf-8")
