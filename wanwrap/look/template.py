"""Pages of HTML: templates in which all that is filled in is escaped, and the whole of it on disk.

Each loads nothing from elsewhere: its policy allows its own script alone, so that nothing in a caption or a name could
run or load anything even if it were not escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from wanwrap.paths import folder
from wanwrap.system.files import atomic_file


def render(name: str, **values: object) -> Iterator[str]:
    """The pieces of a page, as they are made, of the template `name`; a value that it lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # here: help and a dry run make no page

    pages = Environment(
        loader=FileSystemLoader(folder("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,  # of a script, whose sha256 is in the page's policy
    )
    return pages.get_template(f"{name}.html").generate(values)


def write(place: Path, pieces: Iterable[str]) -> None:
    """Write a page, in UTF-8 whatever the files are called. Raises OSError, OutputError: it can't be written."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(place) as file:
        file.writelines(piece.encode("utf-8", "backslashreplace") for piece in pieces)
