"""What a LoRA was trained on and by, in its own metadata: upstream leaves out what a wrapper must know later.

It goes in as upstream's `--training_comment`, and comes back from `ss_training_comment`, where anything may stand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from wanwrap import __version__
from wanwrap.preset import Expert, Preset
from wanwrap.upstream.options import Options, whole
from wanwrap.upstream.pin import Upstream
from wanwrap.weights.locate import Located

KEY = "ss_training_comment"
WINDOW = "modelspec.timestep_range"
ALL = (0, 1000)  # timesteps, where nothing says otherwise
Window = tuple[int, int]


def text(
    name: str,
    preset: Preset,
    expert: Expert,
    options: Options,
    upstream: Upstream,
    dit: Located,
    lightning: tuple[Located, float] | None = None,
    done: tuple[int, int] | None = None,
) -> str:
    """The record as short JSON in ASCII: it stands in a command line. A comment of the user's is kept within.

    `name` is what the preset is called here; `dit` is the base model, before a merge or a cast; `lightning` what is merged into it, and how much of it; `done`
    the epochs and steps before this training, which upstream counts from 0 again.
    """
    found = {
        "wanwrap": __version__,
        "upstream": {"version": upstream.version, "commit": upstream.commit},
        "preset": name,
        "task": preset.task,
        "expert": expert.noise_level,
        "boundary": boundary(preset),
        "timesteps": window(options),
        "preserve_distribution_shape": options.get("preserve_distribution_shape"),
        "fp8": "scaled" if options.get("fp8_scaled") else "base" if options.get("fp8_base") else None,
        "base": _file(dit),
        "lightning": {**_file(lightning[0]), "strength": lightning[1]} if lightning else None,
        "done": done,
        "comment": options.get("training_comment"),
    }
    return json.dumps({name: value for name, value in found.items() if value}, separators=(",", ":"))


def _file(weight: Located) -> dict[str, Any]:
    """A weight by its name, its size and the best mark that is known without reading all of it."""
    size = weight.size if weight.exists else weight.weight.size if weight.weight else None
    mark = {"sha256": weight.sha256} if weight.sha256 else {"header_sha256": weight.header_sha256}
    row = {"name": weight.path.name, "dtype": weight.dtype, "bytes": size, **mark}
    return {name: value for name, value in row.items() if value}


def window(options: Options) -> Window:
    """The timesteps that are trained."""
    return whole(options, "min_timestep", ALL[0]), whole(options, "max_timestep", ALL[1])


def windows(preset: Preset) -> dict[str | None, Window]:
    """The timesteps of each expert, as the preset has them."""
    return {expert.noise_level: window({**preset.train, **expert.train}) for expert in preset.experts}


def boundary(preset: Preset) -> int | None:
    """The timestep at which one expert ends and the other begins; None for a single model."""
    edges = {edge for each in windows(preset).values() for edge in each} - {*ALL}
    return edges.pop() if len(edges) == 1 and preset.experts[0].noise_level else None


# The fields of a record, and what makes each one that can be used.
FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("wanwrap", "preset", "task", "expert", "fp8", "comment"), lambda value: type(value) is str),
    **dict.fromkeys(("upstream", "base", "lightning"), lambda value: type(value) is dict),
    **dict.fromkeys(("timesteps", "done"), lambda value: type(value) is list and [*map(type, value)] == [int, int]),
    "boundary": lambda value: type(value) is int,
    "preserve_distribution_shape": lambda value: value is True,
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


def title(preset: str, expert: str | None) -> str:
    """What was trained, in words; trainings of one title may go on from each other's weights."""
    return f"the {expert}-noise expert of {preset}" if expert else preset


def titled(record: Mapping[str, Any]) -> str:
    """The title of a record."""
    return title(record["preset"], record.get("expert"))


def range_of(metadata: Mapping[str, str]) -> Window | None:
    """The timesteps as upstream itself has written them down; None where it has not."""
    try:
        low, high = map(int, metadata.get(WINDOW, "").split(","))
    except ValueError:
        return None
    return (low, high) if low < high else None


def nearest(preset: Preset, trained: Window) -> str | None:
    """The expert in whose timesteps most of these lie; None where no one's are, or all have a single model."""
    parts = {level: min(high, trained[1]) - max(low, trained[0]) for level, (low, high) in windows(preset).items()}
    best = [level for level, part in parts.items() if part == max(parts.values()) > 0]
    return best[0] if len(best) == 1 else None


def trained(metadata: Mapping[str, str]) -> dict[str, Any]:
    """How a LoRA of upstream's was trained: the record, and the counts that upstream writes down; {} of others."""
    record = read(metadata)
    epochs, steps = record.get("done", (0, 0)) if record else (0, 0)
    facts = {
        "epoch": _count(metadata, "ss_epoch", epochs),
        "epochs": _count(metadata, "ss_num_epochs"),
        "steps": _count(metadata, "ss_steps", steps),
        "steps_planned": _count(metadata, "ss_max_train_steps"),
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
        titled(record) if record else "",
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
