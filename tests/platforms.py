"""What is not run on Windows or on macOS, and why: a mark for each thing that a system lacks. No other place decides.

`pytest -ra` lists with these reasons what was skipped.

| mark | Windows | macOS |
| --- | --- | --- |
| `windows` | runs | not run |
| `signals`, `limits`, `terminals`, `pipes`, `flock`, `scripts`, `in_bash`, `posix_paths` | not run | runs |
| `driven` | not run | where the machine has it |
| `linux`, `odd_names`, `full_disk` | not run | not run |
| `symlinks`, `permissions`, `long_paths`, `pwsh`, `in_browser`, `shellcheck`, `mini_slurm` | where the user or the machine has them | the same |
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

WINDOWS = sys.platform == "win32"
posix: Any = os  # for names of its that Windows has not, which mypy would ask for
WINDLL: Any = vars(ctypes).get("windll")  # which Windows alone has
KILLED = "exit status" if WINDOWS else "SIGKILL"  # how a child that was killed is told of
QUOTE = "" if WINDOWS else '"'  # no name may hold one there
STAR = "" if WINDOWS else "*"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


def _needs(there: object, reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not there, reason=reason)


def _links() -> bool:
    """Whether this user may make symbolic links: on Windows an administrator may, and a developer."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            Path(folder, "link").symlink_to("nowhere")
        except OSError:
            return False
    return True


def _may_read_all() -> bool:
    return not WINDOWS and bool(posix.geteuid() == 0)


def _long_paths() -> bool:
    """Whether files may have paths over 260 characters."""
    return WINDLL is None or bool(WINDLL.ntdll.RtlAreLongPathsEnabled() & 255)


windows = _needs(WINDOWS, "Windows' own consoles, jobs, PowerShell 5.1 and files that are opened for oneself alone")

signals = _needs(not WINDOWS, "Windows sends no signals; test_real_windows.py has Ctrl-C, Ctrl-Break and a kill")
limits = _needs(not WINDOWS, "Windows limits the size of nobody's files")
terminals = _needs(not WINDOWS, "Python opens no pseudo-terminals on Windows")
pipes = _needs(not WINDOWS, "Windows calls writing to a pipe without a reader an invalid argument")
flock = _needs(not WINDOWS, "Windows locks otherwise, and on every drive")
scripts = _needs(not WINDOWS, "the stand-ins are scripts with a #! line, and Windows starts none")
in_bash = _needs(not WINDOWS and shutil.which("bash"), "scripts are for PowerShell on Windows, and its bash takes no Windows paths")  # fmt: skip
posix_paths = _needs(not WINDOWS, "paths begin with a drive there, and commands are quoted for PowerShell; what is compared is of POSIX")  # fmt: skip

linux = _needs(sys.platform == "linux", "mounts, /proc, /bin/false and capabilities are Linux'")
odd_names = _needs(sys.platform == "linux", "names of files are always text on Windows and macOS")
full_disk = _needs(Path("/dev/full").exists(), "Linux alone has /dev/full, a disk that is always full")

symlinks = _needs(_links(), "this user may make no symbolic links (Windows: developer mode is off)")
permissions = _needs(not WINDOWS and not _may_read_all(), "root may read everything, and Windows' folders have no such modes")  # fmt: skip
pwsh = _needs(shutil.which("pwsh"), "needs PowerShell 7 on PATH")
long_paths = _needs(_long_paths(), "LongPathsEnabled is not set in this Windows' registry")
in_browser = _needs(BROWSER, "needs Chromium or Chrome on PATH")
driven = _needs(
    BROWSER and not WINDOWS, "needs Chromium or Chrome on PATH, and hands it pipes by numbers, as POSIX does"
)
shellcheck = _needs(shutil.which("shellcheck"), "needs shellcheck on PATH")
mini_slurm = _needs(
    all(map(shutil.which, ("sbatch", "slurmctld", "slurmd", "munged"))) and _may_read_all(),
    "needs root and a Slurm to start: Debian's slurm-wlm and munge",
)
