"""What upstream caches, by its names, and what it was made of: nothing is encoded twice, nothing stale is trained.

Upstream's own names tell neither content nor resolution nor mode (T14), and it trains whatever lies in a cache
folder (T15). So each folder has a manifest, and what does not agree with it goes before upstream is started, with
`--skip_existing`. The manifest is written before anything is encoded: a file that is there and whole then is either
one that was kept, or has been made since of what the manifest names: of what changes between the two it goes
(`forget`). A kill leaves half a file, which is told by its header.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wanwrap.data.config import read_list
from wanwrap.data.dataset import Entry
from wanwrap.data.media import CAPTION, Item
from wanwrap.data.read import read_files
from wanwrap.errors import DatasetError, WeightsError, listing
from wanwrap.system.files import patiently, remove, write_atomic
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


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A cache folder as it was looked at.

    `marks` tell what each file that it should hold is made of, by its name. `sound` are the names of those that are
    there, whole and as they should be; upstream would train `stale` ones too.
    """

    folder: Path
    marks: Mapping[str, str]
    sound: Set[str]
    stale: tuple[Path, ...]

    def wanted(self, what: What) -> list[str]:
        """The names of all that upstream caches."""
        return [name for name in self.marks if name.endswith(ENDINGS[what])]

    def missing(self, what: What) -> list[str]:
        """The names of files that upstream has yet to make."""
        return [name for name in self.wanted(what) if name not in self.sound]

    @property
    def complete(self) -> bool:
        """Whether nothing is to be done."""
        return not self.stale and self.marks.keys() == self.sound

    def prune(self) -> None:
        """Remove what is stale, and write down what the rest is, and will be, made of."""
        for path in self.stale:
            remove(path)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / MANIFEST, json.dumps(self.marks, indent=0, sort_keys=True))


def survey(entry: Entry, encoders: Mapping[What, str]) -> Survey:
    """What of an entry's cache is there, stale, half, or of no file of its; `encoders` are marks of what makes it.

    The entry's items must have been read whole.

    Raises:
        DatasetError: something else lies there that upstream would delete.
    """
    cache = entry.cache
    marks = {name: digest(*of, mark) for what, mark in encoders.items() for name, of in names(entry, what)}
    there = [path for path in cache.iterdir() if path.name.endswith((TEXT, LATENTS))] if cache.is_dir() else []
    if foreign := [path.name for path in there if not NAMED.search(path.name) or not path.is_file()]:
        raise DatasetError(
            f"{listing(foreign)} in {cache} ends as a cache and is none; musubi-tuner would delete it. Move it away."
        )
    manifest = _manifest(cache)
    sound = set[str]()
    for path in there:
        with suppress(WeightsError, OSError):  # half a file
            if manifest.get(path.name, "") == marks.get(path.name):
                read_header(path)
                sound.add(path.name)
    stale = tuple(path for path in there if path.name not in sound)
    return Survey(folder=cache, marks=marks, sound=sound, stale=stale)


def _manifest(cache: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads(patiently(lambda: (cache / MANIFEST).read_text(encoding="utf-8")))
        return found if isinstance(found, dict) else {}
    return {}


def changed(entries: Sequence[Entry]) -> list[tuple[Entry, Item]]:
    """The files that are no longer as they were read, by content or caption."""
    pairs = (
        (entry, item, latest) for entry in entries for item, latest in zip(entry.items, _read_again(entry), strict=True)
    )
    return [(entry, item) for entry, item, now in pairs if (now.mark, now.caption) != (item.mark, item.caption)]


def forget(entries: Sequence[Entry]) -> list[str]:
    """Remove what was cached of files that have changed meanwhile: nobody knows of what it was made. Their names."""
    gone = changed(entries)
    for entry, item in gone:
        for name in (name for what in WHAT for name, _ in names(replace(entry, items=(item,)), what)):
            remove(entry.cache / name)
    return sorted({item.path.name for _, item in gone})


def _read_again(entry: Entry) -> list[Item]:
    """An entry's files as they are now, with captions from where they were."""
    suffix, captions = entry.options.get("caption_extension", CAPTION), None
    if file := entry.options.get(f"{entry.kind}_jsonl_file"):
        captions = {item.path: "" for item in entry.items} | read_list(entry.kind, Path(file))
    elif not suffix:
        captions = {item.path: item.caption for item in entry.items}
    files = dict.fromkeys((item.path for item in entry.items), entry.kind)
    return read_files(files, suffix=suffix, captions=captions, whole=True)
