"""How long a step of upstream's takes, about: to weigh one way of training against another, and to tell hours."""

from __future__ import annotations

from wanwrap.upstream import memory
from wanwrap.upstream.memory import GIB, OFFLOAD
from wanwrap.upstream.options import Options, whole

FIXED = 1.0  # seconds of a batch whatever its size; measured ones are 0.5 to 1
SWAP = 0.18  # seconds a GiB of blocks takes over PCIe without pinned memory
BESIDE = 0.1  # of that time, which does not pass while the GPU computes (musubi-tuner #972 with H2D alone: 10 %)
OFFLOADING = 1.1  # times as long with the blocks' inputs in RAM: "a few to 20 %" (musubi-tuner #537)


def several(options: Options) -> int:
    """Batches of a step."""
    return whole(options, "gradient_accumulation_steps", 1)


def seconds(options: Options, computing: float) -> float:
    """Of a step, for each of whose batches a GPU computes so many seconds.

    A block is exchanged while others compute, but for a part of it; twice a batch, each way.
    """
    busy = FIXED + computing * (OFFLOADING if options.get(OFFLOAD) else 1)
    exchanging = 2 * memory.swapped(options) / GIB * SWAP
    return several(options) * (max(busy, exchanging) + BESIDE * exchanging)
