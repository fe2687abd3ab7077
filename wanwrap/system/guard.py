"""Whatever this process has started ends with it, however it goes: by a watchdog, on Windows by a job."""

from __future__ import annotations

import atexit
import struct
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

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


@cache
def end_children_with_this_process() -> None:
    """On Windows: a job holds this process and all that it starts, and ends them when this process has closed it."""
    if sys.platform == "win32":
        import ctypes

        kernel, handle = ctypes.windll.kernel32, ctypes.c_void_p
        kernel.CreateJobObjectW.restype = kernel.GetCurrentProcess.restype = handle
        limits = ctypes.create_string_buffer(144)  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION of 64 bits
        struct.pack_into("<I", limits, 16, 0x2000)  # LimitFlags: JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
        job = handle(kernel.CreateJobObjectW(None, None))
        kernel.SetInformationJobObject(job, 9, limits, len(limits))
        kernel.AssignProcessToJobObject(job, handle(kernel.GetCurrentProcess()))
