"""The data set TOML that wanwrap writes: the commented template, filled."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wanwrap.data.dataset import Dataset, Entry
from wanwrap.paths import folder


def render(dataset: Dataset, caches: Sequence[Path], lists: Sequence[Path | None] | None = None) -> str:
    """The TOML of a data set; `caches` gives the cache folder of each entry, `lists` its list of files if it has one."""
    import tomlkit

    document = tomlkit.parse((folder("templates") / "dataset.toml").read_text(encoding="utf-8"))
    image, video = document["datasets"]
    general = document["general"]
    common = {name: value for name, value in _shared(dataset) if name in general}
    general.update(common)
    filled = tomlkit.aot()
    for entry, cache, files in zip(dataset.entries, caches, lists or [None] * len(caches), strict=True):
        table = copy.deepcopy(image if entry.kind == "image" else video)
        table[f"{entry.kind}_directory"] = entry.directory.as_posix()
        if files:
            _instead(table, f"{entry.kind}_directory", f"{entry.kind}_jsonl_file", files.as_posix())
        table["cache_directory"] = cache.as_posix()
        for name, value in entry.options.items():
            if name not in common:
                table[name] = list(value) if isinstance(value, tuple) else value
        filled.append(table)
    document["datasets"] = filled
    text = re.sub(r"\n{3,}", "\n\n", tomlkit.dumps(document))  # tomlkit parts copied entries twice
    headings = (_heading(entry) for entry in dataset.entries if entry.kind == "video")
    return re.sub(r"^# Clips\.$", lambda _: next(headings), text, flags=re.MULTILINE)


def _heading(entry: Entry) -> str:
    """What tells one entry of clips from the next."""
    width, height = entry.options["resolution"]
    frames = ", ".join(map(str, entry.options.get("target_frames", (1,))))
    return f"# Clips, target_frames {frames}, resolution {width}x{height}."


def _instead(table: Any, key: str, other: str, value: str) -> None:
    """Another key in a key's place, at the head of its table."""
    rest = {name: table.pop(name) for name in list(table) if name != key}
    del table[key]
    table[other] = value
    for name, kept in rest.items():
        table[name] = kept


def file_list(entry: Entry) -> str:
    """An entry's files as upstream reads a list of them: a JSON object a line, with whole paths and captions."""
    rows = ({f"{entry.kind}_path": item.path.as_posix(), "caption": item.caption} for item in entry.items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _shared(dataset: Dataset) -> Iterator[tuple[str, Any]]:
    """The options that all entries have alike."""
    first, *others = (entry.options for entry in dataset.entries)
    return ((name, value) for name, value in first.items() if all(each.get(name) == value for each in others))
