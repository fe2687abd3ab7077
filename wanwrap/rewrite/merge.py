"""A LoRA merged into a DiT, tensor by tensor: `W + strength * alpha / rank * up @ down`."""

from __future__ import annotations

import math
from pathlib import Path

from wanwrap.errors import OptionError, WeightsError
from wanwrap.rewrite.job import Job, Tensor, cast, main_dtype, native_names
from wanwrap.system.safetensors import open_source
from wanwrap.weights.lora import LowRank, grouped, is_lora, match


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

    Raises:
        WeightsError: no DiT, no LoRA, not for each other, or keys of the LoRA that would be left.
        OptionError: a strength that merges nothing.
    """
    if not math.isfinite(strength) or strength == 0:
        raise OptionError(f"--strength {strength:g} merges nothing; 1 is what LoRAs are made for.")
    source, delta = open_source(dit), open_source(lora)
    if is_lora(source):
        raise WeightsError(f"{dit} is a LoRA, no DiT; have --dit and --lora changed places?")
    main, names = main_dtype(source, "a merge's small changes would be rounded away in them"), native_names(source)
    found = match(delta, {name: row for row, name in names.items()}, strength)
    left = grouped(found.left)
    if left and not allow_partial:
        raise WeightsError(
            f"{dit} has no tensors for {len(found.left)} of {lora}'s {len(delta.rows)} keys: {left}; "
            "give the LoRA of this model, or merge the others alone with --allow_partial."
        )
    low_rank = {name for name, patches in found.patches.items() if any(isinstance(each, LowRank) for each in patches)}
    decided = Job(
        source=source,
        tensors=[Tensor(row, name, cast(row.dtype, main, precision), name in low_rank) for row, name in names.items()],
        made={"made": "merge", "strength": strength, "precision": precision, "left": left},
        sha256=dit_sha256,
        lora=delta,
        lora_sha256=lora_sha256,
        patches=found.patches,
    )
    decided.check({})
    return decided
