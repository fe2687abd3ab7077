"""What upstream caches, by its names, and what it was made of: nothing is encoded twice, nothing stale is trained.

Upstream's own names tell neither content nor resolution nor mode (T14), and it trains whatever lies in a cache
folder (T15). So each folder has a manifest, and what does not agree with it goes before upstream is started, with
`--skip_existing`. The manifest is written before anything is encoded: a file that is there and whole then is either
one that was kept, or has been made since of what the manifest names: what changes between the two is told by the
files' times (`stamps`), and goes (`forget`). A kill leaves half a file, which is told by its header.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wanwrap.data.dataset import Entry
from wanwrap.data.media import CAPTION, Item, Unfit, caption_of, content_mark
from wanwrap.data.probed import stamp_of
from wanwrap.errors import DatasetError, WeightsError, listing
from wanwrap.system import header
from wanwrap.system.files import write_atomic
from wanwrap.upstream.buckets import LATENTS, NAMED, TEXT, What, picture_name, text_name, window_name
from wanwrap.weights.locate import digest

MANIFEST = ".wanwrap-cache.json"
WHAT: tuple[What, ...] = ("latents", "text")


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


def missing(entries: Sequence[Entry], caches: Sequence[Path], what: What) -> list[Path]:
    """The files that upstream has yet to make, or should have made."""
    wanted = (cache / name for entry, cache in zip(entries, caches, strict=True) for name, _ in names(entry, what))
    return [path for path in wanted if not path.is_file()]


def stamps(entries: Sequence[Entry]) -> dict[Path, list[int]]:
    """All files that upstream reads of a data set, as they are now."""
    files = {path for entry in entries for item in entry.items for path in (item.path, _words(entry, item)) if path}
    return {path: _stamp(path) for path in files}


def _words(entry: Entry, item: Item) -> Path | None:
    """Where upstream reads a caption; None where that is the list that wanwrap has written."""
    if name := entry.options.get(f"{entry.kind}_jsonl_file"):
        return Path(name)
    return None if entry.listed else item.path.with_suffix(entry.options.get("caption_extension", CAPTION))


def _stamp(path: Path) -> list[int]:
    with suppress(OSError):
        return stamp_of(path)
    return []


def forget(entries: Sequence[Entry], caches: Sequence[Path], before: Mapping[Path, list[int]]) -> set[str]:
    """Remove what was cached of files that are not as they were: nobody knows of what it was made. Their names.

    A file that was only touched, or linked, is as it was.
    """
    moved, gone = {path for path, stamp in stamps(entries).items() if stamp != before.get(path)}, set[str]()
    for entry, cache in zip(entries, caches, strict=True):
        for item in entry.items:
            others: dict[What, bool] = {
                "latents": item.path in moved and _content(item.path) != item.mark,
                "text": _words(entry, item) in moved and _caption(entry, item) != item.caption,
            }
            for what in (what for what, other in others.items() if other):
                gone.add(item.path.name)
                for name, _ in names(replace(entry, items=(item,)), what):
                    (cache / name).unlink(missing_ok=True)
    return gone


def _content(path: Path) -> str:
    with suppress(OSError):
        return content_mark(path)
    return ""


def _caption(entry: Entry, item: Item) -> str | None:
    """The words that stand there now; None where there are none that can be told."""
    if entry.options.get(f"{entry.kind}_jsonl_file"):
        return None
    with suppress(Unfit):
        return caption_of(item.path, entry.options.get("caption_extension", CAPTION))
    return None


def unexpected(entries: Sequence[Entry], caches: Sequence[Path]) -> list[str]:
    """What lies in the caches of no file of the data set: upstream trains it all the same."""
    found = list[str]()
    for entry, cache in zip(entries, caches, strict=True):
        wanted = {name for what in WHAT for name, _ in names(entry, what)}
        there = (path.name for path in cache.iterdir() if path.name.endswith((TEXT, LATENTS)))
        found += sorted(name for name in there if name not in wanted)
    return found


@dataclass(frozen=True, kw_only=True)
class Survey:
    """An entry's cache as it is: what of it stays, what goes, and a mark of what each file should be made of."""

    folder: Path
    expected: Mapping[What, Mapping[str, str]]
    stays: frozenset[str]
    goes: tuple[Path, ...]

    def to_encode(self, what: What) -> list[str]:
        """The names of files that upstream has yet to make."""
        return [name for name in self.expected[what] if name not in self.stays]

    @property
    def complete(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.goes or any(map(self.to_encode, WHAT)))

    def prune(self) -> None:
        """Remove what goes, and write down what the rest is, and will be, made of."""
        marks = {name: mark for each in self.expected.values() for name, mark in each.items()}
        for path in self.goes:
            path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        if _manifest(self.folder) != marks:
            write_atomic(self.folder / MANIFEST, json.dumps(marks, indent=0, sort_keys=True))


def survey(entry: Entry, cache: Path, marks: Mapping[What, str]) -> Survey:
    """What of an entry's cache is stale, half, or of no file of its; `marks` tell encoders and mode.

    The entry's items must have been read whole.

    Raises:
        DatasetError: something else lies there that upstream would delete.
    """
    expected = _expected(entry, marks)
    wanted = {name: mark for each in expected.values() for name, mark in each.items()}
    there = [path for path in cache.iterdir() if path.name.endswith((TEXT, LATENTS))] if cache.is_dir() else []
    if foreign := [path.name for path in there if not NAMED.search(path.name) or not path.is_file()]:
        raise DatasetError(
            f"{listing(foreign)} in {cache} ends as a cache and is none; musubi-tuner would delete it. Move it away."
        )
    # what a control_directory holds is no file of the entry's, and may have changed
    before = {} if "control_directory" in entry.options else _manifest(cache)
    stays = {path.name for path in there if before.get(path.name, "") == wanted.get(path.name) and _whole(path)}
    goes = tuple(path for path in there if path.name not in stays)
    return Survey(folder=cache, expected=expected, stays=frozenset(stays), goes=goes)


def _expected(entry: Entry, marks: Mapping[What, str]) -> dict[What, dict[str, str]]:
    """A mark of what each file should be made of."""
    return {what: {name: digest(*of, mark) for name, of in names(entry, what)} for what, mark in marks.items()}


def differing(entries: Sequence[Entry], caches: Sequence[Path], marks: Mapping[What, str]) -> list[str]:
    """Files that the manifest, written since the entries were read, tells to be made of something else."""
    found = list[str]()
    for entry, cache in zip(entries, caches, strict=True):
        written = _manifest(cache)
        wanted = [pair for each in _expected(entry, marks).values() for pair in each.items()]
        found += [name for name, mark in wanted if written.get(name) != mark]
    return found


def _manifest(cache: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        found = json.loads((cache / MANIFEST).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _whole(path: Path) -> bool:
    try:
        header.read(path)
    except (WeightsError, OSError):
        return False
    return True
