"""What was made of each source, a row each, on disk in the data set, so that the next run does only what is new."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wanwrap.errors import OutputError
from wanwrap.system.files import write_atomic

NAME = ".wanwrap-prepare.json"
FOLDERS = ("images", "videos")
OURS = re.compile(r"(images|videos)/[^/\\]+")
KEPT = ("name", "size", "mtime_ns", "settings", "outputs", "seconds", "fps", "caption")

Action = Literal["copied", "converted", "cut", "unchanged", "left out", "failed"]


@dataclass(kw_only=True)
class Made:
    """What was made of a source; `KEPT` is on the disk, the rest is what this run has to tell."""

    source: str = ""  # its path in the folder that was searched
    name: str = ""  # the outputs' stem
    size: int = -1  # of the source of which they were made, in bytes; -1: in the making
    mtime_ns: int = -1
    settings: dict[str, str] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of clips
    fps: float = 0.0
    caption: str | None = None  # the sha256 of what was written

    action: Action = "unchanged"
    reason: str = ""  # why it came out so
    there: list[str] = field(default_factory=list)  # the outputs that nobody has removed since
    notes: list[str] = field(default_factory=list)
    captioned: bool = True


def read_rows(out: Path) -> dict[str, Made]:
    """The rows of a data set, by the whole path of the source. Raises OutputError: they can't be understood."""
    path, made = out / NAME, dict[str, Made]()
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["sources"] if path.exists() else {}
        for key, row in rows.items():  # an earlier version's had more to say, and null for no outputs
            made[key] = Made(**{**{name: row[name] for name in KEPT}, "outputs": row["outputs"] or []})
        if not all(OURS.fullmatch(name) for row in made.values() for name in row.outputs):
            raise ValueError("it names files elsewhere")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{path} can't be read ({error}); remove it, or give another --out.") from error
    return made


def write_rows(out: Path, rows: Mapping[str, Made]) -> None:
    """Put them on the disk."""
    kept = {key: {name: getattr(row, name) for name in KEPT} for key, row in rows.items()}
    write_atomic(out / NAME, json.dumps({"version": 1, "sources": kept}, indent=1) + "\n")
