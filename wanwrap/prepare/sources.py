"""What lies in a folder of raw media: pictures, clips, their captions, and the rest."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from wanwrap.data.media import CAPTION, JUNK, meant
from wanwrap.errors import DatasetError, OptionError
from wanwrap.prepare.manifest import FOLDERS, NAME, Action, Made


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture or clip: `name` is its path in the folder searched."""

    path: Path
    folder: Path
    name: str
    caption: Path | None
    size: int
    mtime_ns: int

    @property
    def moving(self) -> bool:
        """Whether its ending is a clip's."""
        return meant(self.path) == "video"

    def row(self) -> Made:
        """A row for the manifest, of which nothing is made yet."""
        return Made(folder=str(self.folder), source=self.name, size=self.size, mtime_ns=self.mtime_ns)


@dataclass(kw_only=True)
class Found:
    """All of a folder: `left` is what nothing is made of, with the reason."""

    folder: Path
    sources: list[Source] = field(default_factory=list)
    left: list[Made] = field(default_factory=list)

    def leave(self, path: Path, reason: str, action: Action = "left out") -> None:
        """Nothing is made of a file or folder."""
        self.left.append(Made(folder=str(self.folder), source=self.inside(path), action=action, reason=reason))

    def unread(self, path: Path, error: OSError) -> None:
        """A file or folder can't be read."""
        self.leave(path, f"can't be read: {error.strerror or error}", "failed")

    def inside(self, path: Path) -> str:
        """Its path in the folder."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)


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
    for part in (Path(os.path.realpath(out / name)) for name in FOLDERS):
        linked = part.is_relative_to(here) and not part.is_relative_to(there)
        if here == there or here.is_relative_to(part) or linked:
            raise OptionError(
                f"--out {out} is or holds a link to where the originals lie, which stay as they are; give another."
            )
    found = Found(folder=folder)
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; give a folder.")
    if place.is_dir():
        for directory, names in _walk(folder, there, found):
            _sort(directory, names, found, None)
    else:
        _sort(folder, [path.name for path in folder.iterdir()], found, place)
    return found


def _walk(folder: Path, out: Path, found: Found) -> Iterator[tuple[Path, list[str]]]:
    """Folders with their files, through links too, each folder once."""

    def failed(error: OSError) -> None:
        found.unread(Path(os.fsdecode(error.filename or folder)), error)

    seen = {out}
    for top, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        real = Path(os.path.realpath(top))
        if real in seen:
            folders.clear()
        elif NAME in files and Path(top) != folder:
            found.leave(Path(top), "a data set that prepare has made")
            folders.clear()
        else:
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield Path(top), sorted(files)


def _sort(directory: Path, names: list[str], found: Found, only: Path | None) -> None:
    """Tell media from captions and from all else."""
    visible = [directory / name for name in names if not name.startswith(".") and name.lower() not in JUNK]
    captions = {path.stem: path for path in visible if path.suffix.lower() == CAPTION}
    used = set[str]()
    for path in visible if only is None else [only]:
        if meant(path):
            used.add(path.stem)
            _add(path, captions.get(path.stem), found)
        elif path.suffix.lower() != CAPTION:
            found.leave(path, "neither a picture nor a clip that can be read")
    for stem in sorted(captions.keys() - used) if only is None else ():
        found.leave(captions[stem], "a caption without a picture or clip of its name")


def _add(path: Path, caption: Path | None, found: Found) -> None:
    try:
        about = path.stat()
    except OSError as error:
        found.unread(path, error)
        return
    if not stat.S_ISREG(about.st_mode):
        found.leave(path, "no regular file")
        return
    source = Source(
        path=path,
        folder=found.folder,
        name=found.inside(path),
        caption=caption,
        size=about.st_size,
        mtime_ns=about.st_mtime_ns,
    )
    found.sources.append(source)
