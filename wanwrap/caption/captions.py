"""A data set's pictures and clips by their captions: which have none, what the captioning model is shown of them."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from wanwrap.data import clips, media, pictures
from wanwrap.data.folder import media_in
from wanwrap.data.media import Kind
from wanwrap.errors import FULL, OutputError
from wanwrap.system.files import write_atomic

FACTOR, LEAST = 28, 256 * 256  # pixels: upstream brings sides to multiples of it, and areas to no less
MOST = 3000  # characters: more than the 512 tokens that training reads of a caption
LONGEST = 100  # times as long as wide; the processor takes no more than 200, of rounded sides


@dataclass(frozen=True)
class Target:
    """A picture or clip, with its caption beside it."""

    path: Path
    kind: Kind

    @property
    def caption(self) -> Path:
        return self.path.with_suffix(media.CAPTION)

    @property
    def captioned(self) -> bool:
        """Whether there is more than white space in it; in whatever encoding, it is the user's."""
        return media.filled(self.caption)


@dataclass
class Outcome:
    """What became of each: its caption, or why it has none; `kept` have one that was there."""

    kept: int = 0
    written: dict[Path, str] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """For other programs."""
        written = [{"path": str(path), "caption": text} for path, text in self.written.items()]
        failed = [{"path": str(path), "reason": why} for path, why in self.failed.items()]
        return {"written": written, "kept": self.kept, "failed": failed}

    def write(self, target: Target, text: str, *, overwrite: bool) -> None:
        """Put a caption in its place; one that somebody has written meanwhile stays. Raises OSError: the disk is full."""
        if not text:
            self.failed[target.path] = "the model answered nothing"
        elif len(text) > MOST:
            self.failed[target.path] = f"the model ran on for {len(text):,} characters"
        elif target.captioned and not overwrite:
            self.kept += 1
        else:
            try:
                write_atomic(target.caption, f"{text}\n")
                self.written[target.path] = text
            except (OSError, OutputError) as error:
                if getattr(error, "errno", None) in FULL:
                    raise
                why = getattr(error, "strerror", None) or error
                self.failed[target.path] = f"its caption {target.caption.name} can't be written: {why}"


def targets(folder: Path) -> list[Target]:
    """All that the data set holds; a picture and a clip of one name share a caption, which is the picture's.

    What upstream passes over is not captioned; `check` tells of it. Raises DatasetError: the folder holds none.
    """
    media_files, _ = media_in(folder)
    found = dict[Path, Target]()
    for (_, kind), paths in sorted(media_files.items()):
        for path in filter(media.kind_of, paths):
            target = Target(path, kind)
            found.setdefault(target.caption, target)
    return list(found.values())


def keep(replaced: Iterable[Target], folder: Path) -> Path:
    """Write captions that are about to be replaced to a new file in `folder`, and return it."""
    rows = (
        {"path": str(each.path), "caption": each.caption.read_bytes().decode("utf-8", "surrogateescape")}
        for each in replaced
    )
    stem = f"replaced-{datetime.now():%Y%m%d-%H%M%S}"
    names = (f"{stem}{f'-{n}' if n else ''}.jsonl" for n in count())
    path = next(path for name in names if not (path := folder / name).exists())
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def stage(
    found: Iterable[Target], folder: Path, most: int, failed: dict[Path, str], done: Callable[[], object]
) -> dict[str, Target]:
    """Put what the model is to see into `folder`, by the names there: upstream captions all pictures of one folder.

    Each is decoded first, since upstream ends at the first that it can't read. `failed` gets those, with the reason.
    """

    def one(name: str, target: Target) -> None:
        try:
            _stage(target, folder / name, most)
        except Exception as error:  # whatever a decoder raises, the file is what is wrong
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            failed[target.path] = media.why(target.path, error)
        done()

    names = {_name(number, target): target for number, target in enumerate(found, 1)}
    with ThreadPoolExecutor() as pool:
        list(pool.map(one, names, names.values()))
    return {name: target for name, target in names.items() if target.path not in failed}


def _name(number: int, target: Target) -> str:
    """A name that every program takes."""
    return f"{number:06}{target.path.suffix.lower() if target.kind == 'image' else '.png'}"


def _stage(target: Target, place: Path, most: int) -> None:
    if target.caption.exists() and not target.caption.is_file():
        raise ValueError(f"its caption {target.caption.name} is no file")
    image = target.kind == "image"
    item = pictures.read(target.path, whole=True) if image else clips.read(target.path, whole=False)
    if not seen(item.size, most):
        raise ValueError(f"upstream can't bring its {item.size[0]}x{item.size[1]} pixels to a size for the model")
    if target.kind == "video":
        clips.middle(target.path, item.frames or 0).save(place)
    else:
        _link(target.path, place)


def _link(path: Path, place: Path) -> None:
    """A second name for a picture, which takes no room; a copy where that can't be."""
    try:
        if not os.access(path, os.W_OK):
            raise PermissionError  # Windows could not remove its second name
        os.link(os.path.realpath(path), place)
    except OSError:
        shutil.copyfile(path, place)


def seen(size: tuple[int, int], most: int) -> bool:
    """Whether upstream finds a size for a picture of (width, height), `most` squared pixels at most; else it ends."""
    width, height = (int(side / FACTOR + 0.5) * FACTOR for side in size)
    if not width * height or max(size) > LONGEST * min(size):
        return False
    if LEAST <= width * height <= most**2:
        return True
    small = width * height < LEAST
    scale = math.sqrt((LEAST if small else most**2) / (width * height)) / FACTOR
    nearest, step = (math.ceil, FACTOR) if small else (math.floor, -FACTOR)
    width, height = (nearest(side * scale) * FACTOR for side in size)
    return any(LEAST <= w * h <= most**2 for w, h in ((width, height), (width + step, height), (width, height + step)))
