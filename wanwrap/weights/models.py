"""The models whose files upstream loads: by what a safetensors header tells of them, and where that leaves it open by
what a file's name says.

Upstream loads strictly: one tensor too many, too few or of another shape, and it stops. So a structure is the
md5 of all names and shapes, in the form that DiffSynth-Studio's model list uses; its values there are those of
musubi-tuner's own models (v0.3.4), from which they were computed again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wanwrap.weights.weight_file import Role


@dataclass(frozen=True, kw_only=True)
class Model:
    """One structure. `names` are the catalogue's models that have it; `tasks` those of upstream's that load it."""

    role: Role
    what: str
    names: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    shape: tuple[int, int, bool] | None = None  # a DiT's width, channels of its input, whether it takes CLIP's


T2V = ("wan2.1-t2v-14b", "wan2.2-t2v-high", "wan2.2-t2v-low")
MODELS = {
    "9269f8db9040a9d860eaca435be61814": Model(
        role="dit",
        what="Wan 2.1 T2V 1.3B",
        names=("wan2.1-t2v-1.3b",),
        tasks=("t2v-1.3B",),
        shape=(1536, 16, False),
    ),
    "aafcfd9672c3a2456dc46e1cb6e52c70": Model(
        role="dit",
        what="Wan T2V 14B (2.1, or 2.2's high or low noise: their headers are the same)",
        names=T2V,
        tasks=("t2v-A14B", "t2v-14B", "t2i-14B"),
        shape=(5120, 16, False),
    ),
    "5b013604280dd715f8457c6ed6d6a626": Model(
        role="dit",
        what="Wan 2.2 I2V A14B (high or low noise: their headers are the same)",
        names=("wan2.2-i2v-high", "wan2.2-i2v-low"),
        tasks=("i2v-A14B",),
        shape=(5120, 36, False),
    ),
    "6bfcfb3b342cb286ce886889d519a77e": Model(
        role="dit",
        what="Wan 2.1 I2V 14B (480p, 720p or Fun-InP: their headers are the same)",
        names=("wan2.1-i2v-480p", "wan2.1-i2v-720p"),
        tasks=("i2v-14B",),
        shape=(5120, 36, True),
    ),
    "ccc42284ea13e1ad04693284c7a09be6": Model(
        role="vae", what="Wan 2.1's VAE, or Qwen-Image's (their headers are the same)", names=("vae",)
    ),
    "9c8818c2cbea55eca56c7b447df170da": Model(role="t5", what="UMT5-XXL in Wan's key names", names=("t5",)),
    "5941c53e207d62f20f9025686193c40b": Model(role="clip", what="Open-CLIP XLM-RoBERTa ViT-H, whole", names=("clip",)),
}
SHAPES = {task: model.shape for model in MODELS.values() for task in model.tasks}
# UMT5 as transformers and ComfyUI name it -> as Wan does (the names that upstream's strict loading wants).
T5_NAMES = {
    r"shared\.weight": "token_embedding.weight",
    r"encoder\.final_layer_norm\.weight": "norm.weight",
    r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.weight": r"blocks.\1.attn.\2.weight",
    r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.weight": r"blocks.\1.pos_embedding.embedding.weight",
    r"encoder\.block\.(\d+)\.layer\.0\.layer_norm\.weight": r"blocks.\1.norm1.weight",
    r"encoder\.block\.(\d+)\.layer\.1\.layer_norm\.weight": r"blocks.\1.norm2.weight",
    r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.weight": r"blocks.\1.ffn.gate.0.weight",
    r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.weight": r"blocks.\1.ffn.fc1.weight",
    r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.weight": r"blocks.\1.ffn.fc2.weight",
}
T5_EXTRA = {"spiece_model", "encoder.embed_tokens.weight"}  # the tokenizer, and the embedding once more
# All that the name of a plain file is made of; what is left of it is somebody's own.
PLAIN = r"""(?x) (?<![a-z]) (?: wan([-_. ]*video)? [-_. ]? 2[-_. ]?[12] (?!\d) | wan([-_. ]*video)? | [ti]2[vi]
    | (high|low) ([-_. ]?noise)? | a?14b | 1[._]3b | 480p? | 720p? | fp?16 | bf16 | fp?32 | fp8 ([-_. ]?e4m3(fn)?)?
    | models? | dit | diffusion | pytorch | transformer | unet | \d+-of-\d+ | vae | comfyui | repackaged | \(\d\)
    ) (?![a-z])"""
VERSION = r"wan[-_. ]?(?:video[-_. ]?)?2[-_. ]?([12])(?!\d)"
WORDS = r"(?<![a-z])(?:high|low)(?=noise|[^a-z]|$)|(?<![a-z])(?:t2v|i2v|480p|720p)(?![a-z])"
PAIRS = ({"2.1", "2.2"}, {"high", "low"}, {"t2v", "i2v"}, {"480p", "720p"})


def structure(shapes: Mapping[str, Sequence[int]]) -> str:
    """The md5 of all names and shapes; no order matters."""
    words = [*shapes, *(f"{name}:{'_'.join(map(str, shape))}" for name, shape in shapes.items())]
    return hashlib.md5(",".join(sorted(words)).encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def comfy_t5(shapes: Mapping[str, Sequence[int]]) -> dict[str, str] | None:
    """Wan's names of a text encoder's tensors in ComfyUI's, but for those of no use; None: it is no such encoder."""
    names, native = dict[str, str](), dict[str, Sequence[int]]()
    for name in shapes.keys() - T5_EXTRA:
        wans = (re.sub(old, new, name) for old, new in T5_NAMES.items() if re.fullmatch(old, name))
        names[name] = next(wans, "")
        native[names[name]] = shapes[name]
    model = MODELS.get(structure(native))
    return names if model and model.role == "t5" else None


def said_by(name: str) -> set[str]:
    """Version, task, noise level and resolution: {"2.2", "t2v", "high"}."""
    version = re.search(VERSION, name.lower())
    return {*re.findall(WORDS, name.lower()), *([f"2.{version[1]}"] if version else [])}


def said(path: Path) -> set[str]:
    """The same of a file, or in Wan-AI's own layout of its folder: `high_noise_model/diffusion_pytorch_model...`."""
    return said_by(path.stem) or (said_by(path.parent.name) if path.parent.name.endswith("_noise_model") else set())


def strange(path: Path) -> list[str]:
    """The words of a file's name that no plain file has: `remix`, `lightning`, the `0.7` of a merge."""
    return re.findall(r"[^\W_]+", re.sub(PLAIN, " ", path.stem.lower()))


def option(name: str) -> str:
    """The option that names a file for one of the catalogue's."""
    level = said_by(name) & {"high", "low"}
    kind = "lightning" if name.startswith("lightning") else "dit" if name.startswith("wan") else name
    return f"--{kind}_{level.pop()}" if level else f"--{kind}"


def agreeing(said: set[str], could_be: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the catalogue's names with which nothing that was said is at odds."""
    return tuple(name for name in could_be if _agrees(said_by(name), said))


def _agrees(mine: set[str], said: set[str]) -> bool:
    if said & {"high", "low"} and not mine & {"high", "low"}:
        return False  # Wan 2.1 has no experts
    return all(not (said & pair and mine & pair) or said & mine & pair for pair in PAIRS)
