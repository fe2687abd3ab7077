"""What was made of each source, a row each, on disk in the data set, so that the next run does only what is new."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from wanwrap.errors import OutputError
from wanwrap.system.files import write_atomic

NAME = ".wanwrap-prepare.json"
FOLDERS = ("images", "videos")
OURS = re.compile(r"(images|videos)/[^/\\]+")
RECIPE = "1"  # another number when clips come out otherwise
OFTEN = 5  # seconds between two writes; the file grows with the data set
TOLD = ("action", "remark", "there", "notes", "captioned")  # of this run, and not kept

Action = Literal["copied", "converted", "cut", "unchanged", "left out", "failed"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the user asked for: `area` in pixels, lengths in seconds."""

    keep_fps: bool = False
    area: int = 1920 * 1080
    max_seconds: Fraction = Fraction(5)
    min_seconds: Fraction = Fraction(7, 5)
    scenes: bool = False
    background: str = "#ffffff"

    def settings(self) -> dict[str, str]:
        """As rows keep them."""
        return {**{name: str(value) for name, value in vars(self).items()}, "recipe": RECIPE}


@dataclass(kw_only=True)
class Made:
    """A source: what it was when its outputs were made of it, and how; then what this run has to tell."""

    folder: str  # the folder it was found in
    source: str  # in that folder
    name: str = ""  # the outputs' stem
    size: int = -1  # bytes
    mtime_ns: int = -1
    settings: dict[str, Any] = field(default_factory=dict)
    outputs: list[str] | None = None  # in the data set; None until they are there
    seconds: float = 0.0  # of clips
    fps: float = 0.0
    caption: str | None = None  # the sha256 of what was written
    reason: str = ""  # why it came out so
    pending: bool = False  # it is being made anew: what is there under its name is its own

    action: Action = "unchanged"
    remark: str | None = None  # instead of the reason, where nothing was made of it now
    there: list[str] = field(default_factory=list)  # the outputs that nobody has removed since
    notes: list[str] = field(default_factory=list)
    captioned: bool = True

    @property
    def why(self) -> str:
        """What is to be told of its action."""
        return self.reason if self.remark is None else self.remark


class Manifest:
    """Of one data set: `rows` by the whole path of the source."""

    def __init__(self, out: Path) -> None:
        """Read it. Raises OutputError: it is there and can't be understood."""
        self.path, self._written = out / NAME, 0.0
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))["sources"] if self.path.exists() else {}
            self.rows = {key: Made(**row) for key, row in rows.items()}
            if not all(OURS.fullmatch(name) for row in self.rows.values() for name in row.outputs or ()):
                raise ValueError("it names files elsewhere")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{self.path} can't be read ({error}); remove it, or give another --out.") from error

    def write(self, *, now: bool = False) -> None:
        """Put it on the disk, now and then or at once."""
        if not now and time.monotonic() - self._written < OFTEN:
            return
        rows = {key: dict(vars(row)) for key, row in self.rows.items()}
        for row in rows.values():
            for name in TOLD:
                del row[name]
        write_atomic(self.path, json.dumps({"version": 1, "sources": rows}, indent=1) + "\n")
        self._written = time.monotonic()

    def add(self, new: Mapping[str, Made]) -> None:
        """Rows of sources that may be new; what has been moved, with its folder or alone, keeps the row that it had.

        That is so where one that is gone and one that is new are alike, and no other.
        """
        gone = [key for key in self.rows if key not in new and not Path(key).exists()]
        for named in (str, lambda name: Path(name).name):
            old, now = defaultdict[Any, list[str]](list), defaultdict[Any, list[str]](list)
            for rows, keys, alike in ((self.rows, gone, old), (new, new.keys() - self.rows.keys(), now)):
                for key in keys:
                    alike[named(rows[key].source), rows[key].size, rows[key].mtime_ns].append(key)
            for mark, keys in now.items():
                if len(keys) == len(old[mark]) == 1:
                    gone.remove(old[mark][0])
                    row, moved = self.rows.pop(old[mark][0]), new[keys[0]]
                    self.rows[keys[0]] = replace(row, folder=moved.folder, source=moved.source)
        self.rows.update({key: row for key, row in new.items() if key not in self.rows})
