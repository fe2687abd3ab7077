"""Pages, from templates, and the whole of one on disk. In HTML all that is filled in is escaped of itself.

A page of HTML loads nothing from elsewhere: its policy allows its own script alone, so that nothing in a caption or a
name could run or load anything even if it were not escaped. Markdown has filters: `code`, `fenced`, `plain`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from wanwrap.paths import folder
from wanwrap.system.files import atomic_file


def render(file: str, **values: object) -> Iterator[str]:
    """The pieces of a page, as they are made, of the template in `file`; a value that it lacks is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # here: help and a dry run make no page

    pages = Environment(
        loader=FileSystemLoader(folder("templates")),
        autoescape=lambda name: not str(name).endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,  # of a script, whose sha256 is in the page's policy
    )
    pages.filters.update(code=_code, fenced=_fenced, plain=_plain)
    return pages.get_template(file).generate(values)


def write(place: Path, pieces: Iterable[str]) -> None:
    """Write a page, in UTF-8 whatever the files are called. Raises OSError, OutputError: it can't be written."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(place) as file:
        file.writelines(piece.encode("utf-8", "backslashreplace") for piece in pieces)


def _code(words: str) -> str:
    """A span of Markdown's code that shows these words, whatever they are."""
    words = " ".join(words.split())
    fence = "`" * (_backticks(words) + 1)
    return f"{fence} {words} {fence}" if "`" in words else f"{fence}{words}{fence}"


def _fenced(lines: str) -> str:
    """A block of Markdown's code that shows these lines, whatever they are."""
    fence = "`" * max(3, _backticks(lines) + 1)
    return f"{fence}\n{lines}\n{fence}"


def _plain(words: str) -> str:
    """Words outside of code that Markdown takes for nothing else."""
    return re.sub(r"[\\`*_\[<&]", r"\\\g<0>", words)


def _backticks(words: str) -> int:
    """The most in a row."""
    return max(map(len, re.findall("`+", words)), default=0)
