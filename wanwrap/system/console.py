"""What rooms below the command line tell their user while they work: words, bars, what a child prints.

Nothing is shown until the command line says how (`use`). This is the one way to say things: no room prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class Console:
    """Shows nothing; the command line's own shows all of it on stderr."""

    def say(self, *texts: str) -> None:
        """Lines, if any."""

    def write(self, output: bytes) -> None:
        """What a child prints, as it comes."""

    def show(self, lines: Sequence[str]) -> None:
        """Lines that take the place of those shown before; none take them away."""

    @contextmanager
    def bar(self, what: str, total: int = 0, unit: str = "") -> Iterator[Callable[..., object]]:  # noqa: ARG002  nobody looks
        """A bar over `total` things, or bytes where `unit` is "B"; 0 where nobody knows how many there are.

        What it yields is called with how much more is done (1 by default).
        """
        yield bool


_silent = Console()
say, write, show, bar = _silent.say, _silent.write, _silent.show, _silent.bar


def use(console: Console) -> None:
    """Have this one told from now on."""
    global say, write, show, bar
    say, write, show, bar = console.say, console.write, console.show, console.bar
