"""Whatever this process has started ends with it, however it goes: by a watchdog, on Windows by a job."""

from __future__ import annotations

import atexit
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from wanwrap.system import console

BARE = (sys.executable, "-I", "-S")  # Python without what takes time to start
BECOME = """\
import os, signal, sys
if os.read(0, 1):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
"""
GATE = (*BARE, "-c", BECOME)  # becomes the command after it when it gets a line: the watchdog knows of it by then


class Watchdog:
    """The process that ends all groups when this one is gone (watchdog.py). Another follows one that was killed."""

    def __init__(self) -> None:
        self._groups = set[int]()
        self._process: subprocess.Popen[bytes] | None = None

    def join(self, group: int) -> None:
        """A group has begun."""
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def leave(self, group: int) -> None:
        """A group has ended."""
        if group in self._groups:
            self._groups.remove(group)
            self._tell(f"-{group}\n")

    def look(self) -> None:
        """See that it is awake, if there is anything to watch."""
        if self._groups:
            self._tell("")

    def _tell(self, line: str) -> None:
        if self._process is None:
            atexit.register(self._end)
        if self._process is None or self._process.poll() is not None:
            argv, quiet = [*BARE, str(Path(__file__).with_name("watchdog.py"))], subprocess.DEVNULL
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(argv, stdin=pipe, stdout=quiet, stderr=quiet, start_new_session=True)
            line = "".join(f"+{group}\n" for group in self._groups)
        assert self._process.stdin
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:  # just killed
            self._end()
            self._tell("")

    def _end(self) -> None:
        assert self._process and self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


WATCHDOG = Watchdog()


def start(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A program that prints to one pipe and reads nothing, in a group of its own; it ends when this process is gone."""
    windows = sys.platform == "win32"
    if windows:
        _join_job()
    process = subprocess.Popen(
        [*(() if windows else GATE), *argv],
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a group of its own, by which all of it is found, whichever dies first
    )
    assert process.stdin
    with suppress(BrokenPipeError), process.stdin as gate:  # somebody has killed it at once
        if not windows:
            WATCHDOG.join(process.pid)
            gate.write(b"\n")
    return process


@cache
def _join_job() -> None:
    """On Windows: a job holds this process and all that it starts, and ends them when this process has closed it."""
    import ctypes

    kernel, handle = ctypes.WinDLL("kernel32"), ctypes.c_void_p  # type: ignore[attr-defined,unused-ignore]
    kernel.CreateJobObjectW.restype = kernel.GetCurrentProcess.restype = handle
    limits = ctypes.create_string_buffer(144)  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION of 64 bits
    struct.pack_into("<I", limits, 16, 0x2000)  # LimitFlags: JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
    job = handle(kernel.CreateJobObjectW(None, None))
    set_up = kernel.SetInformationJobObject(job, 9, limits, len(limits))
    if not (set_up and kernel.AssignProcessToJobObject(job, handle(kernel.GetCurrentProcess()))):
        console.say(
            "note: Windows gave no job: if wanwrap is ended by force, end what it has started in the Task Manager."
        )
