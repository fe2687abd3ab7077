"""The sha256 of weight files, each computed once: kept in the user's cache by path, size and mtime."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from wanwrap.errors import OutputError
from wanwrap.source import sha256, stat
from wanwrap.whole import whole

SMALL = 1_300_000_000  # bytes up to which nobody waits for it, a second from an SSD: VAEs and Lightning's LoRAs
Bar = Callable[[str, int], Callable[[int], object]]  # what, bytes in all -> what is told how many are done


def kept(path: Path) -> str | None:
    """What was computed before, if the file is as it was."""
    with suppress(OSError, UnicodeDecodeError):
        return _entry(path).read_text().strip() or None
    return None


def keep(path: Path, mark: str) -> str:
    """Remember it. A cache that can't be written costs time, and nothing else."""
    with suppress(OSError, OutputError):
        entry = _entry(path)
        entry.parent.mkdir(parents=True, exist_ok=True)
        with whole(entry) as file:
            file.write(mark.encode())
    return mark


def quick(path: Path) -> str | None:
    """What is kept, or of a small file computed."""
    return kept(path) or (keep(path, sha256(path)) if path.stat().st_size < SMALL else None)


def thorough(bar: Bar) -> Callable[[Path], str]:
    """What is kept, else computed, with a bar where that takes long."""

    def compute(path: Path) -> str:
        if mark := quick(path):
            return mark
        before = stat(path)
        mark = sha256(path, bar(f"sha256 of {path.name}", before[0]))
        return keep(path, mark) if stat(path) == before else mark

    return compute


def _entry(path: Path) -> Path:
    import hashlib

    from platformdirs import user_cache_path

    name = hashlib.sha256("\0".join(map(str, (path.resolve(), *stat(path)))).encode()).hexdigest()
    return user_cache_path("wanwrap") / "sha256" / name
