"""The data set TOML that wanwrap writes: the commented template, filled."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wanwrap.data.dataset import Dataset, Entry
from wanwrap.paths import folder


def render(dataset: Dataset, caches: Sequence[Path], lists: Sequence[Path | None] | None = None) -> str:
    """The TOML of a data set; `caches` gives the cache folder of each entry, `lists` its list of files if it has one."""
    import tomlkit

    head, image, video = (folder("templates") / "dataset.toml").read_text(encoding="utf-8").split("[[datasets]]\n")
    document, common = tomlkit.parse(head), dict[str, Any]()
    for name, value in dataset.entries[0].options.items():
        if name in document["general"] and all(entry.options.get(name) == value for entry in dataset.entries):
            document["general"][name] = common[name] = value
    parts = [tomlkit.dumps(document)]
    for entry, cache, files in zip(dataset.entries, caches, lists or [None] * len(caches), strict=True):
        place, listed = f"{entry.kind}_directory", f"{entry.kind}_jsonl_file"
        part = image if entry.kind == "image" else video.replace("# Clips.", _heading(entry))
        table = tomlkit.parse(part.replace(place, listed) if files else part)
        table[listed if files else place] = (files or entry.directory).as_posix()
        table["cache_directory"] = cache.as_posix()
        for name, value in entry.options.items():
            if name not in common:
                table[name] = list(value) if isinstance(value, tuple) else value
        parts.append(f"[[datasets]]\n{tomlkit.dumps(table)}")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def _heading(entry: Entry) -> str:
    """What tells one entry of clips from the next."""
    width, height = entry.options["resolution"]
    frames = ", ".join(map(str, entry.options.get("target_frames", (1,))))
    return f"# Clips, target_frames {frames}, resolution {width}x{height}."


def file_list(entry: Entry) -> str:
    """An entry's files as upstream reads a list of them: a JSON object a line, with whole paths and captions."""
    rows = ({f"{entry.kind}_path": item.path.as_posix(), "caption": item.caption} for item in entry.items)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
