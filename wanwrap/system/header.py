"""What stands in a safetensors file, from its header alone: standard library, milliseconds, no torch."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wanwrap.errors import WeightsError

MOST = 100_000_000  # bytes of JSON; safetensors' own limit
DTYPES = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F8_E4M3": "fp8"}
PREFIX = "model.diffusion_model."
BLOCK = "blocks.0.cross_attn.k.weight"  # the tensor by which upstream tells a DiT and its type
SCALED = (".scale_weight", ".scale_input", ".weight_scale", ".weight_scale_2", ".comfy_quant", "scaled_fp8")


def read(path: Path) -> dict[str, Any]:
    """The header: `{"blocks.0...": {"dtype": "F16", "shape": [..], "data_offsets": [a, b]}, ...}`.

    Raises:
        WeightsError: not a safetensors file, or shorter than its own header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MOST, size):
                raise ValueError("its header would be larger than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        end = max((row["data_offsets"][1] for key, row in header.items() if key != "__metadata__"), default=0)
        if size >= 8 + length + end and not all(type(text) is str for text in header.get("__metadata__", {}).values()):
            raise ValueError("its metadata are no texts")
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {os.strerror(error.errno or 0)}.") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}); get it again.") from error
    if size < 8 + length + end:
        raise WeightsError(f"{path} is cut off: {size:,} of {8 + length + end:,} bytes are there; get it again.")
    return header


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
