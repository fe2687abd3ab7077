"""What was made of each source, a row each, on disk in the data set, so that the next run does only what is new."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wanwrap.errors import OutputError
from wanwrap.system.files import write_atomic

NAME = ".wanwrap-prepare.json"
FOLDERS = ("images", "videos")
OURS = re.compile(r"(images|videos)/[^/\\]+")
OFTEN = 5  # seconds between two writes; the file grows with the data set
KEPT = ("name", "size", "mtime_ns", "settings", "outputs", "seconds", "fps", "caption")

Action = Literal["copied", "converted", "cut", "unchanged", "left out", "failed"]
Stamp = tuple[int, int]  # bytes and mtime_ns


@dataclass(kw_only=True)
class Made:
    """What was made of a source; `KEPT` is on the disk, the rest is what this run has to tell."""

    source: str = ""  # its path in the folder that was searched
    name: str = ""  # the outputs' stem
    size: int = -1  # of the source of which they were made, in bytes
    mtime_ns: int = -1
    settings: dict[str, str] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)  # none: in the making, and all that is there by the name is theirs
    seconds: float = 0.0  # of clips
    fps: float = 0.0
    caption: str | None = None  # the sha256 of what was written

    action: Action = "unchanged"
    reason: str = ""  # why it came out so
    there: list[str] = field(default_factory=list)  # the outputs that nobody has removed since
    notes: list[str] = field(default_factory=list)
    captioned: bool = True


class Manifest:
    """Of one data set: `rows` by the whole path of the source. Nothing is written unless it is to be kept."""

    def __init__(self, out: Path, *, keep: bool) -> None:
        """Read it. Raises OutputError: it is there and can't be understood."""
        self.path, self._keep, self._written = out / NAME, keep, 0.0
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))["sources"] if self.path.exists() else {}
            self.rows = {key: _row(row) for key, row in rows.items()}
            if not all(OURS.fullmatch(name) for row in self.rows.values() for name in row.outputs):
                raise ValueError("it names files elsewhere")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"{self.path} can't be read ({error}); remove it, or give another --out.") from error

    def record(self, key: str, made: Made) -> None:
        """What came of a source; one without outputs needs no row. On the disk it is a little later."""
        if made.outputs:
            self.rows[key] = made
        else:
            self.rows.pop(key, None)
        if time.monotonic() - self._written > OFTEN:
            self.write()

    def write(self) -> None:
        """Put it on the disk."""
        if not self._keep:
            return
        rows = {key: {name: getattr(row, name) for name in KEPT} for key, row in self.rows.items()}
        write_atomic(self.path, json.dumps({"version": 1, "sources": rows}, indent=1) + "\n")
        self._written = time.monotonic()

    def gone(self) -> list[str]:
        """Rows whose sources are no longer there."""
        return [key for key in self.rows if not Path(key).exists()]

    def find_moved(self, sources: Mapping[str, Stamp]) -> None:
        """A source that was moved keeps its row: where one that is gone and one that is new are alike, and no other."""
        for depth in (3, 2, 1):  # as much of their paths as tells them apart
            old, new = defaultdict[Any, list[str]](list), defaultdict[Any, list[str]](list)
            for key in self.gone():
                old[Path(key).parts[-depth:], (self.rows[key].size, self.rows[key].mtime_ns)].append(key)
            for key in sources.keys() - self.rows.keys():
                new[Path(key).parts[-depth:], sources[key]].append(key)
            for mark, keys in new.items():
                if len(keys) == len(old[mark]) == 1:
                    self.rows[keys[0]] = self.rows.pop(old[mark][0])


def _row(row: Mapping[str, Any]) -> Made:
    """A row of this version or an earlier one, which had more to say."""
    return Made(**{**{name: row[name] for name in KEPT}, "outputs": row["outputs"] or []})
