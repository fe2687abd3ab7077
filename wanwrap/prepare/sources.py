"""What lies in a folder of raw media: pictures, clips, their captions, and the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wanwrap.data.media import CAPTION, JUNK, meant
from wanwrap.errors import DatasetError, OptionError
from wanwrap.prepare.manifest import FOLDERS, NAME, Action, Made


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture or clip as it is now, in bytes and time, with its caption."""

    path: Path
    name: str  # its path in the folder searched
    caption: Path | None
    size: int
    mtime_ns: int

    @property
    def moving(self) -> bool:
        """Whether its ending is a clip's."""
        return meant(self.path) == "video"


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

    paths = list(_walk(folder, out, leave)) if place.is_dir() else [place, *_captions(place)]
    captions = {path.with_suffix(""): path for path in paths if path.suffix.lower() == CAPTION}
    alone = dict(captions)
    for path in paths:
        if meant(path):
            alone.pop(path.with_suffix(""), None)
            if path.is_file():
                sources.append(_source(path, folder, captions.get(path.with_suffix(""))))
            else:
                leave(path, "no regular file, or a link to none", "failed")
        elif path.suffix.lower() != CAPTION:
            leave(path, "neither a picture nor a clip that can be read")
    for path in alone.values():
        leave(path, "a caption without a picture or clip of its name")
    return sources, left


def _source(path: Path, folder: Path, caption: Path | None) -> Source:
    about, name = path.stat(), path.relative_to(folder).as_posix()
    return Source(path=path, name=name, caption=caption, size=about.st_size, mtime_ns=about.st_mtime_ns)


def _check_out(folder: Path, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise OptionError(f"--out {out} is a file; give a folder.")
    here, there, *parts = (Path(os.path.realpath(path)) for path in (folder, out, *(out / name for name in FOLDERS)))
    inside = [part for part in parts if part.is_relative_to(here) and not part.is_relative_to(there)]
    if here == there or inside or any(here.is_relative_to(part) for part in parts):
        raise OptionError(
            f"--out {out} is or holds a link to where the originals lie, which stay as they are; give another."
        )


def _captions(place: Path) -> list[Path]:
    return [path for path in place.parent.glob("*.*") if path.stem == place.stem and path.suffix.lower() == CAPTION]


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
        folders[:] = [] if known or ours else sorted(name for name in folders if not name.startswith("."))
        for name in [] if known or ours else sorted(files):
            if not name.startswith(".") and name.lower() not in JUNK:
                yield Path(top, name)
