"""The GPU memory and RAM that sampling takes at its peak, in closed form: for the text, denoising, and decoding.

Derived as in memory.py: upstream's own models ran under torch's fake tensors at full size, and the trace of what they
allocate through a model of torch's caching allocator (0.3.4, torch 2.13; `scripts/upstream_memory.py --sampling` does it
again). Of what that takes these formulas are within 5 % for each stage, and within 3 % for the one that decides (with two
LoRAs 4 %). Of others only a Wan VAE's decoding is measured (kijai/ComfyUI-WanVideoWrapper #2042, without autocast), which the
trace of the same meets within 0.2 %. Nobody has compared them on a GPU of ours, nor what cuDNN takes beside. torch's cache is
taken to be emptied between the stages. What comes between them takes less: CLIP than the text, I2V's encoding than decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

from wanwrap.upstream import buckets, dit, memory
from wanwrap.upstream.memory import CONTEXT, EMBEDDING, GIB
from wanwrap.upstream.options import Options, whole
from wanwrap.upstream.sampling import Size

CACHE = "vae_cache_cpu"
TEXT = (10.9, 6.6)  # GiB of T5 with a prompt, without and with fp8_t5
VAE = 0.24  # GiB of its weights in bf16
# bytes a pixel of a picture and of a clip, and those that torch's allocator can't give back, without and with expandable
# segments; by where the VAE's cache lies, on the GPU or in RAM
DECODING = {
    False: ((6_740, (3_300, 700)), (17_035, (8_650, 4_500))),
    True: ((2_510, (1_360, 150)), (7_700, (5_900, 3_300))),
}
FRAME = 6.6  # bytes a pixel of each frame that is decoded
EMBEDDED, TIMED = 266_240, 163_840  # bytes a token of Wan 2.2's time embedding: in a block, and while it is made
ROUNDED = (0.026, 0.0)  # of weights in fp8: torch's segments are of 2 MiB; without and with expandable segments
LORA = 4  # bytes a number: upstream's modules are float32


@dataclass(frozen=True)
class _Pass:
    """Bytes of a DiT's forward pass: a token's with one LoRA hooked on, and with each further one; the least, of the weights
    that embed the timestep, in float32; a token's that torch's allocator can't give back, as above.
    """

    token: int
    hook: int
    least: float
    slack: tuple[int, int]


LARGE = _Pass(142_600, 27_650, 0.604 * GIB, (130_000, 28_000))
SMALL = _Pass(82_200, 17_920, 0.06 * GIB, (60_000, 10_000))


@dataclass(frozen=True, kw_only=True)
class SamplingNeed:
    """What is to be sampled: (width, height) in pixels, frames; by so many DiTs, whose files have so many bytes; with fp8 made
    by upstream ("scaled", or "base", which casts alone or takes an fp8 file as it is), or without; with LoRAs of these `ranks`
    hooked on each DiT, as (32, 64) where Lightning lies beside one of rank 32.
    """

    task: str
    size: Size
    frames: int
    dits: int = 1
    fp8: str | None = "scaled"
    ranks: tuple[int, ...] = (32,)
    dit_bytes: int = 0

    def trained(self, options: Options) -> Options:
        """The DiT's options by the names of upstream's trainer."""
        fp8 = {"fp8_base": bool(self.fp8), "fp8_scaled": self.fp8 == "scaled"}
        return {"task": self.task, **fp8, "blocks_to_swap": options.get("blocks_to_swap")}


@dataclass(frozen=True)
class SamplingMemory:
    """Bytes of GPU memory that nvidia-smi shows at the peak of each stage, and of RAM at most."""

    text: int
    load: int
    denoising: int
    decoding: int
    ram: int

    @property
    def models(self) -> int:
        """The most of the GPU once the text is encoded."""
        return max(self.load, self.denoising, self.decoding)

    @property
    def total(self) -> int:
        """The most of all."""
        return max(self.text, self.models)


def of_sampling(need: SamplingNeed, options: Options, *, expandable: bool = False) -> SamplingMemory:
    """With these options of wan_generate_video; `expandable` is torch's expandable_segments.

    A DiT that is cast alone goes onto the GPU as its file is, unless blocks are swapped (as in training).
    """
    trained = need.trained(options)
    weights, load = memory.weights(trained), 0.0
    if need.fp8 == "base" and not options.get("blocks_to_swap"):
        load = (need.dits - 1) * weights + need.dit_bytes
    loras: Options = {"task": need.task, "network_module": "lora_wan", "network_dim": sum(need.ranks)}
    resting = need.dits * (weights * (1 + ROUNDED[expandable] * bool(need.fp8)) + dit.lora_numbers(loras) * LORA)
    stages = {
        "text": TEXT[bool(options.get("fp8_t5"))] * GIB,
        "load": load,
        "denoising": resting + _denoising(need, options, expandable),
        "decoding": resting + _decoding(need, options, expandable),
    }
    found = {name: round(each + CONTEXT * GIB) for name, each in stages.items()}
    return SamplingMemory(**found, ram=round(_ram(need, trained)))


def _denoising(need: SamplingNeed, options: Options, expandable: bool) -> float:
    """Bytes of a forward pass."""
    tokens, each = buckets.tokens((*need.size, need.frames)), SMALL if "1.3B" in need.task else LARGE
    embedded = "A14B" in need.task and not options.get(EMBEDDING)
    block = each.token + each.hook * (len(need.ranks) - 1) + EMBEDDED * embedded
    return max(each.least + TIMED * embedded * tokens, block * tokens) + each.slack[expandable] * tokens


def _decoding(need: SamplingNeed, options: Options, expandable: bool) -> float:
    """Bytes of the VAE and a clip or a picture out of it."""
    width, height = need.size
    pixel, slack = DECODING[bool(options.get(CACHE))][need.frames > 1]
    return VAE * GIB + width * height * (pixel + slack[expandable] + FRAME * need.frames)


def _ram(need: SamplingNeed, trained: Options) -> float:
    """Bytes: with swapped blocks each DiT is loaded into RAM, where its swapped blocks stay."""
    if not (count := whole(trained, "blocks_to_swap", 0)):
        return dit.PROCESS
    unswapped = memory.weights({**trained, "blocks_to_swap": 0})
    loaded = unswapped if need.fp8 == "scaled" else max(need.dit_bytes, unswapped)
    return dit.PROCESS + (need.dits - 1) * count * memory.block(trained) + loaded
