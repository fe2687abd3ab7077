"""What captions hold."""

from __future__ import annotations

import re


def holds(caption: str, word: str) -> bool:
    """Whether a word, or several, stands in a caption as such, in large letters or small."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE) is not None
