"""The GPU memory that a training takes at its peak, in closed form.

Upstream's own model, network and patches were run forward and backward under torch's fake tensors at full size, and the
trace of what they allocate through a model of torch's caching allocator (0.3.4, torch 2.13; scripts/upstream_memory.py
does it again). These formulas follow the first within 1 % and the second within 3 %, which is as much as that differs by
chance, and the three public measurements of musubi-tuner with Wan that state their settings within 1 % (SECourses'
benchmark on a 5090, musubi-tuner #537). Nobody has compared them on a GPU of ours yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wanwrap.upstream import dit
from wanwrap.upstream.options import Options, whole

OFFLOAD = "gradient_checkpointing_cpu_offload"
EMBEDDING = "force_v2_1_time_embedding"

GIB = 2**30
CONTEXT = 0.5  # GiB of CUDA's own; measured ones are 0.3 to 0.6


@dataclass(frozen=True)
class _Model:
    """Sizes of a DiT. GiB: its weights with fp8_scaled, with fp8_base and in 16 bits, and those of a block in fp8; bytes a
    token: `input` a block's input, `rest` of what else is alive in a backward pass. What torch's allocator can't give back
    are `fixed` GiB, without and with expandable_segments, and a token's `slack` of blocks' inputs, without and with them
    in RAM.
    """

    scaled: float
    fp8: float
    half: float
    block: float
    input: int
    rest: int
    fixed: tuple[float, float]
    slack: tuple[int, int]


LARGE = _Model(13.94, 13.31, 26.62, 0.327, 10_240, 354_400, (0.75, 0.55), (21, 7))
MODELS = {
    "i2v-14B": _Model(15.97, 15.27, 30.54, 0.376, 10_240, 376_200, (0.75, 0.55), (21, 7)),
    "1.3B": _Model(1.39, 1.32, 2.64, 0.043, 3_072, 147_800, (0.1, 0.05), (13, 13)),
}
EXPANDABLE = (5, 2)  # a model's slack with expandable_segments
EMBEDDED = 286_650  # bytes a token of Wan 2.2's time embedding, which upstream makes anew for each token


@dataclass(frozen=True)
class Memory:
    """Bytes of GPU memory at the peak of a training's steps: of the DiT's weights, of the LoRA with its gradients and
    optimizer, of what is kept for the backward pass; what torch's allocator takes `beside` them; and at the `load` before.
    """

    weights: int
    lora: int
    activations: int
    beside: int
    load: int = 0

    @property
    def allocated(self) -> int:
        """The tensors of the steps (torch's max_memory_allocated)."""
        return self.weights + self.lora + self.activations

    @property
    def reserved(self) -> int:
        """What torch takes for them (max_memory_reserved)."""
        return self.allocated + self.beside

    @property
    def total(self) -> int:
        """What nvidia-smi shows at most, while it loads or later: with what CUDA itself takes."""
        return max(round(self.reserved + CONTEXT * GIB), self.load)


def of(options: Options, tokens: int, *, expandable: bool = False, size: int = 0) -> Memory:
    """Of a training whose largest batch has so many tokens, with gradient checkpointing.

    `expandable` is torch's expandable_segments, which there is on Linux alone; `size` that of the DiT's file in bytes.
    """
    model, offload = _model(options), bool(options.get(OFFLOAD))
    slack = (EXPANDABLE if expandable else model.slack)[offload]
    beside = model.fixed[expandable] * GIB + slack * model.input * tokens
    lora, activations = max(_moments(options, model, tokens), key=sum)
    return Memory(round(weights(options)), round(lora), round(activations), round(beside), _load(options, size))


def _load(options: Options, size: int) -> int:
    """Bytes before the first step.

    Upstream's load_wan_model brings all of any file onto the GPU as it is, and only then casts it to fp8. With fp8_scaled
    it quantises one tensor after the other, and with swapped blocks it loads into RAM: of these the steps need more.
    """
    whole_file = not options.get("fp8_scaled") and not whole(options, "blocks_to_swap", 0)
    return round(size + CONTEXT * GIB) if size and whole_file else 0


def block(options: Options) -> float:
    """Bytes of a block that can be swapped."""
    return _model(options).block * (1 if options.get("fp8_base") else 2) * GIB


def weights(options: Options) -> float:
    """Bytes of the DiT on the GPU, without its blocks that are swapped."""
    model, fp8, scaled = _model(options), options.get("fp8_base"), options.get("fp8_scaled")
    unswapped = (model.scaled if scaled else model.fp8) if fp8 else model.half
    return unswapped * GIB - swapped(options)


def swapped(options: Options) -> float:
    """Bytes of the blocks that are not on the GPU; with block_swap_h2d_only a ring of buffers for some is."""
    count = whole(options, "blocks_to_swap", 0)
    ring = whole(options, "block_swap_ring_size", 2) if options.get("block_swap_h2d_only") else 0
    return max(0, count - ring) * block(options)


def levers(options: Options) -> list[str]:
    """Flags that take less memory and train the same, but for rounding."""
    return [*([EMBEDDING] if "A14B" in str(options["task"]) else []), OFFLOAD]


def _model(options: Options) -> _Model:
    return next((model for part, model in MODELS.items() if part in str(options["task"])), LARGE)


def _moments(options: Options, model: _Model, tokens: int) -> Iterator[tuple[float, float]]:
    """Bytes of LoRA and activations in the backward pass of the last block, in that of the first, and in the optimizer's
    step.
    """
    task = str(options["task"])
    dequantised = (0.05 * model.input / LARGE.input + (2 * model.block if options.get("fp8_base") else 0)) * GIB
    lora, moments = dit.lora_numbers(options), dit.moments(options)
    adamw = 4 if moments == 8 else 0  # a copy in its step
    rest = model.rest + (EMBEDDED if "A14B" in task and not options.get(EMBEDDING) else 0)
    most, least = (2, 2) if options.get(OFFLOAD) else (dit.blocks(task), 1)  # of the blocks' inputs
    yield lora * (4 + moments), dequantised + tokens * (rest + most * model.input)
    yield lora * (8 + moments), dequantised + tokens * (rest + least * model.input)
    yield lora * (8 + moments + adamw), 0.0
