"""Windows' own consoles and shells: old consoles show the sequences that draw lines anew as text, unless they are told not to."""

from __future__ import annotations

import ctypes
import io
from types import SimpleNamespace
from typing import Any

import pytest

from wanwrap.cli import terminal
from wanwrap.cli.terminal import Terminal

VIRTUAL = 4  # ENABLE_VIRTUAL_TERMINAL_PROCESSING


class Console(io.StringIO):
    """What is written to stderr."""

    def isatty(self) -> bool:
        return True


class Kernel:
    """kernel32 with one console, in a `mode`, or none; an old one refuses to be told."""

    def __init__(self, mode: int | None, old: bool) -> None:
        self.mode, self.old = mode, old

    def GetStdHandle(self, number: int) -> int:
        return number

    def GetConsoleMode(self, console: int, mode: Any) -> bool:
        assert console == -12
        mode._obj.value = self.mode or 0
        return self.mode is not None

    def SetConsoleMode(self, console: int, mode: int) -> bool:
        assert console == -12
        if not self.old:
            self.mode = mode
        return not self.old


@pytest.mark.parametrize(
    ("mode", "old", "drawn", "after"),
    [
        (3, False, True, 3 | VIRTUAL),
        (3 | VIRTUAL, False, True, 3 | VIRTUAL),
        (3, True, False, 3),  # before Windows 10
        (None, False, False, None),  # stderr is NUL, which Windows calls a terminal
    ],
)
def test_lines_are_drawn_anew_where_a_console_can(
    mode: int | None, old: bool, drawn: bool, after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere they come once a minute, as into a file."""
    console, kernel, now = Console(), Kernel(mode, old), [1000.0]
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(platform="win32", stderr=console))
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    shown = Terminal()
    for now[0] in (1000.0, 1001.0, 1030.0, 1061.0):
        shown.show([f"at {now[0]:.0f}"])
    shown.show([])
    text = console.getvalue()
    assert ("\033[1A\033[J" in text) == drawn and ("at 1001" in text) == drawn and kernel.mode == after
    assert drawn or text == "at 1000\nat 1061\n"
