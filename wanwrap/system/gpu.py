"""NVIDIA's GPUs, as nvidia-smi tells of them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from wanwrap.system.process import capture

# Windows' driver moves what doesn't fit into RAM (nvidia.custhelp.com, answer 5490)
NO_FALLBACK = (
    "In the NVIDIA Control Panel under Manage 3D settings, Global Settings, set CUDA - Sysmem Fallback Policy to Prefer No "
    "Sysmem Fallback (driver 546.01 or newer): then it runs out of memory at once, and wanwrap goes on with more blocks "
    "swapped."
)
PATIENCE = 10  # seconds; with a driver that has crashed nvidia-smi hangs for ever


@dataclass(frozen=True)
class Gpu:
    """One of them: bytes in use, by all programs, and in all."""

    uuid: str
    used: int
    total: int


def smi(*options: str) -> str:
    """What nvidia-smi prints. Raises OSError: it is not there, fails or hangs."""
    return capture(["nvidia-smi", *options], {}, PATIENCE)


def find(uuid: str) -> Gpu | None:
    """The GPU that torch knows by this UUID; None where nvidia-smi tells of none."""
    with suppress(OSError, ValueError):
        for row in smi("--query-gpu=uuid,memory.used,memory.total", "--format=csv,noheader,nounits").splitlines():
            name, used, total = row.split(", ")
            if name.removeprefix("GPU-") == uuid:
                return Gpu(uuid, int(used) * 2**20, int(total) * 2**20)
    return None


def wsl() -> bool:
    """Whether this is Linux within Windows, on its driver."""
    return sys.platform == "linux" and "microsoft" in platform.release().lower()


# Dense bf16 operations a clock and multiprocessor, and the clock in GHz, by compute capability (NVIDIA's white papers:
# 3090 71, 4090 165, 5090 210, A100 312, H100 989 TFLOP/s). Cards that are no GeForce do twice as many from 8.6 on.
RATES = {(8, 0): (2048, 1.41), (8, 6): (512, 1.7), (8, 9): (512, 2.5), (9, 0): (4096, 1.83), (12, 0): (512, 2.41)}


def operations(name: str, capability: Sequence[int], multiprocessors: int) -> float:
    """Floating-point operations a second that a card is built for, with bf16; 0 for one that is not known here."""
    rate, clock = RATES.get((capability[0], capability[1]), (0, 0.0))
    twice = 2 if rate == 512 and "GeForce" not in name else 1
    return rate * twice * clock * 1e9 * multiprocessors
