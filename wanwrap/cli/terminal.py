"""The user's terminal: a verb's result on stdout, all else on stderr, where what can't be shown stops nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from wanwrap.errors import OutputError
from wanwrap.system.console import Console
from wanwrap.system.files import atomic_file

OFTEN, SELDOM = 0.5, 60.0  # seconds between two drawings: on a terminal; into a file or a pipe


class Terminal(Console):
    """What all rooms tell. Lines that are shown are drawn anew in place; a bar is tqdm's."""

    _drawn, _when = 0, -1e9  # lines; when, in seconds

    def say(self, *texts: str) -> None:
        """Lines, above those that are shown."""
        self._wipe()
        _stderr.write("\n".join([*texts, ""]))

    def write(self, output: bytes) -> None:
        """What a child prints, its progress bar too."""
        with suppress(OSError, ValueError):
            sys.stderr.buffer.write(output)
            sys.stderr.buffer.flush()

    def show(self, lines: Sequence[str]) -> None:
        """Draw them, if it is time to; none wipes them away."""
        terminal = _draws()
        if not lines:
            self._wipe()
        elif time.monotonic() - self._when > (OFTEN if terminal else SELDOM):
            width = shutil.get_terminal_size().columns - 1 if terminal else None
            self._wipe()
            _stderr.write("".join(f"{line[:width]}\n" for line in lines))
            self._when, self._drawn = time.monotonic(), len(lines) if terminal else 0

    def _wipe(self) -> None:
        if self._drawn:
            _stderr.write(f"\r\033[{self._drawn}A\033[J")
            self._drawn, self._when = 0, -1e9

    @contextmanager
    def bar(self, what: str, total: int = 0, unit: str = "") -> Iterator[Callable[..., object]]:
        """A bar with rate and time left, which comes when there is something to wait for."""
        often = OFTEN / 2 if _stderr.isatty() else 5.0
        # the time goes on even where nothing gets done
        pace = {"miniters": 0, "mininterval": often, "leave": not _stderr.isatty(), "dynamic_ncols": True}
        # a download's rate is its latest; of things, of which one takes long, it is the mean
        form: dict[str, Any] = {"total": total or None, "unit": unit or "it", "unit_scale": bool(unit)}
        form["smoothing"] = 0.3 if unit else 0
        begun, done, drawn = time.monotonic(), 0, None

        def advance(more: int = 1) -> None:
            nonlocal done, drawn
            done += more
            if drawn is not None:
                drawn.update(more)
            elif time.monotonic() - begun > often:
                from tqdm import tqdm  # here, for most verbs need none

                drawn = tqdm(desc=what, initial=done, file=_stderr, **form, **pace)

        try:
            yield advance
        finally:
            if drawn is not None:
                drawn.close()


class _Stderr:
    """stderr for what must stop nothing: it may be full, gone, or a pipe that nobody reads."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()

    def flush(self) -> None:
        """It is done."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


_stderr = _Stderr()


def _draws() -> bool:
    """Whether stderr is a terminal on which lines can be drawn anew, which a console of Windows' must be told to allow."""
    if sys.platform == "win32":
        import ctypes

        kernel, mode = ctypes.windll.kernel32, ctypes.c_ulong()
        console = kernel.GetStdHandle(-12)  # stderr's; 4: ENABLE_VIRTUAL_TERMINAL_PROCESSING, of Windows 10 and later
        if not (kernel.GetConsoleMode(console, ctypes.byref(mode)) and kernel.SetConsoleMode(console, mode.value | 4)):
            return False
    return bool(_stderr.isatty())


def mend_streams() -> None:
    """The standard streams as all else takes them to be: there, and good for names of files that are no text."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  as long as the process lives
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            # into a file it is UTF-8, whatever the console speaks
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")


documents = list[object]()  # what has been shown as JSON


def show_json(document: object) -> None:
    """A verb's result for other programs: one document, in ASCII, whatever the terminal speaks; a path is a string."""
    documents.append(document)
    click.echo(json.dumps(document, indent=1, default=str))


def show_result(as_json: bool, document: Callable[[], object], lines: Iterable[str]) -> None:
    """A verb's result on stdout: the document, or for people its lines; of the two only the one that is wanted is made."""
    if as_json:
        show_json(document())
        return
    for line in lines:
        click.echo(line)


def show_text(text: str, out: Path | None, encode: Callable[[str], bytes] = str.encode) -> None:
    """A text on stdout, or in a new file. Raises OutputError: there is one already."""
    if out is None:
        click.echo(text, nl=False)
        return
    if os.path.lexists(out):
        raise OutputError(f"{out} is there already; give another name, or move it away.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as file:
        file.write(encode(text))
    click.echo(f"written: {out}")


def indented(line: str) -> str:
    """A line that a terminal breaks between words, further in than it begins; into a file or a pipe it stays one."""
    if not sys.stdout.isatty():
        return line
    begin = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line.strip(),
        shutil.get_terminal_size().columns,
        initial_indent=begin,
        subsequent_indent=f"{begin}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
