"""Names of prepared files: safe in every shell and on every drive, each one used once, and kept from run to run."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from wanwrap.data.media import CAPTION
from wanwrap.prepare.manifest import FOLDERS, Made
from wanwrap.prepare.sources import Source

LONGEST = 80  # bytes; room for a piece's number, an ending, and upstream's own additions
NUMBER = re.compile(r"_\d+$")


def safe(stem: str) -> str:
    """The nearest name of letters, digits and `._-`, at most 80 bytes long; never empty."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:LONGEST].rstrip("._-") or "item"


class Names:
    """The stems in use, of pictures and clips alike: upstream keeps one cache for two files of one stem."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = {stem.lower() for stem in taken}
        self._bases = {_base(stem) for stem in self._taken}

    def claim(self, stem: str, source: str) -> str:
        """A free name for a file; where its own is in use, with a mark made of the whole `source` path.

        In use is one that is there, one whose pieces (`name_01`) are there, and what might be a piece of one.
        """
        digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
        name, length = safe(stem), 6
        while {name.lower(), _base(name.lower())} & self._taken or name.lower() in self._bases:
            name, length = f"{safe(stem)[: LONGEST - 13]}-{digest[:length]}", length + 1
        self._taken.add(name.lower())
        self._bases.add(_base(name.lower()))
        return name


def _base(stem: str) -> str:
    """A stem without a piece's number."""
    return NUMBER.sub("", stem)


def name_all(sources: Iterable[Source], rows: dict[str, Made], out: Path) -> dict[Source, Made]:
    """What is to be made anew: rows with a name, and with the outputs that go if they are not made again.

    Their rows in `rows` then say that they are in the making. No file of others is written over.
    """
    files = [path for folder in FOLDERS if (out / folder).is_dir() for path in (out / folder).iterdir()]
    names = Names({row.name for row in rows.values()} | {path.stem for path in files})
    media = defaultdict[str, set[str]](set)  # by stem, with a piece's number and without
    for path in files:
        if path.suffix != CAPTION:
            for stem in {path.stem.lower(), _base(path.stem.lower())}:
                media[stem].add(f"{path.parent.name}/{path.name}")
    todo = dict[Source, Made]()
    for source in sorted(sources, key=lambda source: (len(source.path.stem), str(source.path))):  # cat before cat(1)
        key = str(source.path)
        row = rows.get(key, Made())
        there = media[row.name.lower()]
        if row.name and (not row.outputs or there <= {*row.outputs}):
            todo[source] = replace(row, outputs=sorted(there) if row.outputs else [])  # only what is on record may go
        else:
            todo[source] = replace(row, name=names.claim(source.path.stem, source.name))
        rows[key] = replace(todo[source], outputs=[])
    return todo
