"""Do a LoRA and a DiT belong together? T2V's and I2V's, high's and low's have the same shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.system.safetensors import Source
from wanwrap.upstream.dit import PREFIX
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.models import SHAPES, said_by
from wanwrap.weights.provenance import history

OPPOSITES = (("high", "low"), ("t2v", "i2v"))
CHANNELS = {shape[1]: task[:3] for task, shape in SHAPES.items() if shape and task.endswith("A14B")}  # of a DiT's input


def check_pair(dit: Source, lora: Source, marks: Mapping[Path, str]) -> None:
    """`marks` are those sha256 that are known.

    Raises:
        WeightsError: the LoRA is another expert's, or another model's of the same shapes, or in the DiT already.
    """
    path, mark = lora.paths[0], marks.get(lora.paths[0])
    made, says = [*history(dit.metadata)], _told(path.name, mark)
    files = [
        {"name": dit.paths[0].name, "sha256": marks.get(dit.paths[0])},
        *(file for each in made for file in each["from"]),
    ]
    words = _by_channels(dit).union(*(_told(str(file.get("name")), file.get("sha256")) for file in files))
    for pair in OPPOSITES:
        one, other = words & {*pair}, says & {*pair}
        if one and other and one.isdisjoint(other):
            raise WeightsError(
                f"{path} is for {min(other)} and {dit.paths[0]} is for {min(one)}; "
                "give the two that belong together (if a name is wrong, rename the file)."
            )
    if mark and mark in [each["lora"].get("sha256") for each in made]:
        raise WeightsError(f"{dit.paths[0]} has {path.name} merged in; give the DiT as published.")


def _by_channels(dit: Source) -> set[str]:
    """Whether its input is that of T2V or of I2V, where that tells."""
    rows = [
        dit.rows[name] for name in ("patch_embedding.weight", f"{PREFIX}patch_embedding.weight") if name in dit.rows
    ]
    return {CHANNELS[count] for row in rows for count in row.shape[1:2] if count in CHANNELS}


def _told(name: str, sha256: str | None) -> set[str]:
    """What a file says it is for (high, low, t2v, i2v): by its content where that is published, else by its name."""
    published = next((each for each, weight in CATALOGUE.items() if sha256 and weight.sha256 == sha256), None)
    return said_by(published) if published else said_by(Path(name).stem) & {"high", "low"}
