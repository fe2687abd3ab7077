"""Names of prepared files: safe in every shell and on every drive, each one used once."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

LONGEST = 80  # bytes; room for a piece's number, an ending, and upstream's own additions
WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # devices, whatever the ending
NUMBER = re.compile(r"_\d+$")


def safe(stem: str) -> str:
    """The nearest name of letters, digits and `._-`, at most 80 bytes long; never empty."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:LONGEST].rstrip("._-")
    return f"_{name}" if WINDOWS.match(name) else name or "item"


class Names:
    """The stems in use, of pictures and clips alike: upstream keeps one cache for two files of one stem."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set[str]()
        self._bases = set[str]()
        for stem in taken:
            self._take(stem.lower())

    def claim(self, stem: str, source: str) -> str:
        """A free name for a file; where its own is in use, with a mark made of the whole `source` path."""
        name = safe(stem)
        if not self._free(name.lower()):
            digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
            marks = (digest[:length] for length in range(6, 64))
            name = next(each for mark in marks if self._free((each := f"{name[: LONGEST - 13]}-{mark}").lower()))
        self._take(name.lower())
        return name

    def _free(self, name: str) -> bool:
        """Whether neither it nor its pieces (`name_01`), nor what it might be a piece of, are there."""
        return not {name, NUMBER.sub("", name)} & self._taken and name not in self._bases

    def _take(self, name: str) -> None:
        self._taken.add(name)
        if NUMBER.search(name):
            self._bases.add(NUMBER.sub("", name))
