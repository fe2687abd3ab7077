"""What upstream caches, by its names, and what it was made of: nothing is encoded twice, nothing stale is trained.

Upstream's own names tell neither content nor resolution nor mode (T14), and it trains whatever lies in a cache
folder (T15). So each folder has a manifest, and what does not agree with it goes before upstream is started, with
`--skip_existing`. The manifest is written before anything is encoded: a file that is there and whole then is either
one that was kept, or has been made since of what the manifest names: of what changes between the two it goes
(`forget`). A kill leaves half a file, which is told by its header.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wanwrap.data.config import read_list
from wanwrap.data.dataset import Entry
from wanwrap.data.media import CAPTION
from wanwrap.data.read import read_files
from wanwrap.errors import DatasetError, WeightsError, listing
from wanwrap.system.files import write_atomic
from wanwrap.system.safetensors import digest, read_header
from wanwrap.upstream.buckets import LATENTS, NAMED, TEXT, What, picture_name, text_name, window_name

MANIFEST = ".wanwrap-cache.json"
ENDINGS: dict[What, str] = {"latents": LATENTS, "text": TEXT}
WHAT = tuple(ENDINGS)


def names(entry: Entry, what: What) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Each file that upstream caches for an entry, and what decides on its content."""
    for item in entry.items:
        stem = item.path.stem
        if what == "text":
            yield text_name(stem), (item.caption,)
            continue
        made_of = item.mark, *entry.cached_size(item), entry.options.get("source_fps")
        if entry.kind == "image":
            yield picture_name(stem, item.size), made_of
        else:
            for first, count in entry.windows(item):
                yield window_name(stem, first, count, entry.cached_size(item)), made_of


def _names(entry: Entry) -> set[str]:
    return {name for what in WHAT for name, _ in names(entry, what)}


def missing(entries: Sequence[Entry], what: What) -> list[Path]:
    """The files that upstream has yet to make, or should have made."""
    wanted = (entry.cache / name for entry in entries for name, _ in names(entry, what))
    return [path for path in wanted if not path.is_file()]


def forget(entries: Sequence[Entry]) -> set[str]:
    """Remove what was cached of files that are no longer as they were read: nobody knows of what it was made. Their
    names.
    """
    gone = set[str]()
    for entry in entries:
        suffix, paths = entry.options.get("caption_extension", CAPTION), [item.path for item in entry.items]
        now = read_files(paths, entry.kind, suffix=suffix, captions=_listed_captions(entry), whole=True)
        for item, latest in zip(entry.items, now, strict=True):
            if (latest.mark, latest.caption) != (item.mark, item.caption):
                gone.add(item.path.name)
                for name in _names(replace(entry, items=(item,))):
                    (entry.cache / name).unlink(missing_ok=True)
    return gone


def _listed_captions(entry: Entry) -> Mapping[Path, str] | None:
    """Each file's caption where upstream reads it from a list; None where it lies beside the file."""
    if name := entry.options.get(f"{entry.kind}_jsonl_file"):
        return {item.path: "" for item in entry.items} | read_list(entry.kind, Path(name))
    return {item.path: item.caption for item in entry.items} if entry.listed else None


def unexpected(entries: Sequence[Entry]) -> list[str]:
    """What lies in the caches of no file of the data set: upstream trains it all the same."""
    return [name for entry in entries for name in sorted({path.name for path in _cached(entry.cache)} - _names(entry))]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A cache folder as it is: what each file should be made of (`marks`, by name), what of it `stays` and `goes`."""

    folder: Path
    marks: Mapping[str, str]
    stays: frozenset[str]
    goes: tuple[Path, ...]

    def expected(self, what: What) -> list[str]:
        """The names of all that upstream caches."""
        return [name for name in self.marks if name.endswith(ENDINGS[what])]

    def to_encode(self, what: What) -> list[str]:
        """The names of files that upstream has yet to make."""
        return [name for name in self.expected(what) if name not in self.stays]

    @property
    def complete(self) -> bool:
        """Whether nothing is to be done."""
        return not self.goes and self.marks.keys() == self.stays

    def prune(self) -> None:
        """Remove what goes, and write down what the rest is, and will be, made of."""
        for path in self.goes:
            path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        if _manifest(self.folder) != self.marks:
            write_atomic(self.folder / MANIFEST, json.dumps(self.marks, indent=0, sort_keys=True))


def survey(entry: Entry, encoders: Mapping[What, str]) -> Survey:
    """What of an entry's cache is stale, half, or of no file of its; `encoders` are marks of what makes it.

    The entry's items must have been read whole.

    Raises:
        DatasetError: something else lies there that upstream would delete.
    """
    cache, marks = entry.cache, _marks(entry, encoders)
    there = _cached(cache)
    if foreign := [path.name for path in there if not NAMED.search(path.name) or not path.is_file()]:
        raise DatasetError(
            f"{listing(foreign)} in {cache} ends as a cache and is none; musubi-tuner would delete it. Move it away."
        )
    before = _manifest(cache)
    stays = {path.name for path in there if before.get(path.name, "") == marks.get(path.name) and _whole(path)}
    goes = tuple(path for path in there if path.name not in stays)
    return Survey(folder=cache, marks=marks, stays=frozenset(stays), goes=goes)


def differing(entries: Sequence[Entry], encoders: Mapping[What, str]) -> list[str]:
    """Files that the manifest, written since the entries were read, tells to be made of something else."""
    found = list[str]()
    for entry in entries:
        written = _manifest(entry.cache)
        found += [name for name, mark in _marks(entry, encoders).items() if written.get(name) != mark]
    return found


def _marks(entry: Entry, encoders: Mapping[What, str]) -> dict[str, str]:
    """A mark of what each file should be made of, by its name."""
    return {name: digest(*of, mark) for what, mark in encoders.items() for name, of in names(entry, what)}


def _cached(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.name.endswith((TEXT, LATENTS))] if cache.is_dir() else []


def _manifest(cache: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads((cache / MANIFEST).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _whole(path: Path) -> bool:
    try:
        read_header(path)
    except (WeightsError, OSError):
        return False
    return True
