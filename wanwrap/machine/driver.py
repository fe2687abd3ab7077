"""NVIDIA's driver and GPUs, as nvidia-smi tells of them, and the torch build that runs there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from wanwrap.errors import GpuError
from wanwrap.system import gpu

# upstream's extras, newest first: the CUDA version that a driver must support, and the first driver that does
# (NVIDIA's table "CUDA Toolkit and Corresponding Driver Versions", in the release notes of the toolkit)
BUILDS = {"cu130": ((13, 0), 580), "cu128": ((12, 8), 570), "cu124": ((12, 4), 550)}
CHOICES = (*BUILDS, "cpu")
BLACKWELL = (10, 0)  # RTX 50xx is 12.0, B200 10.0: builds for CUDA 12.4 hold no kernels for them
TURING = (7, 5)  # the oldest that CUDA 13 compiles for; torch's builds for CUDA 12.8 leave out what is older, too


@dataclass(frozen=True)
class Driver:
    """The highest CUDA version that NVIDIA's driver supports, and its GPUs' compute capabilities by their names."""

    cuda: tuple[int, int]
    gpus: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def driver() -> Driver | None:
    """What nvidia-smi tells; None where it is not there, fails, hangs, or tells no CUDA version."""
    rows = ""
    try:
        banner = gpu.smi()
        with suppress(OSError):  # drivers before 510 know no compute_cap
            rows = gpu.smi("--query-gpu=name,compute_cap", "--format=csv,noheader")
    except OSError:
        return None
    found = re.search(r"CUDA\s+(?:\w+\s+)?Version\s*:\s*(\d+)\.(\d+)", banner)  # since 610 "CUDA UMD Version"
    gpus = {name: (int(major), int(minor)) for name, major, minor in re.findall(r"(.+), *(\d+)\.(\d+)", rows)}
    return Driver((int(found[1]), int(found[2])), gpus) if found else None


def build(driver: Driver | None) -> str:
    """The newest torch build that driver and GPUs can run, by the name of upstream's extra.

    Raises:
        GpuError: there is none, and what to do.
    """
    if driver is None:
        raise GpuError(
            "nvidia-smi tells of no NVIDIA driver; install NVIDIA's driver, "
            f"or name the build of PyTorch with --torch ({', '.join(sorted(CHOICES))}). For an AMD GPU install PyTorch "
            "for ROCm yourself, which setup keeps; wanwrap is not tried there."
        )
    old = any(capability < TURING for capability in driver.gpus.values())
    new = next((name for name, capability in driver.gpus.items() if capability >= BLACKWELL), None)
    able = [name for name, (cuda, _) in BUILDS.items() if cuda <= driver.cuda and not (new and name == "cu124")]
    if able:
        return "cu124" if old and not new else able[0]
    wanted = "cu128" if new else "cu124"
    (major, minor), least = BUILDS[wanted]
    # within CUDA 12, NVIDIA promises that what is compiled for a later one mostly runs ("minor version compatibility")
    other = ", or try the build for CUDA 12.4 with --torch cu124" if driver.cuda[0] == 12 and not new else ""
    raise GpuError(
        f"the NVIDIA driver supports CUDA {driver.cuda[0]}.{driver.cuda[1]}, and {new or 'upstream'} needs PyTorch for "
        f"CUDA {major}.{minor} or later; install driver {least} or newer{other}."
    )
