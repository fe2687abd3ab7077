"""Pages of HTML: what stands in a template before and after what changes, and the whole of it on disk.

Each loads nothing from elsewhere: its policy allows its own script alone, so that nothing in a caption or a name could
run or load anything even if it were not escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from string import Template

from wanwrap.paths import folder
from wanwrap.system.files import atomic_file

PLACE = "$content"


def halves(name: str, **texts: str) -> tuple[str, str]:
    """What stands before and after the content of a template; `texts` are filled into the first, escaped already."""
    head, tail = (folder("templates") / f"{name}.html").read_text(encoding="utf-8").split(PLACE)
    return Template(head).substitute(texts), tail


def write(place: Path, pieces: Iterable[str]) -> None:
    """Write a page, in UTF-8 whatever the files are called. Raises OSError, OutputError: it can't be written."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(place) as file:
        file.writelines(piece.encode("utf-8", "backslashreplace") for piece in pieces)
