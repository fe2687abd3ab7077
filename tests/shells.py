"""Shells that a script is printed for, and what a program of theirs is given."""

from __future__ import annotations

import shutil

NATIVE = shutil.which("bash")


def windows_argv(line: str) -> list[str]:
    """How a Windows program splits its command line (the C runtime's rules)."""
    words, word, quoted, inside, slashes = [], "", False, False, 0
    for letter in line + " ":
        if letter == "\\":
            slashes += 1
            continue
        if letter == '"':
            word += "\\" * (slashes // 2)
            if slashes % 2:
                word += '"'
            else:
                quoted, inside = not quoted, True
            slashes = 0
            continue
        word += "\\" * slashes
        slashes = 0
        if letter in " \t" and not quoted:
            if word or inside:
                words.append(word)
            word, inside = "", False
        else:
            word += letter
    return words


def legacy(word: str) -> str:
    """What PowerShell in Legacy mode puts into a command line for one argument."""
    return f'"{word}"' if any(letter.isspace() for letter in word) else word
