"""The data set TOML that wanwrap writes: the commented template, filled."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wanwrap.data import folder
from wanwrap.dataset import Dataset


def render(dataset: Dataset, caches: Sequence[Path]) -> str:
    """The TOML of a data set; `caches` gives the cache folder of each entry."""
    import tomlkit

    document = tomlkit.parse((folder("templates") / "dataset.toml").read_text(encoding="utf-8"))
    image, video = document["datasets"]
    general = document["general"]
    common = {name: value for name, value in _shared(dataset) if name in general}
    general.update(common)
    filled = tomlkit.aot()
    for entry, cache in zip(dataset.entries, caches, strict=True):
        table = copy.deepcopy(image if entry.kind == "image" else video)
        table[f"{entry.kind}_directory"] = entry.directory.as_posix()
        table["cache_directory"] = cache.as_posix()
        for name, value in entry.options.items():
            if name not in common:
                table[name] = list(value) if isinstance(value, tuple) else value
        filled.append(table)
    document["datasets"] = filled
    return re.sub(r"\n{3,}", "\n\n", tomlkit.dumps(document))  # tomlkit parts copied entries twice


def _shared(dataset: Dataset) -> Iterator[tuple[str, Any]]:
    """The options that all entries have alike."""
    first, *others = (entry.options for entry in dataset.entries)
    return ((name, value) for name, value in first.items() if all(each.get(name) == value for each in others))
