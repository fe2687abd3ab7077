"""A LoRA merged into a DiT, tensor by tensor: `W + strength * alpha / rank * up @ down`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from wanwrap.errors import OptionError, WeightsError
from wanwrap.rewrite.engine import Tensor, layout
from wanwrap.rewrite.job import OWN, STORED, Job, cast, check_published, worth_hashing
from wanwrap.system.safetensors import FLOATS, Row, Source, open_source
from wanwrap.upstream.dit_file import PREFIX, blocks_dtype
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.lora import LowRank, Match, grouped, is_lora, match
from wanwrap.weights.models import SHAPES, said_by
from wanwrap.weights.provenance import history

OPPOSITES = (("high", "low"), ("t2v", "i2v"))
CHANNELS = {
    shape[1]: task[:3] for task, shape in SHAPES.items() if shape and task.endswith("A14B")
}  # of the DiT's input


def job(
    *,
    dit: Path,
    lora: Path,
    strength: float = 1.0,
    precision: str | None = None,
    allow_partial: bool = False,
    dit_sha256: str | None = None,
    lora_sha256: str | None = None,
) -> Job:
    """The merge of these files; `precision` (fp16 or bf16) casts on the way, with no rounding in between.

    `dit_sha256` and `lora_sha256` are what the files must turn out to be.

    Raises:
        WeightsError: no DiT, no LoRA, not for each other, or keys of the LoRA that would be left.
        OptionError: a strength that merges nothing.
    """
    if not math.isfinite(strength) or strength == 0:
        raise OptionError(f"--strength {strength:g} merges nothing; 1 is what LoRAs are made for.")
    source, delta = open_source(dit), open_source(lora)
    main = main_dtype(source, "a merge's small changes would be rounded away in them")
    rows = native(source)
    found = match(delta, {name: row for row, name in rows.items()}, strength)
    if not allow_partial:
        _check_left(source, delta, found)

    def change(row: Row) -> Tensor:
        name = rows[row]
        by_rows = any(isinstance(patch, LowRank) for patch in found.patches.get(name, ()))
        return Tensor(row, name, cast(row.dtype, main, precision), by_rows)

    def check(marks: Mapping[Path, str]) -> None:
        check_published(source, marks, dit_sha256, OWN)
        check_published(delta, marks, lora_sha256)
        delta.check_unchanged()
        _check_pair(source, delta, marks)

    check({})
    return Job(
        source=source,
        tensors=layout(source, change),
        made={"made": "merge", "strength": strength, "precision": precision, "left": grouped(found.left)},
        lora=delta,
        match=found,
        hashed=(*delta.paths, *worth_hashing(source, dit_sha256)),
        check=check,
    )


def _check_left(source: Source, delta: Source, found: Match) -> None:
    """Raises WeightsError: keys of the LoRA for which the DiT has no tensors."""
    if found.left:
        raise WeightsError(
            f"{source.paths[0]} has no tensors for {len(found.left)} of {delta.paths[0]}'s {len(delta.rows)} keys: "
            f"{grouped(found.left)}; give the LoRA of this model, or merge the others alone with --allow_partial."
        )


def native(source: Source) -> dict[Row, str]:
    """Each tensor's name without the prefix of repacked files. Raises WeightsError: some have it, others not."""
    prefixed = [name for name in source.rows if name.startswith(PREFIX)]
    if prefixed and len(prefixed) < len(source.rows):
        other = next(name for name in source.rows if not name.startswith(PREFIX))
        raise WeightsError(
            f"{source.paths[0]} holds more than a DiT ({other}), and upstream reads DiTs alone; give the DiT's own file."
        )
    return {row: name.removeprefix(PREFIX) for name, row in source.rows.items()}


def main_dtype(source: Source, why: str) -> str:
    """The type that the DiT's blocks are stored in. Raises WeightsError: no DiT, or one with fp8 in it."""
    rows = source.rows
    if is_lora(source):
        raise WeightsError(f"{source.paths[0]} is a LoRA, no DiT; have --dit and --lora changed places?")
    main = blocks_dtype(source.paths[0], {name: row.dtype for name, row in rows.items()})
    if eight := next((row.name for row in rows.values() if row.dtype not in FLOATS), None):
        raise WeightsError(
            f"{source.paths[0]} stores {eight} as {rows[eight].dtype}; of a number's fraction fp8 keeps 3 bits: {why}; "
            "give the fp16 or bf16 file, upstream makes fp8 of it while it loads."
        )
    return STORED[main]


def _told(path: str, sha256: str | None) -> set[str]:
    """What a file says it is for (high, low, t2v, i2v): by its content where that is published, else by its name."""
    published = next((name for name, weight in CATALOGUE.items() if sha256 and weight.sha256 == sha256), None)
    return said_by(published) if published else said_by(Path(path).stem) & {"high", "low"}


def _dit_told(source: Source, marks: Mapping[Path, str]) -> set[str]:
    """The same of a DiT: by its input's channels too, and what it was converted from."""
    patches = source.rows.get("patch_embedding.weight") or source.rows.get(f"{PREFIX}patch_embedding.weight")
    channels = patches.shape[1:2] if patches else ()
    words = {CHANNELS[each] for each in channels if each in CHANNELS}
    words |= _told(source.paths[0].name, marks.get(source.paths[0]))
    for file in [file for record in history(source.metadata) for file in record["from"]]:
        words |= _told(str(file.get("name")), file.get("sha256"))
    return words


def _check_pair(source: Source, delta: Source, marks: Mapping[Path, str]) -> None:
    """Raises WeightsError: the LoRA is another expert's, or another model's of the same shapes, or in it already."""
    dit, lora = _dit_told(source, marks), _told(delta.paths[0].name, mark := marks.get(delta.paths[0]))
    for pair in OPPOSITES:
        one, other = dit & set(pair), lora & set(pair)
        if one and other and one.isdisjoint(other):
            raise WeightsError(
                f"{delta.paths[0]} is for {min(other)} and {source.paths[0]} is for {min(one)}; "
                "give the two that belong together (if a name is wrong, rename the file)."
            )
    if mark and mark in [record["lora"].get("sha256") for record in history(source.metadata)]:
        raise WeightsError(f"{source.paths[0]} has {delta.paths[0].name} merged in; give the DiT as published.")
