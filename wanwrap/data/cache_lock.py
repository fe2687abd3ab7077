"""Who may touch a cache: one process alone changes it, several train from it at once.

Only who holds the lock of a cache looks at it, changes it or begins to train from it. Who trains from it holds a file
of its own there as long as it trains, so that the next one to change it knows; no lock that is shared is needed, which
Windows has none of.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from wanwrap.errors import OutputError
from wanwrap.system import console
from wanwrap.system.files import LOCK, is_locked, lock
from wanwrap.system.process import check_interrupted

READERS = ".wanwrap-readers"
POLL = 0.5  # seconds


@contextmanager
def changing(caches: Sequence[Path], meanwhile: Callable[[], object] = check_interrupted) -> Iterator[None]:
    """Nobody else looks at or changes these caches meanwhile; waits for who does, and says so."""
    with ExitStack() as locks:
        for cache in _real(caches):
            cache.mkdir(parents=True, exist_ok=True)
            locks.enter_context(in_turn(cache / ".wanwrap-cache", f"is caching in {cache}", meanwhile))
        yield


@contextmanager
def in_turn(place: Path, what: str, meanwhile: Callable[[], object]) -> Iterator[None]:
    """Hold a lock; while another process does, say what it does and wait. `meanwhile` may raise, which ends the wait."""
    told = False
    with ExitStack() as held:
        while True:
            with suppress(OutputError):
                if not held.enter_context(lock(place, "")):
                    console.say(f"note: the drive of {place.parent} has no locks: start no two runs there at once.")
                break
            if not told:
                console.say(f"waiting: another wanwrap {what} (Ctrl-C ends the wait)")
            told = True
            time.sleep(POLL)
            meanwhile()
        yield


@contextmanager
def reading(caches: Sequence[Path], who: str) -> Iterator[None]:
    """Train from these caches. To be entered while `changing` them."""
    name = f"{re.sub('[^A-Za-z0-9_.-]+', '_', who)}-{os.getpid()}-{os.urandom(4).hex()}"
    with ExitStack() as locks:
        for cache in _real(caches):
            (cache / READERS).mkdir(parents=True, exist_ok=True)
            locks.enter_context(lock(cache / READERS / name, f"{cache} is in use"))
        yield


def check_unused(caches: Sequence[Path]) -> None:
    """Raises OutputError: somebody trains from one of these caches, of which files would go. While `changing` them."""
    for cache in _real(caches):
        there = [*(cache / READERS).iterdir()] if (cache / READERS).is_dir() else []
        for path in there:
            if is_locked(path.with_name(path.name.removesuffix(LOCK))):
                who = path.name.rsplit("-", 2)[0]
                raise OutputError(
                    f"{who} trains from {cache}, and this run would change what lies there; wait until it has ended, or "
                    "train on a copy of the data set."
                )
            with suppress(OSError):
                path.unlink()  # a kill has left it


def _real(caches: Sequence[Path]) -> list[Path]:
    """Each folder once, in one order for all: a user's own TOML may spell it in several ways."""
    return sorted({Path(os.path.realpath(cache)) for cache in caches})
