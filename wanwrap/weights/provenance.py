"""Where a file comes from, as its own metadata tell: what a LoRA was trained on and by, what a DiT was made of.

A LoRA's record stands in upstream's `ss_training_comment`, where anything may stand (plan/provenance.py writes it),
beside what upstream writes itself; that of a DiT or text encoder which wanwrap has made stands under `wanwrap`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wanwrap.upstream.rules import ALL, Window

KEY = "ss_training_comment"
WINDOW = "modelspec.timestep_range"

# The fields of a record, and what makes each one that can be used.
FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("wanwrap", "preset", "task", "expert", "fp8", "comment"), lambda value: type(value) is str),
    **dict.fromkeys(("upstream", "base", "lightning"), lambda value: type(value) is dict),
    **dict.fromkeys(("timesteps", "done"), lambda value: type(value) is list and [*map(type, value)] == [int, int]),
    "boundary": lambda value: type(value) is int,
    "preserve_distribution_shape": lambda value: value is True,
    "toy": lambda value: value is True,
}


def read(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The record in a header's metadata; None where there is none, whatever stands there instead."""
    try:
        found = json.loads(metadata.get(KEY, ""))
    except (ValueError, TypeError, RecursionError):
        return None
    if type(found) is not dict:
        return None
    record = {name: found[name] for name, fits in FIELDS.items() if name in found and fits(found[name])}
    return record if {"wanwrap", "preset"} <= record.keys() else None


def title(record: Mapping[str, Any]) -> str:
    """What was trained, in words; trainings of one title may go on from each other's weights."""
    preset, expert = record["preset"], record.get("expert")
    return f"the {expert}-noise expert of {preset}" if expert else preset


def range_of(metadata: Mapping[str, str]) -> Window | None:
    """The timesteps as upstream itself has written them down; None where it has not."""
    try:
        low, high = map(int, metadata.get(WINDOW, "").split(","))
    except ValueError:
        return None
    return (low, high) if low < high else None


def trained(metadata: Mapping[str, str]) -> dict[str, Any]:
    """How a LoRA of upstream's was trained: the record, and the counts that upstream writes down; {} of others."""
    record = read(metadata)
    epochs, steps = (record or {}).get("done", (0, 0))
    facts = {
        "epoch": _count(metadata, "ss_epoch", epochs),
        "epochs": _count(metadata, "ss_num_epochs", epochs),
        "steps": _count(metadata, "ss_steps", steps),
        "steps_planned": _count(metadata, "ss_max_train_steps", steps),
        "timesteps": range_of(metadata),
        "record": record,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _count(metadata: Mapping[str, str], name: str, before: int = 0) -> int | None:
    value = metadata.get(name, "")
    return int(value) + before if value.isascii() and value.isdigit() and len(value) < 10 else None


def told(facts: Mapping[str, Any]) -> str:
    """The same in plain words; empty where nothing is known."""
    record: Mapping[str, Any] = facts.get("record") or {}
    low, high = record.get("timesteps") or facts.get("timesteps") or ALL
    epochs, steps = (f" of {facts[name]}" if name in facts else "" for name in ("epochs", "steps_planned"))
    words = [
        title(record) if record else "",
        f"epoch {facts['epoch']}{epochs}" if "epoch" in facts else "",
        f"{facts['steps']}{steps} steps" if "steps" in facts else "",
        f"timesteps {low} to {high}" if (low, high) != ALL else "",
        f"boundary {record['boundary']}" if "boundary" in record else "",
        f"in {record['fp8']} fp8".replace("base ", "plain ") if "fp8" in record else "",
        _named("on", record.get("base")),
        _named("merged with", record.get("lightning")),
        f"wanwrap {record['wanwrap']}" if record else "",
        f"comment: {record['comment']}" if "comment" in record else "",
    ]
    return ", ".join(word for word in words if word)


def _named(how: str, file: Any) -> str:
    """A file of a record; its strength too, where it has one."""
    if not file or not isinstance(file.get("name"), str):
        return ""
    return f"{how} {file['name']}" + (f" at {file['strength']}" if "strength" in file else "")


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
