"""What the names, shapes and types in a header tell, beyond the structures that upstream loads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanwrap.errors import WeightsError
from wanwrap.upstream.dit_file import BLOCK, DTYPES, PREFIX, blocks_dtype, scaled
from wanwrap.weights.models import MODELS, Model, Role, structure

if TYPE_CHECKING:
    from wanwrap.system.safetensors import Source

Rows = Mapping[str, Mapping[str, Any]]

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
# What upstream has no task for, by a part of the names of its tensors.
VARIANTS = {
    "vace_": "VACE",
    "img_emb.emb_pos": "FLF2V",
    "face_": "Animate",
    "motion_encoder": "Animate",
    "ref_conv": "Fun-Control with a reference",
    "control_adapter": "a camera control",
    "audio_": "speech to video",
    "casual_audio_encoder": "speech to video",
}
OTHERS = ("vae.", "first_stage_model.", "text_encoders.", "cond_stage_model.", "conditioner.")  # in all-in-one files


def gguf_role(start: bytes) -> Role:
    """By the architecture in the first bytes of a GGUF file: a text with its type (8) and its length."""
    roles: dict[bytes, Role] = {b"wan": "dit", b"t5encoder": "t5", b"t5": "t5"}
    key = b"general.architecture" + (8).to_bytes(4, "little")
    return next(
        (role for name, role in roles.items() if key + len(name).to_bytes(8, "little") + name in start), "other"
    )


def known(content: Rows) -> Model | None:
    """The model whose structure it has, to the tensor, as upstream strips prefixes: of DiTs and of text encoders."""
    if model := MODELS.get(structure(content)) or MODELS.get(structure(without(content, "encoder."))):
        return model
    model = MODELS.get(structure(without(content, PREFIX)))
    return model if model and model.role == "dit" else None


def without(rows: Rows, prefix: str) -> Rows:
    """The rows without a prefix that all of them have."""
    if not all(name.startswith(prefix) for name in rows):
        return rows
    return {name.removeprefix(prefix): row for name, row in rows.items()}


def role(rows: Rows) -> Role:
    """What kind of file this is, for upstream or for others."""
    if any(re.search(LORA, name) for name in rows):
        return "lora"
    return next((role for role, sign in SIGNS if any(re.fullmatch(sign, name) for name in rows)), "other")


def key_format(content: Rows, role: Role) -> str | None:
    """Whose names the keys are."""
    if role in ("other", "lora"):
        return None
    if any(name.startswith(("blocks.0.attn1.", "condition_embedder.", "decoder.conv_in.", "decoder.up_blocks")) for name in content):  # fmt: skip
        return "diffusers"
    if any(name.startswith(("shared.", "encoder.block.", "vision_model.")) for name in content):
        return "transformers"
    return f"Wan, with the prefix {PREFIX}" if any(name.startswith(PREFIX) for name in content) else "Wan"


def made_of(metadata: Mapping[str, str]) -> str | None:
    """What wanwrap made a file of, by its record in the metadata."""
    from wanwrap.weights.record import history

    record = next(history(metadata), None) if "wanwrap" in metadata else None
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
    odd = next((name for name, row in rows.items() if row["dtype"] not in DTYPES and name != "spiece_model"), None)
    return f"it stores {odd} as {rows[odd]['dtype']}, which upstream can't train with" if odd else None


def dtype(rows: Rows, role: Role) -> str | None:
    """The type of a DiT's blocks, else of most of the matrices; as upstream names it, else as the file does."""
    types = (
        [rows[BLOCK]["dtype"]] if BLOCK in rows else [row["dtype"] for row in rows.values() if len(row["shape"]) > 1]
    )
    if not types or role in ("lora", "other"):
        return None
    most = str(max(set(types), key=types.count))
    return DTYPES.get(most, most)


def family(rows: Rows) -> Model | None:
    """The model whose shapes a DiT has, whether it is whole or not."""
    return next((model for model in MODELS.values() if model.shape and model.shape == _shape(rows)), None)


def _shape(rows: Rows) -> tuple[int, int, bool] | None:
    sides = rows.get("patch_embedding.weight", {}).get("shape", [])
    return (sides[0], sides[1], "blocks.0.cross_attn.k_img.weight" in rows) if len(sides) > 1 else None


def lora(source: Source) -> dict[str, Any]:
    """What a LoRA is: fields of the verdict on it."""
    from wanwrap.weights import provenance
    from wanwrap.weights.lora import PARTS, grouped

    parts = {name: next((suffix for suffix in PARTS if name.endswith(f".{suffix}")), None) for name in source.rows}
    downs = [row for name, row in source.rows.items() if PARTS.get(parts[name] or "") == "down"]
    modules = {name.removesuffix(f".{part}") for name, part in parts.items() if part}
    facts = {
        "format": _lora_format(source.rows),
        "rank": _span(row.shape[0] for row in downs if row.shape),
        "alpha": _alpha(source),
        "modules": len(modules),
        "model": _lora_model({name: row.shape for name, row in source.rows.items()}),
    }
    foreign = [name for name, part in parts.items() if part is None]
    why = f"it holds what wanwrap can't merge: {grouped(foreign)}" if foreign else None
    if facts["model"] is None:
        why = "it is a LoRA of another model than Wan"
    if (provenance.read(source.metadata) or {}).get("toy"):
        why = "it is a toy of a rehearsal, and has learned nothing"
    what = f"LoRA of {facts['model']}" if facts["model"] else "LoRA"
    reason, trained = why or "wanwrap can merge it", provenance.trained(source.metadata)
    return {"lora": facts, "trained": trained or None, "what": what, "usable": why is None, "reason": reason}


def _lora_format(names: Iterable[str]) -> str:
    first = next(iter(names))
    formats = {"lora_unet_": "musubi-tuner", "transformer.": "diffusers", "base_model.model.": "peft"}
    return next((whose for prefix, whose in formats.items() if first.startswith(prefix)), "ComfyUI")


def _span(numbers: Iterable[float]) -> float | str | None:
    """The one number, or of several `16 to 128`."""
    found = sorted(set(numbers))
    return f"{found[0]:g} to {found[-1]:g}" if len(found) > 1 else found[0] if found else None


def _alpha(source: Source) -> float | str | None:
    """That of the first module; None where the file says nothing, which means the rank."""
    name = next((name for name in source.rows if name.endswith(".alpha")), None)
    alpha = source.scalar(name) if name else None
    return alpha if alpha is None or math.isfinite(alpha) else str(alpha)


def _lora_model(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Which model's blocks it changes, by their width; that of high and low, T2V and I2V is the same."""
    sizes = {1536: "Wan 1.3B", 5120: "Wan 14B", 3072: "Wan 2.2 TI2V 5B"}
    for name, shape in shapes.items():
        if (
            re.search(r"blocks[._]\d+[._](self_attn|cross_attn)[._][qkvo]\b", name.replace("_lora", ".lora"))
            and len(shape) > 1
        ):
            return next((what for size, what in sizes.items() if size in shape), None)
    return None


def convertible(source: Source, rows: Rows) -> bool:
    """Whether it is the text encoder that `wanwrap convert` makes readable. Raises WeightsError: nearly one."""
    if "shared.weight" not in rows:
        return False
    from wanwrap.weights.t5 import wan_names

    native = {new: rows[name] for name, new in wan_names(source).items() if new}
    model = MODELS.get(structure(native))
    if model is None or model.role != "t5":
        raise WeightsError("it is a UMT5 of another size than XXL")
    return True


def why_not(path: Path, rows: Rows, role: Role) -> str:
    """Why upstream can't use a file of no structure that it loads."""
    if role == "dit":
        return _why_not_dit(path, rows)
    if role == "vae":
        return _why_not_vae(rows)
    if role == "clip":
        return _why_not_clip(rows)
    return (
        f"it is no {role} that upstream reads"
        if role != "other"
        else "it is none of the files that Wan is trained with"
    )


def _why_not_dit(path: Path, rows: Rows) -> str:
    if any(name.startswith(OTHERS) for name in rows):
        return "it is an all-in-one checkpoint (VAE or text encoder in it), and upstream reads DiTs alone"
    if any(name.startswith(("condition_embedder.", "blocks.0.attn1.")) for name in rows):
        return "it is made for diffusers, whose key names upstream doesn't read"
    if any(name.startswith(("diffusion_model.", "transformer.")) for name in rows):
        return "its keys have a prefix that upstream doesn't strip"
    if variant := next((what for part, what in VARIANTS.items() if any(part in name for name in rows)), None):
        return f"it is made for {variant}, which no preset trains"
    blocks_dtype(path, {name: row["dtype"] for name, row in rows.items()})
    shape = _shape(rows)
    if shape and shape[0] == 3072:
        return "it is Wan 2.2's TI2V 5B, which upstream can't train"
    if (model := family(rows)) is None:
        kind = f" ({shape[0]} wide, {shape[1]} channels)" if shape else ""
        return f"it is a Wan DiT of a kind that no preset trains{kind}"
    return (
        f"it has {len(rows)} tensors and others than the {model.tensors} of {model.what}, "
        "so that upstream would stop when it loads it"
    )


def _why_not_vae(rows: Rows) -> str:
    latents = [*rows.get("conv2.weight", {}).get("shape", ()), 0][0]
    if latents == 48 or any(name.startswith("decoder.upsamples.0.upsamples.") for name in rows):
        return "it is the VAE of Wan 2.2's 5B model; all others use Wan 2.1's"
    return "it is a VAE of another model, or in other key names than Wan's"


def _why_not_clip(rows: Rows) -> str:
    if "visual.transformer.0.attn.to_qkv.weight" in rows:
        return "it is the visual half of CLIP alone, and upstream loads it whole"
    return "it is a CLIP in other key names than Wan's (ComfyUI's clip_vision_h is the visual half alone)"
