"""What upstream saves while it trains: LoRAs, and states that it can go on from.

A state is a folder that accelerate fills: the LoRA, the optimizer, the scheduler, and last of all the random
generators. With several GPUs upstream saves those of the first process alone.
"""

from __future__ import annotations

import math
import re
import zipfile
from array import array
from contextlib import suppress
from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.system.files import move, opened, remove_tree, sync, sync_folder
from wanwrap.system.safetensors import open_source, read_header

LAST = "random_states_0.pkl"
REMOVED = ".removed"
# How it calls a LoRA's tensors (networks/lora.py, loha.py, lokr.py).
PREFIX, UP = "lora_unet_", ".lora_up.weight"  # the up matrices are zeros before the first step
RANKS = (".lora_down.weight", ".hada_w1_b", ".lokr_w2_b")  # their first side is the rank


def lora_name(label: str, epoch: int | None) -> str:
    """What upstream calls a LoRA: by its epoch, the last one without."""
    return f"{label}.safetensors" if epoch is None else f"{label}-{epoch:06d}.safetensors"


def lora_epoch(name: str, label: str) -> int | None:
    """The epoch in the name of a LoRA with this label; 0 for the last one, which has none; None for another file."""
    found = re.fullmatch(re.escape(label) + r"(?:-(\d{6}))?\.safetensors", name)
    return int(found[1] or 0) if found else None


def longest(label: str) -> str:
    """The longest path of what upstream saves below `output_dir`: a state's file, where the state is just being removed."""
    return f"{label}-000001-state{REMOVED}/{LAST}"


def sample(label: str) -> str:
    """The path of a sample below `output_dir`, as long as any is: epoch, prompt, time, seed and frame."""
    return f"sample/{label}_e000001_00_20260101000000_1234567890_000.png"


def saved(folder: Path, label: str) -> dict[int, Path]:
    """The states in a folder, whole or not, by the epoch after which each was saved, the youngest last."""
    named = re.compile(re.escape(label) + r"-(\d{6})-state")
    there = folder.iterdir() if folder.is_dir() else ()
    return dict(sorted((int(found[1]), path) for path in there if (found := named.fullmatch(path.name))))


def is_whole(state: Path, *, thorough: bool = False) -> bool:
    """Whether all of a state has been written; `thorough` reads it to the end (1 to 10 GB) for the check sums.

    Raises:
        OSError: nobody knows, since it can't be read.
    """
    try:
        read_header(state / "model.safetensors")
        archives = (state / LAST, *state.glob("*.bin"), *state.glob("*.pt"))
        return all(_archive(path, thorough) for path in archives)
    except (FileNotFoundError, WeightsError):
        return False


def _archive(path: Path, thorough: bool) -> bool:
    """What torch.save writes: a zip file, with its table of contents at the end."""
    with opened(path) as file:
        if not thorough:
            return zipfile.is_zipfile(file)
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    return False


def matrix(state: Path) -> bytes:
    """The first trained matrix of a state, in float32 as upstream trains all networks; empty where it is another type."""
    source = open_source(state / "model.safetensors")
    first = next((row for row in source.rows.values() if len(row.shape) > 1 and row.dtype == "F32"), None)
    return bytes(source.read(first.name, 0, first.end - first.begin)) if first else b""


def is_good(state: Path) -> bool:
    """Whether a trained matrix holds numbers: one bad step spoils all of them."""
    return all(map(math.isfinite, array("f", matrix(state))))


def settle(state: Path) -> None:
    """Wait until all of a state is on the disk: upstream doesn't."""
    for path in state.iterdir():
        with opened(path, "r+b") as file:
            sync(file)
    sync_folder(state)
    sync_folder(state.parent)


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    with suppress(OSError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0


def remove(folder: Path) -> None:
    """A state, or a folder of them, that is needed no more; under another name first, that no half one is left."""
    gone = folder if folder.suffix == REMOVED else folder.with_name(f"{folder.name}{REMOVED}")
    if gone != folder:
        remove_tree(gone)
        with suppress(OSError):
            move(folder, gone)
    remove_tree(gone)
