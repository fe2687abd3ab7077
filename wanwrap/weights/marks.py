"""The sha256 of weight files, each computed once: kept in the user's cache by path, size and mtime."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from wanwrap.system import console
from wanwrap.system.safetensors import sha256, stat

SMALL = 1_300_000_000  # bytes up to which nobody waits for it, a second from an SSD: VAEs and Lightning's LoRAs


def keep(path: Path, mark: str) -> str:
    """Remember it. A cache that can't be written costs time, and nothing else; half a mark is none, as its length tells."""
    with suppress(OSError):
        entry = _entry(path)
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.write_text(mark)
    return mark


def known(path: Path) -> str | None:
    """What was computed before, if the file is as it was."""
    with suppress(OSError, UnicodeDecodeError):
        mark = _entry(path).read_text()
        if re.fullmatch("[0-9a-f]{64}", mark):
            return mark
    return None


def quick(path: Path) -> str | None:
    """The same; of a small file it is computed."""
    return known(path) or (_compute(path) if path.stat().st_size < SMALL else None)


def thorough(path: Path) -> str:
    """The same; of a large file it is computed too."""
    return quick(path) or _compute(path)


def _compute(path: Path) -> str:
    """Kept, if nobody has written the file meanwhile."""
    before = stat(path)
    with console.bar(f"sha256 of {path.name}", before[0], "B") as done:
        mark = sha256(path, done)
    return keep(path, mark) if stat(path) == before else mark


def _entry(path: Path) -> Path:
    """Where it is kept. By inode and ctime a file is told from what has taken its place with its time and size."""
    import hashlib

    from platformdirs import user_cache_path

    info = path.stat()
    words = (os.path.realpath(path), info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
    name = hashlib.sha256(b"\0".join(os.fsencode(str(word)) for word in words)).hexdigest()
    return user_cache_path("wanwrap") / "sha256" / name
