"""Files of one kind -> what upstream can train of them, and what it can't, file by file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wanwrap import buckets
from wanwrap.dataset import Left
from wanwrap.media import CAPTION, UNEVEN, Item, Kind, awkward, caption_of, kind_of
from wanwrap.probed import Bar, no_bar, probe


def gather(
    paths: Sequence[Path],
    kind: Kind,
    *,
    suffix: str = CAPTION,
    captions: Mapping[Path, str] | None = None,
    whole: bool = False,
    bar: Bar = no_bar,
) -> tuple[tuple[Item, ...], list[Left]]:
    """Items with their captions (from files of that `suffix`, else those given), and the files that are left out."""
    odd = {path: why for path in paths if (why := awkward(path))}
    found = probe([path for path in paths if path not in odd], kind, whole=whole, bar=bar)
    items, left = list[Item](), [
        Left(path=path, kind=kind, reason=why, stops=kind_of(path) is not None or "mixed case" in why)
        for path, why in odd.items()
    ]  # fmt: skip
    twins = dict(_twins(paths))
    for path, item in found.items():
        why = f"it can't be read: {item}; replace or remove it" if isinstance(item, str) else twins.get(path)
        try:
            if why is None and isinstance(item, Item):
                items.append(_sound(replace(item, caption=_caption(path, suffix, captions))))
                continue
        except ValueError as error:
            why = str(error)
        left.append(Left(path=path, kind=kind, reason=str(why), item=item if isinstance(item, Item) else None))
    return tuple(items), left


def _caption(path: Path, suffix: str, captions: Mapping[Path, str] | None) -> str:
    return caption_of(path, suffix) if captions is None else captions[path]


def _sound(item: Item) -> Item:
    """Raises ValueError: upstream would end on it, or train it wrongly."""
    if min(item.size) < buckets.STEP:
        raise ValueError("it is smaller than 16 pixels; remove it")
    if item.uneven > UNEVEN and item.frames:
        raise ValueError(
            f"its frames come at uneven times, up to {item.uneven:.2f} s off, and upstream takes them as even; "
            "`wanwrap prepare` mends it"
        )
    return item


def _twins(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Files that would share another's cache file: of names that differ in case too, on many a disk."""
    first = dict[str, Path]()
    for path in sorted(filter(kind_of, paths), key=str):
        other = first.setdefault(path.stem.casefold(), path)
        if other != path:
            yield path, f"it shares its name with {other.name}, so one would overwrite the other's cache; rename one"
