"""The data set TOML that wanwrap writes: the commented template, filled."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from wanwrap.data import folder
from wanwrap.dataset import Dataset, Entry


def render(dataset: Dataset, caches: Sequence[Path]) -> str:
    """The TOML of a data set; `caches` gives the cache folder of each entry."""
    import tomlkit

    document = tomlkit.parse((folder("templates") / "dataset.toml").read_text(encoding="utf-8"))
    image, video = document["datasets"]
    general = document["general"]
    filled = tomlkit.aot()
    for entry, cache in zip(dataset.entries, caches, strict=True):
        table = copy.deepcopy(image if entry.kind == "image" else video)
        _fill(table, entry, cache, general)
        filled.append(table)
    document["datasets"] = filled
    return tomlkit.dumps(document)


def _fill(table: object, entry: Entry, cache: Path, general: object) -> None:
    table[f"{entry.kind}_directory"] = entry.directory.as_posix()  # type: ignore[index]
    table["cache_directory"] = cache.as_posix()  # type: ignore[index]
    for name, value in entry.options.items():
        where = general if name in general else table  # type: ignore[operator]
        where[name] = list(value) if isinstance(value, tuple) else value  # type: ignore[index]
