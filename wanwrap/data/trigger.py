"""The word by which a LoRA is called, in captions."""

from __future__ import annotations

import re


def holds(caption: str, word: str) -> bool:
    """Whether a word, or several, stands in a caption as such, in large letters or small."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE) is not None


def led_by(word: str | None, caption: str) -> str:
    """The caption with the word in front, where it lacks it."""
    return f"{word}, {caption}" if word and not holds(caption, word) else caption
