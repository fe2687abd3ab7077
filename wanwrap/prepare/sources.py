"""What lies in a folder of raw media: pictures, clips, their captions, and the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wanwrap.data.media import CAPTION, JUNK, meant
from wanwrap.errors import DatasetError, OptionError
from wanwrap.prepare.manifest import FOLDERS, NAME


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture or clip: `name` is its path in the folder searched."""

    path: Path
    name: str
    caption: Path | None
    size: int
    mtime_ns: int

    @property
    def moving(self) -> bool:
        """Whether its ending is a clip's."""
        return meant(self.path) == "video"


@dataclass(kw_only=True)
class Found:
    """All of a folder: `other` are names with the reason why nothing is made of them, `failed` can't be read."""

    folder: Path
    sources: list[Source] = field(default_factory=list)
    other: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def search(place: Path, out: Path) -> Found:
    """A folder with all below it, or a single file; what lies in `out` is not looked at.

    Raises:
        DatasetError: there is nothing.
        OptionError: `out` is the folder, or the folder is what `prepare` writes to.
    """
    if not place.exists():
        raise DatasetError(f"there is no {place}; give a folder of pictures and clips, or one file.")
    folder = place if place.is_dir() else place.parent
    here, there = Path(os.path.realpath(folder)), Path(os.path.realpath(out))
    if here == there or any(part in (here, *here.parents) for part in (there / name for name in FOLDERS)):
        raise OptionError(f"--out {out} is where the originals lie, which stay as they are; give another folder.")
    for part in (Path(os.path.realpath(out / name)) for name in FOLDERS):
        if there not in part.parents and here in (part, *part.parents):
            raise OptionError(
                f"{out} holds a link to where the originals lie, which stay as they are; give another folder."
            )
    found = Found(folder=folder)
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; give a folder.")
    for directory, names in [(folder, _beside(place))] if place.is_file() else _walk(folder, there, found):
        _sort(directory, names, found, place if place.is_file() else None)
    return found


def _beside(place: Path) -> list[str]:
    try:
        return [*{place.name, *(path.name for path in place.parent.iterdir() if path.suffix.lower() == CAPTION)}]
    except OSError:
        return [place.name]


def _walk(folder: Path, out: Path, found: Found) -> Iterator[tuple[Path, list[str]]]:
    """Folders with their files, through links too, each folder once."""

    def failed(error: OSError) -> None:
        where = Path(os.fsdecode(error.filename or folder))
        found.failed[_inside(where, folder)] = f"can't be read: {error.strerror or error}"

    seen = {out}
    for top, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        real = Path(os.path.realpath(top))
        if real in seen or (NAME in files and Path(top) != folder):
            if real != out and real not in seen:
                found.other[_inside(Path(top), folder)] = "a data set that prepare has made"
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(top), sorted(files)


def _inside(path: Path, folder: Path) -> str:
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return str(path)


def _sort(directory: Path, names: list[str], found: Found, only: Path | None) -> None:
    """Tell media from captions and from all else."""
    visible = [name for name in names if not name.startswith(".") and name.lower() not in JUNK]
    captions = {Path(name).stem: directory / name for name in visible if Path(name).suffix.lower() == CAPTION}
    used = set[str]()
    for path in (directory / name for name in visible):
        if only not in (None, path):
            continue
        if meant(path):
            used.add(path.stem)
            _add(path, captions.get(path.stem), found)
        elif path.suffix.lower() != CAPTION:
            found.other[_inside(path, found.folder)] = "neither a picture nor a clip that can be read"
    for stem in sorted(captions.keys() - used) if only is None else ():
        found.other[_inside(captions[stem], found.folder)] = "a caption without a picture or clip of its name"


def _add(path: Path, caption: Path | None, found: Found) -> None:
    name = _inside(path, found.folder)
    try:
        about = path.stat()
    except OSError as error:
        found.failed[name] = f"can't be read: {error.strerror or error}"
        return
    source = Source(path=path, name=name, caption=caption, size=about.st_size, mtime_ns=about.st_mtime_ns)
    if path.is_file():
        found.sources.append(source)
    else:
        found.other[name] = "no regular file"
