"""Runs that wanwrap 0.1.0 has left: a finished one is finished; one that is half done is not gone on with.

It kept both experts in one folder: `training/low.json` beside `run*.json`, states and curves below `training` and `logs`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from wanwrap.errors import OutputError


def progress(folder: Path, expert: str) -> dict[str, Any]:
    """What it knew of an expert's training; empty where there was none."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / "training" / f"{expert}.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def is_there(folder: Path, expert: str) -> bool:
    """Whether it has trained, or begun to train, that expert."""
    return (folder / "training" / f"{expert}.json").is_file()


def is_done(folder: Path, expert: str) -> bool:
    """Whether it has trained that expert to its end."""
    return progress(folder, expert).get("state") == "done"


def settings(folder: Path, expert: str) -> dict[str, Any] | None:
    """What it has trained an expert with, as a record's settings; None where it has not.

    Raises:
        OutputError: it has begun, and another version can't go on with that.
    """
    if is_there(folder, expert) and not is_done(folder, expert):
        raise OutputError(
            f"{folder / 'training'} holds a training of {expert} that wanwrap 0.1.0 has begun: end it with that version, "
            "give another --output_name, or begin anew with --restart (what is there is put aside)."
        )
    found = progress(folder, expert).get("settings")
    return found if isinstance(found, dict) else None


def put_aside(folder: Path, expert: str, aside: Path) -> None:
    """Move its record of an expert, its states and its curves."""
    for name in (f"training/{expert}.json", f"logs/{expert}"):
        if (folder / name).exists():
            (aside / name).parent.mkdir(exist_ok=True)
            (folder / name).replace(aside / name)
    for path in (folder / "training").glob(f"{expert}-*"):
        path.replace(aside / "training" / path.name)
