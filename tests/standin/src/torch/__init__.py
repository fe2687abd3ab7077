"""What the probe asks of torch; STANDIN_GPUS says how many GPUs there are. A merge gets the real one."""

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

if Path(sys.argv[0]).name == "child.py":
    sys.path.remove(str(Path(__file__).resolve().parents[1]))
    del sys.modules["torch"]
    importlib.import_module("torch")

from torch import optim  # noqa: F401


class device:
    type = "cuda"

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


_GPUS = int(os.environ.get("STANDIN_GPUS", "1"))
sys.modules.setdefault("bare_cpu", SimpleNamespace(help_if_needed=bool))  # nothing here asks for a GPU
cuda = SimpleNamespace(
    is_available=lambda: _GPUS > 0,
    device_count=lambda: _GPUS,
    get_device_properties=lambda index: SimpleNamespace(
        name=f"Standin {index}", total_memory=80 * 2**30, uuid=f"{index}-a", major=0, minor=0, multi_processor_count=1
    ),
    mem_get_info=lambda _: (int(os.environ.get("STANDIN_FREE", 79 * 2**30)), 80 * 2**30),
)
no_grad = device  # contexts that do nothing
amp = SimpleNamespace(autocast=device)
float16 = "fp16"
