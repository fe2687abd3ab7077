"""Names of prepared files: safe in every shell and on every drive, each one used once, and kept from run to run."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath

from wanwrap.data.media import CAPTION
from wanwrap.prepare.manifest import FOLDERS, Made
from wanwrap.prepare.sources import Source

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
        digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
        length = 6
        while not self._free(name.lower()):
            name = f"{safe(stem)[: LONGEST - 13]}-{digest[:length]}"
            length += 1
        self._take(name.lower())
        return name

    def _free(self, name: str) -> bool:
        """Whether neither it nor its pieces (`name_01`), nor what it might be a piece of, are there."""
        return not {name, NUMBER.sub("", name)} & self._taken and name not in self._bases

    def _take(self, name: str) -> None:
        self._taken.add(name)
        if NUMBER.search(name):
            self._bases.add(NUMBER.sub("", name))


def name_all(
    sources: Mapping[str, Source], rows: Mapping[str, Made], out: Path, current: Callable[[Source, Made], bool]
) -> None:
    """A stem for the row of every source: the one that it had, or a new one. No file of others is written over.

    `current` tells for which nothing is to be done.
    """
    files = [path for folder in FOLDERS if (out / folder).is_dir() for path in (out / folder).iterdir()]
    names = Names({row.name for row in rows.values() if row.name} | {path.stem for path in files})
    media = defaultdict[str, set[str]](set)  # by stem, with a piece's number and without
    for path in files:
        if path.suffix != CAPTION:
            for stem in (path.stem.lower(), NUMBER.sub("", path.stem.lower())):
                media[stem].add(f"{path.parent.name}/{path.name}")
    for key, source in sorted(sources.items(), key=lambda pair: (len(pair[1].path.stem), pair[0])):  # cat before cat(1)
        row = rows[key]
        if row.name and current(source, row):
            continue
        # of an interrupted run all that is there under the name is its own
        if row.name and (row.outputs is None or row.pending or media[row.name.lower()] <= set(row.outputs)):
            row.pending = True
        else:
            row.name = names.claim(PurePath(key).stem, source.name)
