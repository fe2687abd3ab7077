"""What the probe asks of torch; STANDIN_GPUS says how many GPUs there are."""

import os
from types import SimpleNamespace

from torch import optim  # noqa: F401

_GPUS = int(os.environ.get("STANDIN_GPUS", "1"))
cuda = SimpleNamespace(
    is_available=lambda: _GPUS > 0,
    device_count=lambda: _GPUS,
    get_device_properties=lambda index: SimpleNamespace(name=f"Standin {index}", total_memory=24 * 2**30),
)
