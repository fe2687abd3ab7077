"""What steps print, kept as lines."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from wanwrap.system import console
from wanwrap.system.failures import DIED
from wanwrap.system.files import opened
from wanwrap.system.process import Command, Listener, run
from wanwrap.system.shell import joined

RECENT = 200  # lines: a traceback, and accelerate's own below it


class Log:
    """A log: of a progress bar, drawn many times a minute, the last state is kept. A full disk stops nothing.

    The file has no buffer: what could not be written is given up, and not tried again when it is closed.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._rest = file, b""
        self._recent = deque[bytes](maxlen=RECENT)  # the disk may not take them, and they tell why a step failed

    def write(self, chunk: bytes) -> None:
        """Keep the lines that are whole."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._recent.append(_last_state(line) + b"\n")
            with suppress(OSError):
                self._file.write(self._recent[-1])
        self._rest = self._rest[-2000:]  # a bar that is drawn all night without a new line

    @property
    def newest(self) -> str:
        """The line that was printed last, or is being drawn."""
        line = _last_state(self._rest) or (self._recent[-1] if self._recent else b"")
        return line.decode("utf-8", "replace").strip()

    def end(self) -> str:
        """Keep what came last: the last lines of the step."""
        self.write(b"\n" if self._rest else b"")
        return last_lines(b"".join(self._recent))


class JsonLines:
    """Listens to a child that says things in JSON, an object a line; what else it prints is kept, line by line."""

    def __init__(self, hear: Callable[[dict[str, Any]], object]) -> None:
        self.printed, self._hear, self._rest = list[str](), hear, b""

    def __call__(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b'{"'):
                self._hear(json.loads(line))
            else:
                self.printed.append(line.decode("utf-8", "replace"))


def run_logged(
    name: str,
    command: Command,
    path: Path,
    meanwhile: Callable[[], object] = bool,
    listen: Listener | None = None,
) -> tuple[int, str]:
    """Run a command, with what it prints in a log: its exit status, and the last lines.

    What it prints goes to `listen` as well, else the newest line to the screen. `meanwhile` is called each second,
    and may raise, which ends the command.

    Raises:
        StepError: it can't be started.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the command has ended.
    """
    with opened(path, "ab", buffering=0) as file:
        log = Log(file)
        with suppress(OSError):
            file.write(f"\n{name}\n+ {joined(command.argv)}\n".encode("utf-8", "surrogateescape"))

        def write(chunk: bytes) -> None:
            log.write(chunk)
            if listen:
                listen(chunk)
            else:
                console.show([f"  {log.newest}"])

        try:
            status = run(command, write, meanwhile)
        finally:
            console.show([])
            tail = log.end()
    return status, tail


def _last_state(line: bytes) -> bytes:
    """A line as it stood on the screen at the end."""
    return next((state for state in reversed(line.split(b"\r")) if state.strip()), b"")


def last_lines(output: bytes, most: int = 15) -> str:
    """The end of a step's output, without the traceback that accelerate adds to its child's."""
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", output.decode("utf-8", "replace")) if line.strip()]
    launcher = next((i for i, line in enumerate(lines) if re.search(r"File .*accelerate.commands.launch", line)), 0)
    traceback = max((i for i in range(launcher) if "Traceback (most recent call last)" in lines[i]), default=len(lines))
    died = [f"... {found[0]}" for line in lines[traceback:] if (found := DIED.search(line))]
    return "\n".join([*lines[:traceback], *died][-most:])
