"""The GPU memory that a training takes at its peak, in closed form, and what makes one fit that doesn't.

Upstream's own model, network and patches were run forward and backward under torch's fake tensors at full size, and the
trace of what they allocate through a model of torch's caching allocator (0.3.4, torch 2.13). These formulas follow both
within 1 to 2 %, and the three public measurements of musubi-tuner with Wan that state their settings within 1 %
(SECourses' benchmark on a 5090, musubi-tuner #537). Nobody has compared them on a GPU of ours yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wanwrap.upstream import dit
from wanwrap.upstream.options import Options, Value, whole

OFFLOAD = "gradient_checkpointing_cpu_offload"
EMBEDDING = "force_v2_1_time_embedding"

GIB = 2**30
CONTEXT = 0.5  # GiB of CUDA's own; measured ones are 0.3 to 0.6
MANY = 10  # swapped blocks that are worth as much time as offloading, a guess
RESERVE = 1.0  # GiB that stay free: a desktop takes 0.5 to 1.5


@dataclass(frozen=True)
class _Model:
    """Sizes of a DiT. GiB: its weights with fp8_scaled, with fp8_base and in 16 bits, and those of a block in fp8; bytes a
    token: `input` a block's input, `rest` of what else is alive in a backward pass; `slack` is the blocks' inputs a token
    that torch's allocator can't give back, without and with them in RAM.
    """

    scaled: float
    fp8: float
    half: float
    block: float
    input: int
    rest: int
    slack: tuple[int, int]


LARGE = _Model(13.94, 13.31, 26.62, 0.327, 10_240, 354_400, (21, 7))
MODELS = {
    "i2v-14B": _Model(15.97, 15.31, 30.5, 0.376, 10_240, 362_000, (21, 7)),
    "1.3B": _Model(1.39, 1.33, 2.64, 0.043, 3_072, 147_000, (6, 6)),
}
EMBEDDED = 286_650  # bytes a token of Wan 2.2's time embedding, which upstream makes anew for each token


def peak(options: Options, tokens: int) -> int:
    """Bytes of GPU memory at the peak of a training whose largest batch has so many tokens, with gradient checkpointing."""
    model = _model(options)
    allocated = max(_moments(options, model, tokens))
    kept = model.slack[bool(options.get(OFFLOAD))] * model.input * tokens
    return round(allocated + kept + (0.75 + CONTEXT) * GIB)


def _model(options: Options) -> _Model:
    return next((model for part, model in MODELS.items() if part in str(options["task"])), LARGE)


def _moments(options: Options, model: _Model, tokens: int) -> Iterator[float]:
    """Bytes allocated in the backward pass of the last block, in that of the first, and in the optimizer's step."""
    task, fp8 = str(options["task"]), bool(options.get("fp8_base"))
    weights = (model.scaled if options.get("fp8_scaled") else model.fp8) if fp8 else model.half
    swapped = whole(options, "blocks_to_swap", 0) * model.block * (1 if fp8 else 2)
    dequantised = 0.05 + (2 * model.block if fp8 else 0)
    lora, moments = dit.lora_numbers(options), dit.moments(options)
    adamw = 4 if moments == 8 else 0  # a copy in its step
    rest = model.rest + (EMBEDDED if "A14B" in task and not options.get(EMBEDDING) else 0)
    inputs = model.input * (2 if options.get(OFFLOAD) else dit.blocks(task))
    resting = (weights - swapped) * GIB + lora * (4 + moments)
    yield resting + dequantised * GIB + tokens * (rest + inputs)
    yield resting + dequantised * GIB + tokens * (rest + model.input) + lora * 4
    yield resting + lora * (4 + adamw)


def fitting(options: Options, tokens: int, card: int) -> Options | None:
    """What to change for a training to fit a card of so many bytes: {} where it does, None where nothing makes it.

    None of it changes what is trained. Blocks are exchanged while others compute; the inputs of all of them in RAM cost
    up to 20 % (musubi-tuner #537), and so do that only for many blocks less.
    """

    def fits(change: Options) -> bool:
        return peak({**options, **change}, tokens) <= card - RESERVE * GIB

    if fits({}):
        return {}
    task, swapped = str(options["task"]), whole(options, "blocks_to_swap", 0)
    embedding: dict[str, Value] = {EMBEDDING: True} if "A14B" in task else {}
    ways = list[tuple[int, Options]]()
    for levers in (embedding, {**embedding, OFFLOAD: True}):
        new = {name: value for name, value in levers.items() if not options.get(name)}
        changes = (new, *({**new, "blocks_to_swap": count} for count in range(swapped + 1, dit.blocks(task))))
        cost = MANY if OFFLOAD in new else 0
        ways += [(cost + more, change) for more, change in enumerate(changes) if fits(change)]
    return min(ways, key=lambda way: way[0])[1] if ways else None
