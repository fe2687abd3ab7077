"""What goes to the terminal beside a verb's result: words, counters, bars, upstream's own output. All on stderr."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import click


def say(text: str) -> None:
    """Everything that is not the result goes to stderr; a terminal that is gone stops no training."""
    for each in _boards:
        each.clear()
    with suppress(OSError, ValueError, AttributeError):
        click.echo(text, err=True)


def make_whole() -> None:
    """The standard streams as all else takes them to be: there, and good for names of files that are no text."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  as long as the process lives
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_documents = list[object]()


def show_json(content: object, indent: int | None = 1) -> None:
    """A verb's result for other programs: one document, in ASCII, whatever the terminal speaks."""
    _documents.append(content)
    click.echo(json.dumps(content, indent=indent))


def shown() -> bool:
    """Whether there has been a result."""
    return bool(_documents)


class _Stream:
    """stderr for what must stop nothing: it may be closed, full, or a pipe that nobody reads."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        return bool(sys.stderr) and not sys.stderr.closed and sys.stderr.isatty()

    def fileno(self) -> int:
        return sys.stderr.fileno()

    @property
    def encoding(self) -> str | None:
        return getattr(sys.stderr, "encoding", None)


def hanging(head: str, text: str, more: int = 0) -> str:
    """A line that a terminal breaks below its own text, `more` to the right; into a file or a pipe it stays one."""
    if not sys.stdout.isatty():
        return head + text
    import textwrap

    width = max(shutil.get_terminal_size().columns, len(head) + 20)
    indent = " " * (len(head) + more)
    return textwrap.fill(
        text, width, initial_indent=head, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def indented(line: str) -> str:
    """The same for a line whose head is its indentation."""
    begin = len(line) - len(line.lstrip())
    return hanging(line[:begin], line[begin:], more=4)


def screen(chunk: bytes) -> None:
    """Upstream's output as it comes, its progress bar too."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()


@contextmanager
def counted(what: str) -> Iterator[Callable[[], None]]:
    """A counter on a terminal; the number of files is known only when all folders have been read."""
    stream, count = _Stream(), 0

    def done() -> None:
        nonlocal count
        count += 1
        if stream.isatty():
            stream.write(f"\r{what} {count}")
            stream.flush()

    try:
        yield done
    finally:
        if count and stream.isatty():
            stream.write("\r\033[K")
            stream.flush()


class _Board:
    """Lines that are drawn anew in place, twice a second; into a file or a pipe as they stand every minute."""

    def __init__(self) -> None:
        self._stream, self._drawn, self._when = _Stream(), 0, -1e9

    def show(self, lines: Sequence[str]) -> None:
        """Draw them, if it is time to; none wipes them away."""
        terminal = self._stream.isatty()
        if not lines:
            self.clear()
        elif time.monotonic() - self._when > (0.5 if terminal else 60.0):
            width = shutil.get_terminal_size().columns - 1 if terminal else None
            self.clear()
            self._stream.write("".join(f"{line[:width]}\n" for line in lines))
            self._stream.flush()
            self._when, self._drawn = time.monotonic(), len(lines) if terminal else 0

    def clear(self) -> None:
        """Make room for other words."""
        if self._drawn:
            self._stream.write(f"\r\033[{self._drawn}A\033[J")
            self._stream.flush()
            self._drawn, self._when = 0, -1e9


_boards = list[_Board]()


@contextmanager
def board() -> Iterator[Callable[[Sequence[str]], None]]:
    """A board, below what is said meanwhile."""
    _boards.append(one := _Board())
    try:
        yield one.show
    finally:
        one.clear()
        _boards.remove(one)


@contextmanager
def renewed() -> Iterator[Callable[[str], None]]:
    """A line that takes the place of the one before; into a file or a pipe each one that is new goes below."""
    stream, last = _Stream(), ""

    def show(line: str) -> None:
        nonlocal last
        if stream.isatty():
            stream.write(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}")
            stream.flush()
        elif line != last:
            say(line)
        last = line

    try:
        yield show
    finally:
        if last and stream.isatty():
            stream.write("\r\033[K")
            stream.flush()


@contextmanager
def _closing() -> Iterator[tuple[list[Any], Callable[..., Any]]]:
    """Bars, made by the second, that end with the block; into a file or a pipe they say a state every few seconds."""
    shown = list[Any]()

    def new(what: str, total: int, *, late: bool = False, **form: Any) -> Any:
        from tqdm import tqdm  # here, for most verbs need none

        stream = _Stream()
        often, terminal = (0.2, True) if stream.isatty() else (5.0, False)
        pace = {"mininterval": often, "maxinterval": often, "delay": often * late, "leave": not terminal}
        shown.append(tqdm(desc=what, total=total, file=stream, dynamic_ncols=True, **pace, **form))
        return shown[-1]

    try:
        yield shown, new
    finally:
        for each in shown:
            each.close()


@contextmanager
def bars() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Bars over bytes, one after the other, with GB/s and the time left."""
    with _closing() as (shown, new):

        def begin(what: str, total: int) -> Callable[[int], None]:
            for each in shown:
                each.close()
            one = new(what, total, unit="B", unit_scale=True)

            def update(done: int) -> None:
                one.update(done - one.n)
                if done >= total:
                    one.close()  # what is asked or told next must not be drawn over

            return update

        yield begin


@contextmanager
def steps(what: str) -> Iterator[Callable[[int], Callable[..., object]]]:
    """A bar that counts items, with the time left; what is begun later is added to it, none done only redraws it."""
    with _closing() as (shown, new):

        def done(count: int = 1) -> None:
            if count:
                shown[0].update(count)
            elif _Stream().isatty():
                shown[0].refresh()  # the time goes on, even where nothing gets done

        def begin(total: int) -> Callable[..., object]:
            if shown:
                shown[0].total += total
            else:
                form = "{desc} {n_fmt} of {total_fmt} [{elapsed}<{remaining}] |{bar}|"
                new(what, total, late=True, bar_format=form)
            return done

        yield begin


@contextmanager
def bar(what: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """One of them."""
    with bars() as begin:
        yield partial(begin, what)
