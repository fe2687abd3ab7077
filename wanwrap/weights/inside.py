"""What the names, shapes and types in a header tell, beyond the structures that upstream loads."""

from __future__ import annotations

import re
from collections.abc import Mapping

from wanwrap.errors import listing
from wanwrap.system.safetensors import Row
from wanwrap.upstream.dit_file import BLOCK, DTYPES, PREFIX, scaled
from wanwrap.weights import provenance
from wanwrap.weights.lora import FIVE_B
from wanwrap.weights.models import MODELS, Model, structure
from wanwrap.weights.weight_file import Role

Rows = Mapping[str, Row]

LORA = r"(lora_(down|up|A|B)(\.default)?\.weight|hada_w\d_[ab]|lokr_w\d(_[ab])?|\.diff(_b|_m)?|dora_scale)$"
# Tensors by which a role is known, whoever made the file.
SIGNS: tuple[tuple[Role, str], ...] = (
    (
        "dit",
        rf"((diffusion_model|transformer)\.)?patch_embedding\.weight|{re.escape(BLOCK)}|condition_embedder\..*|blocks\.0\.attn1\..*|vace_blocks\..*",
    ),
    ("t5", r"(encoder\.)?(token_embedding|shared)\.weight|(encoder\.)?block\.0\.layer\..*|enc\.blk\.0\..*"),
    ("vae", r"(.*\.)?decoder\.(conv1|conv_in)\..*|decoder\.1\.weight"),
    ("clip", r"visual\..*|vision_model\..*|text_model\..*"),
)


def known(rows: Rows) -> Model | None:
    """The model whose structure it has, to the tensor, as upstream strips prefixes: of DiTs and of text encoders."""
    shapes = {name: row.shape for name, row in rows.items()}
    for prefix in ("", "encoder.", PREFIX):
        if all(name.startswith(prefix) for name in shapes):
            model = MODELS.get(structure({name.removeprefix(prefix): shape for name, shape in shapes.items()}))
            if model and (prefix != PREFIX or model.role == "dit"):
                return model
    return None


def role(rows: Rows) -> Role:
    """What kind of file this is, for upstream or for others."""
    if any(re.search(LORA, name) for name in rows):
        return "lora"
    return next((role for role, sign in SIGNS if any(re.fullmatch(sign, name) for name in rows)), "other")


def key_format(rows: Rows, role: Role) -> str | None:
    """Whose names the keys are."""
    if role in ("other", "lora"):
        return None
    formats = {
        "diffusers": ("blocks.0.attn1.", "condition_embedder.", "decoder.conv_in.", "decoder.up_blocks"),
        "transformers": ("shared.", "encoder.block.", "vision_model."),
        f"Wan, with the prefix {PREFIX}": (PREFIX,),
    }
    return next((whose for whose, starts in formats.items() if any(name.startswith(starts) for name in rows)), "Wan")


def made_of(metadata: Mapping[str, str]) -> str | None:
    """What wanwrap made a file of, by its record in the metadata."""
    record = next(provenance.history(metadata), None) if "wanwrap" in metadata else None
    if not record:
        return None
    files = [*record["from"], *([record["lora"]] if record["lora"] else [])]
    return " and ".join(str(file.get("name")) for file in files)


def quantised(rows: Rows, metadata: Mapping[str, str], role: Role) -> str | None:
    """Why upstream can't read how the numbers are stored; None where it can."""
    if role == "other":
        return None
    sign = scaled(rows)
    if sign or "_quantization_metadata" in metadata:
        return f"it is already scaled or quantised (it holds {sign or '_quantization_metadata'}), which upstream can't read"
    odd = next((row for name, row in rows.items() if row.dtype not in DTYPES and name != "spiece_model"), None)
    return f"it stores {odd.name} as {odd.dtype}, which upstream can't train with" if odd else None


def dtype(rows: Rows, role: Role) -> str:
    """The type of a DiT's blocks, else of most of the matrices; as upstream names it, else as the file does."""
    types = [rows[BLOCK].dtype] if BLOCK in rows else [row.dtype for row in rows.values() if len(row.shape) > 1]
    if not types or role == "other":
        return ""
    most = max(set(types), key=types.count)
    return DTYPES.get(most, most)


def family(rows: Rows) -> Model | None:
    """The model whose shapes a DiT has, whether it is whole or not."""
    shape = _shape(rows)
    return next((model for model in MODELS.values() if shape and model.shape == shape), None)


def _shape(rows: Rows) -> tuple[int, int, bool] | None:
    row = rows.get("patch_embedding.weight")
    takes_clip = "blocks.0.cross_attn.k_img.weight" in rows
    return (row.shape[0], row.shape[1], takes_clip) if row and len(row.shape) > 1 else None


def why_not(rows: Rows, role: Role) -> str:
    """Why upstream can't use a file of no structure that it loads; of what users have in their folders precisely."""
    if role == "other":
        return "it is none of the files that Wan is trained with"
    if role == "dit" and any("vace_" in name for name in rows):
        return "it is made for VACE, which no preset trains"
    if role == "dit" and (_shape(rows) or (0,))[0] == FIVE_B:
        return "it is Wan 2.2's TI2V 5B, which upstream can't train"
    if role == "vae" and "conv2.weight" in rows and rows["conv2.weight"].shape[:1] == (48,):
        return "it is the VAE of Wan 2.2's 5B model; all others use Wan 2.1's"
    if role == "clip":
        return "it is no whole CLIP in Wan's key names (ComfyUI's clip_vision_h is the visual half alone)"
    whats = listing(re.split(r" \(|,", model.what)[0] for model in MODELS.values() if model.role == role)
    return f"it is none of those that upstream loads ({whats}), by the names and shapes of its tensors"
