"""On Windows and macOS, too: what the tests need of a system, and what checks them there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from helpers import ROOT

TESTS = ROOT / "tests"
# Other packages come first: they have their own ways on each system.
AS_WINDOWS = """
import os, signal, sys
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_collection():
    import asyncio, av, multiprocessing.synchronize, PIL.Image, safetensors.torch, hypothesis.strategies
    for name in "fcntl grp pty pwd resource termios tty".split():
        sys.modules[name] = None
    for name in "SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1".split():
        vars(signal).pop(name, None)
    for name in "fork geteuid getpgid getuid killpg mkfifo openpty set_blocking setsid sync ttyname uname".split():
        vars(os).pop(name, None)
    sys.platform = "win32"
"""


def test_all_tests_are_found_where_windows_is(tmp_path: Path) -> None:
    """Without what it has not: a module that asks for it when it is imported ends the run."""
    (tmp_path / "as_windows.py").write_text(AS_WINDOWS)
    options = "-p as_windows -p no:cacheprovider --assert=plain --collect-only -qq"
    argv = [sys.executable, "-m", "pytest", *options.split(), str(TESTS)]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "test_real_windows.py" in done.stdout


def test_what_is_skipped_for_a_system_is_listed_in_one_place() -> None:
    bare = re.compile(r"(skip\w*|xfail)\(.*(os\.name|sys\.platform|/dev/|geteuid)")
    there = {path.name for path in TESTS.rglob("*.py") if bare.search(path.read_text(encoding="utf-8"))}
    assert there <= {"platforms.py", Path(__file__).name}


def test_the_workflow_runs_the_readmes_checks_on_all_three() -> None:
    """As the README's command has them, on Python 3.10 too, and without UTF-8 as the default."""
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    workflow: dict[str, Any] = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    matrix = job["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    assert "3.10" in matrix["python"] and "PYTHONUTF8" not in text
    (command,) = (line for line in (ROOT / ".ci" / "run").read_text().splitlines() if " install -e " in line)
    checks = [part.removeprefix(".venv/bin/") for part in command.split(" && ")[2:]]
    runs = [step.get("run", "") for step in job["steps"]]
    assert len(checks) > 5 and [check for check in checks if check not in runs] == []
