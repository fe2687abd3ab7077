"""What comes over a run from outside: drives that are full or read-only, terminals that close, clocks that jump."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from platforms import posix
from runs import until


@contextmanager
def small_drive(place: Path) -> Iterator[None]:
    """A drive of its own at that place, with as much room as `leave` leaves; making one takes root."""
    place.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20g", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no drive can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def leave(drive: Path, free: int) -> None:
    """Have so many bytes free; 0: not one."""
    while True:  # files grow and go
        size = shutil.disk_usage(drive).used + free
        done = subprocess.run(["mount", "-o", f"remount,size={size}", str(drive)], capture_output=True)
        if done.returncode == 0 and (free or not shutil.disk_usage(drive).free):
            return


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """As a drive is that the system has found errors on. What is open for writing stays so."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    remount = ["mount", "-o", "remount,bind,ro", str(folder)]
    until(lambda: not subprocess.run(remount, capture_output=True).returncode, 20)  # something was just being written
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def file_limit(size: int) -> Callable[[], None]:
    """What a child does before it begins, so that no file of its becomes larger."""
    resource: Any = importlib.import_module("resource")
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def closed(terminal: int, process: subprocess.Popen[Any], due: Callable[[], bool]) -> bytes:
    """What was on a terminal until it was closed, as soon as that is due."""
    seen = b""
    posix.set_blocking(terminal, False)
    try:
        while not due():
            assert process.poll() is None, seen.decode()
            with suppress(BlockingIOError):
                seen += os.read(terminal, 65536)
            time.sleep(0.05)
    finally:
        os.close(terminal)
    return seen


def from_the_future(folder: Path) -> None:
    """As what a run has written is when the clock has been set back."""
    for path in folder.rglob("record.json"):
        path.write_text(re.sub(r'"20(\d\d-\d\d-)', r'"21\1', path.read_text()))
    for path in folder.rglob("*"):
        os.utime(path, (3_000_000_000, 3_000_000_000))
