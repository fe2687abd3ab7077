"""Qwen2.5-VL 7B, with which upstream writes captions: where it is, and whether upstream loads it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.system.safetensors import open_source
from wanwrap.upstream.dit import scaled
from wanwrap.weights import comfyui
from wanwrap.weights.models import structure

NAME = "qwen_2.5_vl_7b.safetensors"
REPO, FILE = "Comfy-Org/Qwen-Image_ComfyUI", f"split_files/text_encoders/{NAME}"
BYTES = 16_584_333_312  # of its numbers, in bf16; fp8 takes half of it
# Upstream's loader is strict: these names and shapes, and no others (models.structure; v0.3.4, 729 tensors).
STRUCTURE = "8004730443f55db63092006dd9f7110e"


def find(models: Path, comfyuis: Iterable[Path]) -> Path:
    """The first file of that name that upstream loads: in the workspace, the ComfyUIs, the Hugging Face cache.

    Raises:
        WeightsError: there is none, with where to get it; or what is wrong with the first.
    """
    folders, wrong = [models], list[WeightsError]()
    for given in comfyuis:
        with suppress(WeightsError):  # gone since setup has seen it
            folders += comfyui.folders(given)
    for path in chain.from_iterable(map(comfyui.files, [*folders, *comfyui.hub_cache()])):
        if path.name == NAME:
            try:
                return check(path)
            except WeightsError as error:
                wrong.append(error)
    if wrong:
        raise wrong[0]
    raise WeightsError(
        f"there is no {NAME} ({BYTES / 1e9:.1f} GB, not fp8_scaled), which writes the captions, in {models} or in a "
        f"ComfyUI that setup knows; give another one with --model, or get it: hf download {REPO} {FILE} --local-dir "
        f'"{models}"'
    )


def check(path: Path) -> Path:
    """The file, by its header one that upstream loads. Raises WeightsError: it is not there, cut off, or another."""
    rows = open_source(path).rows
    if structure({name: row.shape for name, row in rows.items()}) == STRUCTURE:
        return path
    if sign := scaled(rows):
        raise WeightsError(
            f"{path} is scaled fp8 (it holds {sign}), which upstream can't load; --fp8 makes fp8 of the bf16 file."
        )
    raise WeightsError(f"{path} is not Qwen2.5-VL 7B under the names that upstream reads; give {NAME} of {REPO}.")
