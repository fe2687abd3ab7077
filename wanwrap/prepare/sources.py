"""What lies in a folder of raw media, and a name for the outputs of each source."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from wanwrap.data.media import CAPTION, JUNK, meant
from wanwrap.errors import DatasetError, OptionError
from wanwrap.prepare.manifest import FOLDERS, NAME, Action, Made

LONGEST = 80  # bytes; room for a piece's number, an ending, and upstream's own additions
NUMBER = re.compile(r"_\d+$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture or clip as it is now, in bytes and time."""

    path: Path
    name: str  # its path in the folder searched
    size: int
    mtime_ns: int
    moving: bool  # its ending is a clip's


def search(place: Path, out: Path) -> tuple[list[Source], list[Made]]:
    """Sources in a folder with all below it, or a single file, and what nothing is made of, with the reason.

    What lies in `out` is not looked at.

    Raises:
        DatasetError: there is nothing.
        OptionError: `out` is the folder, or the folder is what `prepare` writes to.
    """
    if not place.exists():
        raise DatasetError(f"there is no {place}; give a folder of pictures and clips, or one file.")
    folder, sources, left = place if place.is_dir() else place.parent, list[Source](), list[Made]()
    _check_out(folder, out)

    def leave(path: Path, reason: str, action: Action = "left out") -> None:
        left.append(Made(source=path.relative_to(folder).as_posix(), action=action, reason=reason))

    paths = list(_walk(folder, out, leave)) if place == folder else [place]
    media = {path.with_suffix("") for path in paths if meant(path)}
    for path in paths:
        if meant(path) and path.is_file():
            sources.append(_source(path, path.relative_to(folder).as_posix()))
        elif meant(path):
            leave(path, "no regular file, or a link to none", "failed")
        elif path.suffix != CAPTION:
            leave(path, "neither a picture nor a clip that can be read")
        elif path.with_suffix("") not in media:
            leave(path, "a caption without a picture or clip of its name")
    return sources, left


def _source(path: Path, name: str) -> Source:
    about, moving = path.stat(), meant(path) == "video"
    return Source(path=path, name=name, size=about.st_size, mtime_ns=about.st_mtime_ns, moving=moving)


def _check_out(folder: Path, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; give a folder.")
    here, there, *parts = (Path(os.path.realpath(path)) for path in (folder, out, *(out / name for name in FOLDERS)))
    inside = [part for part in parts if part.is_relative_to(here) and not part.is_relative_to(there)]
    if here == there or inside or any(here.is_relative_to(part) for part in parts):
        raise OptionError(
            f"--out {out} is or holds a link to where the originals lie, which stay as they are; give another."
        )


def _walk(folder: Path, out: Path, leave: Callable[..., None]) -> Iterator[Path]:
    """Files that are to be seen, through links too, each folder once."""

    def failed(error: OSError) -> None:
        leave(Path(os.fsdecode(error.filename)), f"can't be read: {error.strerror}", "failed")

    seen = {os.path.realpath(out)}
    for top, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        known, ours = os.path.realpath(top) in seen, NAME in files and Path(top) != folder
        seen.add(os.path.realpath(top))
        if ours and not known:
            leave(Path(top), "a data set that prepare has made")
        if known or ours:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower() not in JUNK:
                yield Path(top, name)


def name_all(sources: Iterable[Source], rows: dict[str, Made], out: Path) -> dict[Source, Made]:
    """The rows of what is to be made anew, each with a name, which it keeps from run to run.

    In `rows` they are in the making from now on: what a kill leaves by their names is written over by the next run.
    """
    files = [path for folder in FOLDERS if (out / folder).is_dir() for path in (out / folder).iterdir()]
    taken, todo = set[str](), dict[Source, Made]()
    for stem in [*(row.name for row in rows.values()), *(path.stem for path in files)]:
        _take(stem, taken)
    own = {name for row in rows.values() for name in row.outputs}
    media = [path for path in files if path.suffix != CAPTION]
    others = [path.stem.lower() for path in media if f"{path.parent.name}/{path.name}" not in own]
    strange = {*others, *(NUMBER.sub("", stem) for stem in others)}
    for source in sorted(sources, key=lambda source: (len(source.path.stem), str(source.path))):  # cat before cat(1)
        row = rows.get(str(source.path), Made())
        whole = row.outputs and row.size >= 0  # else what is there by its name is its own
        if not row.name or (whole and row.name.lower() in strange):
            row = replace(row, name=claim(source.path.stem, source.name, taken))
        todo[source], rows[str(source.path)] = row, replace(row, size=-1)
    return todo


def claim(stem: str, source: str, taken: set[str]) -> str:
    """A free name for a file, which is then taken; where its own is not free, with a mark made of its path `source`.

    Pictures and clips share the names: upstream keeps one cache for two files of one stem. Not free is a name that is
    taken, that might be a piece (`name_01`) of one that is, or whose own pieces might be taken.
    """
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    name, length = safe(stem), 6
    while taken & {name.lower(), NUMBER.sub("", name.lower()), f"{name.lower()}_#"}:
        name, length = f"{safe(stem)[: LONGEST - 13]}-{digest[:length]}", length + 1
    _take(name, taken)
    return name


def _take(stem: str, taken: set[str]) -> None:
    """`_#` stands for the number of a piece."""
    taken |= {stem.lower(), NUMBER.sub("_#", stem.lower())}


def safe(stem: str) -> str:
    """The nearest name of letters, digits and `._-`, at most 80 bytes long, for every shell and drive; never empty."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:LONGEST].rstrip("._-") or "item"
