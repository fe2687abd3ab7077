"""What wanwrap wrote into a DiT or text encoder that it made: of which files, and how."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def made_from(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What wanwrap wrote into a file that it made; empty for others."""
    try:
        found = json.loads(metadata.get("wanwrap", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def history(metadata: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """How a file was made, and what it was made from was made; `from` and `lora` are what they should be."""
    record: Any = made_from(metadata)
    while isinstance(record, dict):
        files, lora = record.get("from"), record.get("lora")
        named = [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []
        yield {"from": named, "lora": lora if isinstance(lora, dict) else {}}
        record = record.get("before")
