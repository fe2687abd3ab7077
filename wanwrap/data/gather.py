"""Files of one kind -> what upstream can train of them, and what it can't, file by file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wanwrap.data.dataset import Left
from wanwrap.data.media import CAPTION, Item, Kind, Unfit, awkward, caption_of, kind_of
from wanwrap.data.probed import probe
from wanwrap.upstream import buckets


def gather(
    paths: Sequence[Path],
    kind: Kind,
    *,
    suffix: str = CAPTION,
    captions: Mapping[Path, str] | None = None,
    whole: bool = False,
    done: Callable[[], object] = bool,
) -> tuple[tuple[Item, ...], list[Left]]:
    """Items with their captions (from files of that `suffix`, else those given), and the files that are left out; `done` hears of each."""
    odd = {path: why for path in paths if (why := awkward(path))}
    for _ in odd:
        done()
    found = probe([path for path in paths if path not in odd], kind, whole=whole, done=done)
    left = [Left(path=path, kind=kind, reason=why, stops=stops) for path, (why, stops) in odd.items()]
    items, twins = list[Item](), dict(_twins(paths))
    for path, item in found.items():
        if isinstance(item, str):
            left.append(Left(path=path, kind=kind, reason=item))
            continue
        try:
            items.append(_sound(item, twins, _caption(path, suffix, captions)))
        except Unfit as error:
            left.append(Left(path=path, kind=kind, reason=str(error), item=item))
    return tuple(items), left


def _caption(path: Path, suffix: str, captions: Mapping[Path, str] | None) -> str:
    return caption_of(path, suffix) if captions is None else captions[path]


def _sound(item: Item, twins: Mapping[Path, str], caption: str) -> Item:
    """Raises Unfit: upstream would end on it, or keep one cache for two files."""
    if item.path in twins:
        raise Unfit(twins[item.path])
    if min(item.size) < buckets.STEP:
        raise Unfit("it is smaller than 16 pixels; remove it")
    return replace(item, caption=caption)


def _twins(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Files that would share another's cache file: of names that differ in case too, on many a disk."""
    first = dict[str, Path]()
    for path in sorted(filter(kind_of, paths), key=str):
        other = first.setdefault(path.stem.casefold(), path)
        if other != path:
            yield path, f"it shares its name with {other.name}, so one would overwrite the other's cache; rename one"
