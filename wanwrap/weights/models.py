"""The models whose files upstream loads, by what a safetensors header tells of them.

Upstream loads strictly: one tensor too many, too few or of another shape, and it stops. So a structure is the
md5 of all names and shapes, in the form that DiffSynth-Studio's model list uses; its values there are those of
musubi-tuner's own models (v0.3.4), from which they were computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["dit", "vae", "t5", "clip", "lora", "other"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """One structure. `names` are the catalogue's models that have it; `tasks` those of upstream's that load it."""

    role: Role
    what: str
    names: tuple[str, ...]
    tensors: int
    tasks: tuple[str, ...] = ()
    shape: tuple[int, int, bool] | None = None  # a DiT's width, channels of its input, whether it takes CLIP's


T2V = ("wan2.1-t2v-14b", "wan2.2-t2v-high", "wan2.2-t2v-low")
MODELS = {
    "9269f8db9040a9d860eaca435be61814": Model(
        role="dit",
        what="Wan 2.1 T2V 1.3B",
        names=("wan2.1-t2v-1.3b",),
        tensors=825,
        tasks=("t2v-1.3B",),
        shape=(1536, 16, False),
    ),
    "aafcfd9672c3a2456dc46e1cb6e52c70": Model(
        role="dit",
        what="Wan T2V 14B (2.1, or 2.2's high or low noise: their headers are the same)",
        names=T2V,
        tensors=1095,
        tasks=("t2v-A14B", "t2v-14B", "t2i-14B"),
        shape=(5120, 16, False),
    ),
    "5b013604280dd715f8457c6ed6d6a626": Model(
        role="dit",
        what="Wan 2.2 I2V A14B (high or low noise: their headers are the same)",
        names=("wan2.2-i2v-high", "wan2.2-i2v-low"),
        tensors=1095,
        tasks=("i2v-A14B",),
        shape=(5120, 36, False),
    ),
    "6bfcfb3b342cb286ce886889d519a77e": Model(
        role="dit",
        what="Wan 2.1 I2V 14B (480p, 720p or Fun-InP: their headers are the same)",
        names=("wan2.1-i2v-480p", "wan2.1-i2v-720p"),
        tensors=1303,
        tasks=("i2v-14B",),
        shape=(5120, 36, True),
    ),
    "ccc42284ea13e1ad04693284c7a09be6": Model(
        role="vae", what="Wan 2.1's VAE, or Qwen-Image's (their headers are the same)", names=("vae",), tensors=194
    ),
    "9c8818c2cbea55eca56c7b447df170da": Model(
        role="t5", what="UMT5-XXL in Wan's key names", names=("t5",), tensors=242
    ),
    "5941c53e207d62f20f9025686193c40b": Model(
        role="clip", what="Open-CLIP XLM-RoBERTa ViT-H, whole", names=("clip",), tensors=784
    ),
}
SHAPES = {task: model.shape for model in MODELS.values() for task in model.tasks}


def structure(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The md5 of `{name: {"shape": [..]}}`; no order matters."""
    words = [*rows, *(f"{name}:{'_'.join(map(str, row['shape']))}" for name, row in rows.items())]
    return hashlib.md5(",".join(sorted(words)).encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
