"""What wanwrap has started ends with it. That the watchdog does it is shown by the tests of runs; Windows is simulated."""

from __future__ import annotations

import ctypes
import io
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wanwrap.system import guard


class Call:
    """A function of a DLL, which notes how it is called."""

    def __init__(self, calls: list[tuple[Any, ...]], name: str, result: int) -> None:
        self.calls, self.name, self.result, self.restype = calls, name, result, None

    def __call__(self, *arguments: Any) -> int:
        self.calls.append((self.name, *arguments))
        return self.result


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[list[tuple[Any, ...]]]:
    """Windows' kernel32 as far as it is called here; a parameter is what AssignProcessToJobObject gives."""
    calls, results = list[tuple[Any, ...]](), {"CreateJobObjectW": 7, "GetCurrentProcess": 2**64 - 1}
    results |= {"SetInformationJobObject": 1, "AssignProcessToJobObject": getattr(request, "param", 1)}
    names = {name: Call(calls, name, result) for name, result in results.items()}
    monkeypatch.setattr(ctypes, "WinDLL", {"kernel32": SimpleNamespace(**names)}.get, raising=False)
    guard._join_job.cache_clear()
    yield calls
    guard._join_job.cache_clear()


def test_windows_ends_all_with_a_job(kernel: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, before anything is started, and so that its last handle ends them."""
    started = list[tuple[list[str], int]]()

    def popen(argv: list[str], **_: object) -> SimpleNamespace:
        started.append((argv, len(kernel)))
        return SimpleNamespace(stdin=io.BytesIO())

    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.setattr(subprocess, "Popen", popen)
        guard.start(["python"], Path.cwd(), {})
        guard.start(["python"], Path.cwd(), {})
    assert started == [(["python"], 4)] * 2
    limits = next(call for call in kernel if call[0] == "SetInformationJobObject")
    assert (limits[1].value, limits[2], limits[4]) == (7, 9, 144)
    assert struct.unpack_from("<I", limits[3], 16) == (0x2000,)
    joined = next(call for call in kernel if call[0] == "AssignProcessToJobObject")
    assert (joined[1].value, joined[2].value) == (7, 2**64 - 1)


@pytest.mark.parametrize("kernel", [0], indirect=True)
def test_a_job_that_windows_refuses_is_told(kernel: list[tuple[Any, ...]], said: list[str]) -> None:
    guard._join_job()
    assert kernel and "Task Manager" in said[0]
