"""What upstream's DiTs are made of: what of a file it can train on, blocks, what a LoRA weighs, the RAM that training takes.

Sizes are upstream's own modules counted (0.3.4); how a DiT passes through RAM is read from `load_wan_model`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.upstream.options import Options, whole

LORA = {"1.3B": 1_367_040, "i2v-14B": 5_611_520}  # numbers in a LoRA of rank 1, by task; of all others:
LORA_14B = 4_792_320
WIDTHS = {"fp16": 2, "bf16": 2}  # bytes a number, by --save_precision; else fp32
MOMENTS = {"adamw8bit": 2, "adafactor": 0}  # bytes a number that an optimizer keeps, about; AdamW's two in fp32 are 8
PROCESS = 3_000_000_000  # bytes of a Python with torch, CUDA and upstream in it, about
# by blocks; counted with torch's own counter, and for attention's backward pass that recomputes its scores
FLOPS = {40: (6.4e12, 7.49e10, 3.69e6), 30: (4.8e11, 8.23e9, 8.29e5)}
OFFLOADED = {30: 92_160, 40: 409_600}  # bytes a token that gradient_checkpointing_cpu_offload keeps, by blocks

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


def blocks(task: str) -> int:
    """How many transformer blocks a task's DiT has; upstream swaps all but one of them at most."""
    return 30 if "1.3B" in task else 40


def lora_numbers(options: Options) -> int:
    """How many numbers a LoRA has; 0 for a network whose size the rank does not tell."""
    network, task = str(options["network_module"]).rpartition(".")[2], str(options["task"])
    each = next((size for part, size in LORA.items() if part in task), LORA_14B)
    return each * whole(options, "network_dim", 0) * {"lora_wan": 1, "loha": 2}.get(network, 0)


def moments(options: Options) -> int:
    """Bytes that the optimizer keeps of each number."""
    return MOMENTS.get(str(options["optimizer_type"]).rpartition(".")[2].lower(), 8)


def lora_bytes(options: Options) -> tuple[int, int]:
    """Bytes of a LoRA file and of a training state, about."""
    count = lora_numbers(options)
    return count * WIDTHS.get(str(options.get("save_precision")), 4), count * (4 + moments(options))


def flops(task: str, tokens: int) -> float:
    """Floating-point operations of one item's way through the model, with its recomputation, and back."""
    fixed, linear, square = FLOPS[blocks(task)]
    return fixed + linear * tokens + square * tokens**2


def ram_bytes(options: Options, size: int, dtype: str, tokens: int) -> int:
    """Bytes of RAM that one training takes at most, about.

    `size` is that of its DiT's file in bytes, `tokens` those of the largest batch. With swapped blocks the DiT is
    loaded into RAM (with fp8_scaled halved on the way), without them tensor by tensor onto the GPU.
    """
    swap, count, fp8 = whole(options, "blocks_to_swap", 0), blocks(str(options["task"])), dtype == "fp8"
    loaded = size // 2 if options.get("fp8_scaled") and not fp8 else size
    resting = size // 2 if options.get("fp8_base") and not fp8 else size
    offloaded = OFFLOADED[count] * tokens if options.get("gradient_checkpointing_cpu_offload") else 0
    return PROCESS + max(loaded if swap else 0, resting * swap // count + offloaded)
