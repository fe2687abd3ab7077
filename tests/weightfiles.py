"""Weight files as they are published, by their true headers: sparse, so that 28 GB take a few kB."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from helpers import grow

from wanwrap.system.safetensors import WIDTHS

# Names and shapes of upstream's own models, `{n}` for 0 to n-1.
STRUCTURES: dict[str, dict[str, list[int]]] = json.loads(Path(__file__).with_name("structures.json").read_text())
Rows = dict[str, tuple[str, list[int]]]


def rows(model: str, dtype: str = "F16") -> Rows:
    """`{name: (dtype, shape)}` of all tensors."""
    found = Rows()
    for name, shape in STRUCTURES[model].items():
        count = re.search(r"\{(\d+)\}", name)
        for index in range(int(count[1]) if count else 1):
            found[re.sub(r"\{\d+\}", str(index), name)] = (dtype, shape)
    return found


def prefixed(tensors: Rows, prefix: str = "model.diffusion_model.") -> Rows:
    """Repacked under a prefix."""
    return {prefix + name: row for name, row in tensors.items()}


def scaled(tensors: Rows, ending: str = ".scale_weight") -> Rows:
    """As fp8_scaled files are: fp8, and a number beside each matrix."""
    found = Rows()
    for name, (dtype, shape) in tensors.items():
        matrix = "blocks." in name and name.endswith(".weight")
        found[name] = ("F8_E4M3" if matrix else dtype, shape)
        if matrix:
            found[name.removesuffix(".weight") + ending] = ("F32", [])
    return found


def lora(
    name: Callable[[str], str] = "diffusion_model.{}".format, rank: int = 64, width: int = 5120, dtype: str = "F32"
) -> Rows:
    """A LoRA of 40 blocks' attention and feed-forward matrices, as Lightning's."""
    found = Rows()
    for block in range(40):
        for part in (*(f"{a}_attn.{m}" for a in ("self", "cross") for m in "qkvo"), "ffn.0", "ffn.2"):
            inner, outer = (width, 13824)[part == "ffn.2"], (width, 13824)[part == "ffn.0"]
            module = name(f"blocks.{block}.{part}")
            found[f"{module}.lora_down.weight"] = (dtype, [rank, inner])
            found[f"{module}.lora_up.weight"] = (dtype, [outer, rank])
            found[f"{module}.alpha"] = ("I64", [])
    return found


def sparse(path: Path, tensors: Rows, metadata: Mapping[str, str] | None = None) -> Path:
    """A file with this header, its tensors in the order of safetensors' own writer, and holes for numbers."""
    end, table = 0, dict[str, object]({"__metadata__": dict(metadata)} if metadata else {})
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda row: (-WIDTHS[row[1][0]], row[0])):
        size = math.prod(shape) * WIDTHS[dtype]
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
    grow(path, 8 + len(text) + end)
    return path
