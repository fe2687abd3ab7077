"""What was launched: the engine, its id and the commands that look after it, as `launch/launched.json` in a run's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from wanwrap.errors import OutputError
from wanwrap.system import console
from wanwrap.system.files import write_atomic

FOLDER = "launch"
FILE = f"{FOLDER}/launched.json"


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A run that was sent somewhere; `later` are commands by what they do (status, follow, fetch, stop), started where this is."""

    engine: str
    name: str
    ids: list[str]
    experts: list[str] = field(default_factory=list)  # high, low or dit
    later: dict[str, list[list[str]]]
    results: str = ""  # as Rendered has it
    gpu: str = ""
    hours: float = 0.0
    volume: str = ""  # as Rendered has it
    started: str = ""

    def write(self, folder: Path) -> None:
        """Put it on disk. Raises OSError."""
        write_atomic(folder / FILE, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> Launched | None:
    """What was launched of the run in that folder; None where nothing was. Raises OutputError: it can't be read."""
    place = folder / FILE
    if not place.is_file():
        return None
    known = {each.name for each in fields(Launched)}
    try:
        row = json.loads(place.read_text(encoding="utf-8"))
        return Launched(**{name: value for name, value in row.items() if name in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{place} can't be read ({error}); look with the engine's own program what runs there, then delete that file."
        ) from error


def all_of(base_dir: Path) -> Iterator[tuple[Path, Launched]]:
    """All runs of a workspace that were launched, the latest first; says which can't be read."""
    found = list[tuple[Path, Launched]]()
    for folder in (base_dir / "outputs").iterdir() if (base_dir / "outputs").is_dir() else ():
        try:
            if launched := read(folder):
                found.append((folder, launched))
        except OutputError as error:
            console.say(f"warning: {error}")
    yield from sorted(found, key=lambda pair: pair[1].started, reverse=True)
