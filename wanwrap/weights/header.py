"""What stands in a safetensors file, from its header alone: standard library, milliseconds, no torch."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wanwrap.errors import WeightsError

MOST = 100_000_000  # bytes of JSON; safetensors' own limit
DTYPES = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F8_E4M3": "fp8"}
# What tells the models apart: width, channels of the input (16 latents, 20 more for a first frame), CLIP or not.
SHAPES = {
    "t2v-A14B": (5120, 16, False),
    "t2v-14B": (5120, 16, False),
    "t2i-14B": (5120, 16, False),
    "t2v-1.3B": (1536, 16, False),
    "i2v-A14B": (5120, 36, False),
    "i2v-14B": (5120, 36, True),
}
# Tensors by which upstream's own files are known, and what is mistaken for them.
ROLES = {
    "vae": ({"decoder.conv1.weight", "conv2.weight"}, "take wan_2.1_vae.safetensors"),
    "t5": (
        {"token_embedding.weight"},
        "ComfyUI's umt5_xxl files have other key names; take models_t5_umt5-xxl-enc-bf16.pth",
    ),
    "clip": (
        {"visual.transformer.0.attn.to_qkv.weight", "log_scale"},
        "ComfyUI's clip_vision_h and visual-only files lack half of it; "
        "take models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    ),
}
VARIANTS = {"vace_": "VACE", "img_emb.emb_pos": "FLF2V", "face_": "Animate", "ref_conv": "Fun-Control with a reference"}
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


def dit_dtype(path: Path) -> str:
    """fp16, bf16, fp32 or fp8: the type that upstream will find in this DiT, by the tensor it looks at.

    Raises:
        WeightsError: upstream cannot train on this file, with the reason.
    """
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} is no .safetensors file; upstream reads a DiT from nothing else.")
    return blocks_dtype(path, {key: row.get("dtype", "") for key, row in read(path).items()})


def blocks_dtype(path: Path, dtypes: Mapping[str, str]) -> str:
    """The same from `{key: "F16"}`, where the header has been read already."""
    scaled = next((key for key in dtypes if key.endswith(SCALED)), None)
    if scaled:
        raise WeightsError(
            f"{path} is already scaled or quantised (it holds {scaled}), which upstream cannot train on; "
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


def check_task(path: Path, task: str) -> None:
    """Raises WeightsError: a DiT of another model than the task's, which upstream would find after the caching."""
    header = {key.removeprefix(PREFIX): row for key, row in read(path).items()}
    if other := next((name for key, name in VARIANTS.items() if any(each.startswith(key) for each in header)), None):
        raise WeightsError(f"{path} is made for {other}, which no preset trains; this one trains {task}.")
    patches = header.get("patch_embedding.weight")
    if patches is None:
        return
    found = (*patches["shape"][:2], "blocks.0.cross_attn.k_img.weight" in header)
    if found != SHAPES[task]:
        tasks = [name for name, shape in SHAPES.items() if shape == found]
        kind = f"made for {' or '.join(tasks)}" if tasks else "of a model that no preset trains"
        raise WeightsError(f"{path} is {kind}; this preset trains {task}.")


def check_role(path: Path, role: str) -> None:
    """Raises WeightsError: no VAE, T5 or CLIP that upstream reads. `.pth` files are not unpickled to look."""
    if path.suffix != ".safetensors":
        with path.open("rb") as file:
            if file.read(2) not in (b"PK", b"\x80\x02"):
                raise WeightsError(f"{path} is no file of torch's; get it again.")
        return
    header = {key.removeprefix("encoder.") if role == "t5" else key: row for key, row in read(path).items()}
    if any(key.endswith(SCALED) for key in header):
        raise WeightsError(f"{path} is scaled or quantised, which upstream can't read; take the published file.")
    wanted, instead = ROLES[role]
    if not header.keys() >= wanted:
        raise WeightsError(f"{path} is no {role} that upstream reads: {instead}.")
    if role == "vae" and header["conv2.weight"]["shape"][0] != 16:
        raise WeightsError(
            f"{path} is the VAE of Wan 2.2's 5B model; all others use Wan 2.1's: wan_2.1_vae.safetensors."
        )


def lora_dim_alpha(path: Path) -> tuple[int, float]:
    """The rank and alpha of a LoRA that upstream saved.

    Raises:
        WeightsError: not a LoRA in upstream's key names.
    """
    header = read(path)
    down = next(
        (row for key, row in header.items() if key.endswith(".lora_down.weight") and key.startswith("lora_unet_")),
        None,
    )
    if down is None:
        raise WeightsError(f"{path} is no LoRA in upstream's key names (lora_unet_...lora_down.weight).")
    dim = int(down["shape"][0])
    return dim, float(header.get("__metadata__", {}).get("ss_network_alpha") or dim)
