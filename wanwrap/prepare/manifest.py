"""What earlier runs of `prepare` have made in a data set, on disk, so that the next one does only what is new."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wanwrap.errors import OutputError
from wanwrap.system.files import write_atomic

NAME = ".wanwrap-prepare.json"
FOLDERS = ("images", "videos")
OURS = re.compile(r"(images|videos)/[^/\\]+")
OFTEN = 5  # seconds between two writes; the file grows with the data set


@dataclass(kw_only=True)
class Entry:
    """A source: what it was when its outputs were made of it, and how."""

    folder: str  # the FOLDER it was found in
    source: str  # in that folder
    name: str  # the outputs' stem
    size: int = -1  # bytes
    mtime_ns: int = -1
    settings: dict[str, Any] = field(default_factory=dict)
    outputs: list[str] | None = None  # in the data set; None until they are there
    seconds: float = 0.0  # of clips
    fps: float = 0.0
    caption: str | None = None  # the sha256 of what was written
    reason: str = ""  # why there are no outputs
    pending: bool = False  # it is being made anew: what is there under its name is its own


class Prepared:
    """The manifest of one data set: entries by the whole path of the source."""

    def __init__(self, out: Path) -> None:
        """Read it. Raises OutputError: it is there and can't be understood."""
        self.path, self._written = out / NAME, 0.0
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))["sources"] if self.path.exists() else {}
            self.entries = {key: Entry(**row) for key, row in rows.items()}
            if not all(OURS.fullmatch(name) for entry in self.entries.values() for name in entry.outputs or ()):
                raise ValueError("it names files elsewhere")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{self.path} can't be read ({error}); remove it, or give another --out.") from error

    def write(self, *, now: bool = False) -> None:
        """Put it on the disk, now and then or at once."""
        if now or time.monotonic() - self._written > OFTEN:
            rows = {key: asdict(entry) for key, entry in self.entries.items()}
            write_atomic(self.path, json.dumps({"version": 1, "sources": rows}, indent=1) + "\n")
            self._written = time.monotonic()

    def adopt(self, folder: Path, new: Mapping[str, tuple[str, int, int]]) -> None:
        """Sources that were made ready where they lay before: what has been moved, with its folder or alone, is not new.

        `new` are (name in `folder`, bytes, mtime_ns) by the whole path. Only where one old and one new are alike.
        """
        for named in (str, lambda name: Path(name).name):
            old, now = defaultdict[Any, list[str]](list), defaultdict[Any, list[str]](list)
            for key, entry in self.entries.items():
                if key not in new and not Path(key).exists():
                    old[named(entry.source), entry.size, entry.mtime_ns].append(key)
            for key, (name, size, mtime_ns) in new.items():
                if key not in self.entries:
                    now[named(name), size, mtime_ns].append(key)
            for mark, keys in now.items():
                if len(keys) == len(old[mark]) == 1:
                    entry = self.entries.pop(old[mark][0])
                    self.entries[keys[0]] = replace(entry, folder=str(folder), source=new[keys[0]][0])

    def stems(self, out: Path) -> set[str]:
        """Names in use: of entries, and of all files that lie in the data set."""
        there = (path for folder in FOLDERS if (out / folder).is_dir() for path in (out / folder).iterdir())
        return {entry.name for entry in self.entries.values()} | {path.stem for path in there}

    def gone(self, folder: Path, found: set[str]) -> list[Entry]:
        """Entries of this folder whose sources are no longer there."""
        inside = [(key, entry) for key, entry in self.entries.items() if entry.folder == str(folder)]
        return [entry for key, entry in inside if key not in found and entry.outputs]
