"""What upstream looks for in a DiT's file, and what of it it can train on. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from wanwrap.errors import WeightsError

DTYPES = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F8_E4M3": "fp8"}
PREFIX = "model.diffusion_model."
BLOCK = "blocks.0.cross_attn.k.weight"  # the tensor by which upstream tells a DiT and its type
SCALED = (".scale_weight", ".scale_input", ".weight_scale", ".weight_scale_2", ".comfy_quant", "scaled_fp8")


def scaled(names: Iterable[str]) -> str | None:
    """A tensor by which a scaled or quantised file is known."""
    return next((name for name in names if name.endswith(SCALED)), None)


def blocks_dtype(path: Path, dtypes: Mapping[str, str]) -> str:
    """fp16, bf16, fp32 or fp8: the type that upstream will find in this DiT, by the tensor it looks at.

    `dtypes` is `{key: "F16"}`. Raises WeightsError: upstream cannot train on it, with the reason.
    """
    if sign := scaled(dtypes):
        raise WeightsError(
            f"{path} is already scaled or quantised (it holds {sign}), which upstream cannot train on; "
            "give the fp16 or bf16 file, upstream makes fp8 of it by itself."
        )
    dtype = dtypes.get(BLOCK) or dtypes.get(PREFIX + BLOCK)
    if dtype is None:
        raise WeightsError(
            f"{path} is no Wan DiT in Wan's own key names; files made for diffusers, LoRAs and other models can't be trained on."
        )
    if dtype not in DTYPES:
        raise WeightsError(f"{path} stores its blocks as {dtype}; upstream trains on fp16, bf16 or fp32.")
    return DTYPES[dtype]
