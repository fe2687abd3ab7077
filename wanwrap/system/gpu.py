"""NVIDIA's GPUs, as nvidia-smi tells of them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from wanwrap.system.process import capture

# Windows' driver moves what doesn't fit into RAM (nvidia.custhelp.com, answer 5490)
NO_FALLBACK = (
    "In the NVIDIA Control Panel under Manage 3D settings, Global Settings, set CUDA - Sysmem Fallback Policy to Prefer No "
    "Sysmem Fallback (driver 546.01 or newer): then it runs out of memory at once, and wanwrap goes on with more blocks "
    "swapped."
)
FIELDS = "uuid,name,memory.used,memory.total,display_active"
ORDER, SLOTS = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
PATIENCE = 10  # seconds; with a driver that has crashed nvidia-smi hangs for ever


@dataclass(frozen=True)
class Gpu:
    """One of them: its bytes in use, by all programs, and in all; whether it draws a screen."""

    uuid: str
    name: str
    used: int
    total: int
    draws: bool = False


def smi(*options: str) -> str:
    """What nvidia-smi prints. Raises OSError: it is not there, fails or hangs."""
    return capture(["nvidia-smi", *options], {}, PATIENCE)


def listed() -> list[Gpu]:
    """All of this machine's, in the order of their slots; none where nvidia-smi tells of none."""
    found = list[Gpu]()
    with suppress(OSError, ValueError):
        for row in smi(f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits").splitlines():
            uuid, name, used, total, draws = row.split(", ")
            sizes = (int(used) * 2**20, int(total) * 2**20)
            found.append(Gpu(uuid.removeprefix("GPU-"), name, *sizes, draws == "Enabled"))
    return found


def find(uuid: str) -> Gpu | None:
    """The GPU that torch knows by this UUID; None where nvidia-smi doesn't."""
    return next((each for each in listed() if each.uuid == uuid), None)


def visible(found: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu]:
    """Those that CUDA may see. Its numbers are by speed, which nvidia-smi doesn't tell: with them any of all may be meant."""
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return [*found]
    words = [word.strip() for word in wanted.split(",")]
    if all(word.isdecimal() for word in words):
        slots = {int(word) for word in words}
        return [each for slot, each in enumerate(found) if environ.get(ORDER) != SLOTS or slot in slots]
    return [each for each in found if any(word and f"GPU-{each.uuid}".startswith(word) for word in words)]


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
