"""Shells that a script is printed for, and what a program of theirs is given: both PowerShells' rules, and Windows' own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Literal

NATIVE = shutil.which("bash")

PowerShell = Literal["5.1", "7"]  # Windows' own, and 7.0 to 7.5 in Legacy mode, which 7.0 to 7.2 are always in
POWERSHELLS: tuple[PowerShell, ...] = ("5.1", "7")


def powershell_line(words: Iterable[str], version: PowerShell) -> str:
    """The arguments in a program's command line, of words that PowerShell has parsed; its name stands before them.

    As src/System.Management.Automation/engine/NativeCommandParameterBinder.cs of github.com/PowerShell/PowerShell has
    it: at v7.0.0, v7.2.0, v7.3.0 and v7.5.0, and in its first commits (60b3b304f2, 2016), which are Windows
    PowerShell's. Raises ValueError: a word that is no argument.
    """
    return " ".join(_argument(word, version) for word in words)  # an empty one leaves its space, and is no argument


def _argument(word: str, version: PowerShell) -> str:
    """A word as it stands between the spaces; what is in it is never escaped."""
    if word.lower() == "--%":
        raise ValueError("--% is taken away, quoted or not, and all after it is passed as it stands")
    if not _needs_quotes(word, version):
        return word
    # 7 doubles backslashes before its own closing quote (pull request 4965), 5.1 lets them escape it (issue 4358)
    slashes = len(word) - len(word.rstrip("\\")) if version == "7" else 0
    return f'"{word}{slashes * chr(92)}"'


def _needs_quotes(word: str, version: PowerShell) -> bool:
    """NeedQuotes: is there white space with an even number of quotes before it? 7 counts none that follows a backslash,
    however many those are (8bca1f50c5, 2016); 5.1 counts all."""
    inside, before = False, ""
    for letter in word:
        if letter == '"' and (version == "5.1" or before != "\\"):
            inside = not inside
        elif letter.isspace() and not "\x1c" <= letter <= "\x1f" and not inside:  # .NET's Char.IsWhiteSpace
            return True
        before = letter
    return False


def windows_argv(line: str) -> list[str]:
    """How a Windows program splits its arguments (learn.microsoft.com/cpp/c-language/parsing-c-command-line-arguments).

    Python's is such a program. Other rules hold for the program's own name before them; .NET puts it between quotes.
    """
    words, word, quoted, inside, slashes = [], "", False, False, 0
    rest = f"{line} "
    while rest:
        letter, rest = rest[0], rest[1:]
        if letter == "\\":  # literal, unless a quote follows
            slashes += 1
            continue
        if letter == '"':
            word += "\\" * (slashes // 2)
            if slashes % 2:
                word += '"'
            elif quoted and rest[0] == '"':  # within quotes two are one
                word, rest = f'{word}"', rest[1:]
            else:
                quoted, inside = not quoted, True
            slashes = 0
            continue
        word, slashes = word + "\\" * slashes, 0
        if letter in " \t" and (not quoted or not rest):  # these two alone; an open quote ends with the line
            if word or inside:
                words.append(word)
            word, inside = "", False
        else:
            word += letter
    return words
