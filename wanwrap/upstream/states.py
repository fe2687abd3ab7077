"""Upstream's states, from which it can go on: whether one is whole, and to keep it so over a power cut.

A state is a folder that accelerate fills: the LoRA, the optimizer, the scheduler, and last of all the random
generators. With several GPUs upstream saves those of the first process alone.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.system import header
from wanwrap.system.files import sync

LAST = "random_states_0.pkl"
REMOVED = ".removed"


def attempts(home: Path, key: str) -> list[Path]:
    """The folders of an expert's attempts, and those that a kill has kept from being removed; no others."""
    ours = re.compile(re.escape(key) + rf"-\d+({re.escape(REMOVED)})?")
    return sorted(path for path in home.glob(f"{key}-*") if ours.fullmatch(path.name))


def saved(folder: Path, label: str) -> Iterator[tuple[int, Path]]:
    """The states of an attempt, whole or not, with the epoch, in its own counting, after which each was saved."""
    named = re.compile(re.escape(label) + r"-(\d{6})-state")
    return ((int(found[1]), path) for path in folder.glob("*-state") if (found := named.fullmatch(path.name)))


def is_whole(state: Path, *, thorough: bool = False) -> bool:
    """Whether all of a state has been written; `thorough` reads it to the end (1 to 10 GB) for the check sums.

    Raises:
        OSError: nobody knows, since it can't be read.
    """
    try:
        if not _archive(state / LAST, thorough):
            return False
        header.read(state / "model.safetensors")
        return all(_archive(path, thorough) for path in (*state.glob("*.bin"), *state.glob("*.pt")))
    except (FileNotFoundError, WeightsError):
        return False


def _archive(path: Path, thorough: bool) -> bool:
    """What torch.save writes: a zip file, with its table of contents at the end."""
    if not thorough:
        return zipfile.is_zipfile(path)
    with suppress(zipfile.BadZipFile, FileNotFoundError), zipfile.ZipFile(path) as archive:
        return archive.testzip() is None
    return False


def settle(state: Path) -> None:
    """Wait until all of a state is on the disk: upstream doesn't."""
    for path in state.iterdir():
        with path.open("rb+") as file:
            sync(file)
    if os.name == "posix":
        for folder in (state, state.parent):
            place = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # not every network drive can
                os.fsync(place)
            os.close(place)


def clear(home: Path, key: str) -> None:
    """Remove all attempts of an expert, with what a kill has left of such a removal."""
    for path in attempts(home, key):
        remove(path)


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    with suppress(OSError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0


def remove(folder: Path) -> None:
    """A state, or all of an attempt, that is needed no more; under another name first, that no half one is left."""
    gone = folder if folder.suffix == REMOVED else folder.with_name(f"{folder.name}{REMOVED}")
    if gone != folder:
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(OSError):
            folder.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)
