"""This system's own shell, and commands that are printed to be typed there."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from typing import Literal

Shell = Literal["bash", "powershell"]
PLAIN = r"(?!-.*[.:])[\w\\/.:=+-]+"  # to PowerShell; it splits `-a.b` and `-a:b` (its issue 6291)


def native() -> Shell:
    """The language of this system's own shell."""
    return "powershell" if sys.platform == "win32" else "bash"


def quote(word: str, shell: Shell | None = None) -> str:
    """A word as it is typed in a shell, this system's own if none is named.

    cmd reads it too, unless PowerShell would replace something in double quotes. For a double quote within a word there
    is no way that holds in PowerShell 5.1 and in 7; this is 7's.
    """
    if (shell or native()) == "bash":
        return shlex.quote(word)
    if re.fullmatch(PLAIN, word):
        return word
    return literal(word) if re.search('["\u201c-\u201e$`]', word) else f'"{word}"'


def joined(words: Sequence[str]) -> str:
    """A command in one line, as it is typed; to PowerShell a program between quotes is a text, if it isn't called."""
    line = " ".join(map(quote, words))
    return f"& {line}" if native() == "powershell" and line[0] in "\"'" else line


def literal(word: str) -> str:
    """A word between single quotes to PowerShell, which takes typographic ones for such, too."""
    return "'" + re.sub("['\u2018-\u201b]", r"\g<0>\g<0>", word) + "'"
