"""What the names, shapes and types in a header tell of a DiT, a VAE, a text encoder or a CLIP."""

from __future__ import annotations

import re
from collections.abc import Mapping

from wanwrap.errors import listing
from wanwrap.system.safetensors import Row
from wanwrap.upstream.dit import BLOCK, DTYPES, PREFIX, scaled
from wanwrap.weights import provenance
from wanwrap.weights.lora import FIVE_B
from wanwrap.weights.models import MODELS, Model, comfy_t5, structure
from wanwrap.weights.weight_file import Role

Rows = Mapping[str, Row]

LORA = r"(lora_(down|up|A|B)(\.default)?\.weight|hada_w\d_[ab]|lokr_w\d(_[ab])?|\.diff(_b|_m)?|dora_scale)$"
# Tensors by which a role is known, whoever made the file.
DIT = rf"((diffusion_model|transformer)\.)?patch_embedding\.weight|{re.escape(BLOCK)}|condition_embedder\..*"
SIGNS: dict[Role, str] = {
    "dit": rf"{DIT}|blocks\.0\.attn1\..*|vace_blocks\..*",
    "t5": r"(encoder\.)?(token_embedding|shared)\.weight|(encoder\.)?block\.0\.layer\..*|enc\.blk\.0\..*",
    "vae": r"(.*\.)?decoder\.(conv1|conv_in)\..*|decoder\.1\.weight",
    "clip": r"visual\..*|vision_model\..*|text_model\..*",
}
COMFYUI = "transformers"  # as ComfyUI names a text encoder's tensors
# What upstream strips of a DiT's names, and of a text encoder's; and what such names are called.
KEYS = {"": "Wan", "encoder.": "Wan", PREFIX: f"Wan, with the prefix {PREFIX}"}


def known(rows: Rows) -> tuple[Model, str] | None:
    """The model whose structure it has, to the tensor, and whose names its tensors have."""
    shapes = {name: row.shape for name, row in rows.items()}
    for prefix, keys in KEYS.items():
        if all(name.startswith(prefix) for name in shapes):
            model = MODELS.get(structure({name.removeprefix(prefix): shape for name, shape in shapes.items()}))
            if model and (prefix != PREFIX or model.role == "dit"):
                return model, keys
    t5 = next(model for model in MODELS.values() if model.role == "t5")
    return (t5, COMFYUI) if "shared.weight" in shapes and comfy_t5(shapes) else None


def role(rows: Rows) -> Role:
    """What kind of file this is, for upstream or for others."""
    if any(re.search(LORA, name) for name in rows):
        return "lora"
    return next((role for role, sign in SIGNS.items() if any(re.fullmatch(sign, name) for name in rows)), "other")


def made_of(metadata: Mapping[str, str]) -> str | None:
    """What wanwrap made a file of, by its record in the metadata."""
    record = next(provenance.history(metadata), None) if "wanwrap" in metadata else None
    if not record:
        return None
    files = [*record["from"], *([record["lora"]] if record["lora"] else [])]
    return " and ".join(str(file.get("name")) for file in files)


def dtype(rows: Rows) -> str:
    """The type of a DiT's blocks, else of most of the matrices; as upstream names it, else as the file does."""
    types = [rows[BLOCK].dtype] if BLOCK in rows else [row.dtype for row in rows.values() if len(row.shape) > 1]
    most = max(set(types), key=types.count, default="")
    return DTYPES.get(most, most)


def family(rows: Rows) -> Model | None:
    """The model whose shapes a DiT has, whether it is whole or not."""
    shape = (*_input(rows), "blocks.0.cross_attn.k_img.weight" in rows)
    return next((model for model in MODELS.values() if model.shape == shape), None)


def _input(rows: Rows) -> tuple[int, ...]:
    """A DiT's width, and the channels of its input."""
    row = rows.get("patch_embedding.weight")
    return row.shape[:2] if row else ()


def why_not(rows: Rows, metadata: Mapping[str, str], role: Role) -> str | None:
    """Why upstream can't use a file, of what users have in their folders precisely; None: only its structure can tell."""
    if role == "other":
        return "it is none of the files that Wan is trained with"
    if sign := scaled(rows) or ("_quantization_metadata" if "_quantization_metadata" in metadata else None):
        return f"it is already scaled or quantised (it holds {sign}), which upstream can't read"
    if odd := next((row for name, row in rows.items() if row.dtype not in DTYPES and name != "spiece_model"), None):
        return f"it stores {odd.name} as {odd.dtype}, which upstream can't train with"
    if role == "dit" and any("vace_" in name for name in rows):
        return "it is made for VACE, which no preset trains"
    if role == "dit" and _input(rows)[:1] == (FIVE_B,):
        return "it is Wan 2.2's TI2V 5B, which upstream can't train"
    if role == "vae" and "conv2.weight" in rows and rows["conv2.weight"].shape[:1] == (48,):
        return "it is the VAE of Wan 2.2's 5B model; all others use Wan 2.1's"
    return None


def unknown(role: Role) -> str:
    """Why upstream can't use a file of no structure that it loads."""
    if role == "clip":
        return "it is no whole CLIP in Wan's key names (ComfyUI's clip_vision_h is the visual half alone)"
    whats = listing(re.split(r" \(|,", model.what)[0] for model in MODELS.values() if model.role == role)
    return f"it is none of those that upstream loads ({whats}), by the names and shapes of its tensors"
