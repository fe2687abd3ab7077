"""Samples on a page: a row for each prompt, in columns that can be compared, each a file beside the page."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from wanwrap.look.samples import Sample

SHOWN = {".mp4", ".webm", ".png", ".jpg", ".jpeg", ".webp"}
OWN = re.compile(r"_(e)?(\d{6})_(\d{2,})_\d{14}")  # what upstream makes while it trains: an epoch or a step, the prompt
OWN_SETTINGS = {"guidance_scale": "cfg {:g}", "flow_shift": "shift {:g}", "negative_prompt": "negative prompt: {}"}


@dataclass(frozen=True)
class Cell:
    """A picture or a clip: its `file` below the run's folder, its pixels where they are known, the LoRAs it was made with."""

    file: str
    width: int | None = None
    height: int | None = None
    loras: str = ""

    @property
    def url(self) -> str:
        """The file, for a page in the run's folder; whatever it is called, nothing but that."""
        return quote(os.fsencode(self.file))


Rows = Mapping[tuple[str, str], Mapping[str, Cell]]  # by prompt and settings, then by column


def compared(samples: Sequence[Sample], epochs: Mapping[str, int]) -> tuple[Rows, list[str]]:
    """Those that `wanwrap sample` has made, without LoRAs first, then by the `epochs` of the LoRAs' files and strength."""
    own = [name for name in OWN_SETTINGS if len({getattr(each, name) for each in samples}) > 1]
    rows = {(each.prompt, _settings(each, own)): dict[str, Cell]() for each in samples}
    strengths = {each.strength for each in samples if each.epoch is not None}
    experts, columns = {expert for each in samples for expert in each.loras}, dict[str, None]()

    def order(each: Sample) -> tuple[bool, int, int, float]:
        least = min((epochs.get(name, 0) for name in each.loras.values()), default=0)
        return each.epoch is not None, each.epoch or 0, least, each.strength

    for each in sorted(samples, key=order):
        alone = "" if each.epoch is None or {*each.loras} == experts else f", {' and '.join(each.loras)} alone"
        strength = f" at {each.strength:g}" if len(strengths) > 1 else ""
        column = "without" if each.epoch is None else f"epoch {_epoch(each, epochs)}{strength}{alone}"
        columns[column] = None
        loras = ", ".join([*each.loras.values(), *([f"strength {each.strength:g}"] if each.loras else [])])
        rows[each.prompt, _settings(each, own)][column] = Cell(each.file, each.width, each.height, loras)
    return rows, [*columns]


def _epoch(sample: Sample, epochs: Mapping[str, int]) -> str:
    """`50`, or `50 (high), 5 (low)`: one expert may be sampled while the other is not as far."""
    found = {expert: epochs[name] for expert, name in sample.loras.items() if name in epochs}
    if len({*found.values()}) < 2:
        return str(sample.epoch)
    return ", ".join(f"{epoch or sample.epoch} ({expert})" for expert, epoch in found.items())


def _settings(sample: Sample, own: Sequence[str]) -> str:
    """Of a prompt's `own` settings those that differ."""
    frames = f", {sample.frames} frames" if sample.clip else ""
    more = "".join(f", {OWN_SETTINGS[name].format(value)}" for name in own if (value := getattr(sample, name)) != "")
    lightning = f", Lightning {sample.lightning}" if sample.lightning else ""
    start = f", from {Path(sample.image).name}" if sample.image else ""
    size = f"{sample.width}x{sample.height}{frames}"
    return f"{size}, {sample.infer_steps} steps{more}{lightning}{start}, seed {sample.seed}"


def while_training(folder: Path) -> tuple[Rows, list[str]]:
    """Those that upstream has made in an expert's folder, by prompt and epoch or step."""
    rows, columns = defaultdict[int, dict[str, Cell]](dict), dict[str, None]()
    there = sorted((folder / "samples").glob("*"), key=lambda path: path.name)
    for path in there:
        found = OWN.search(path.name)
        if found and path.suffix.lower() in SHOWN:
            column = f"{'epoch' if found[1] else 'step'} {int(found[2])}"
            columns[column] = None
            file = f"{folder.name}/samples/{path.name}"
            rows[int(found[3]) + 1][column] = Cell(file)
    return {(f"prompt {number}", ""): cells for number, cells in sorted(rows.items())}, [*columns]
