"""Qwen2.5-VL 7B, with which upstream writes captions: where it is, whether upstream loads it, what it needs besides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from wanwrap.errors import DownloadError, WeightsError, listing
from wanwrap.system.safetensors import SHARD, WIDTHS, Source, open_source
from wanwrap.upstream.dit_file import scaled
from wanwrap.weights import comfyui
from wanwrap.weights.models import structure

NAME = "qwen_2.5_vl_7b.safetensors"
REPO, FILE = "Comfy-Org/Qwen-Image_ComfyUI", f"split_files/text_encoders/{NAME}"
BYTES = 16_584_333_312  # of its numbers, in bf16; fp8 takes half of it
# Upstream's loader is strict: these names and shapes, and no others (models.structure; v0.3.4, 729 tensors).
STRUCTURE = "8004730443f55db63092006dd9f7110e"
# What upstream asks transformers for besides: its processor, and a tokenizer that it loads and does not use.
CONFIGS = {
    "Qwen/Qwen2.5-VL-7B-Instruct": ("preprocessor_config.json", "tokenizer_config.json", "tokenizer.json"),
    "Qwen/Qwen-Image": ("tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"),
}


def find(models: Path, comfyuis: Iterable[Path]) -> Path:
    """The first file that upstream can caption with: in the workspace, the ComfyUIs, the Hugging Face cache.

    Raises:
        WeightsError: there is none; with those that looked like it, and where to get it.
    """
    wrong = list[str]()
    for path in _named(models, comfyuis):
        if (why := unfit(path)) is None:
            return path
        wrong.append(f"{path} ({why})")
    unlike = f" What looks like it is not: {listing(wrong, 3)}." if wrong else ""
    raise WeightsError(
        f"there is no {NAME} ({BYTES / 1e9:.1f} GB), which writes the captions, in {models} or in a ComfyUI that setup "
        f'knows.{unlike} Give it with --model, or get it: hf download {REPO} {FILE} --local-dir "{models}"'
    )


def _named(models: Path, comfyuis: Iterable[Path]) -> Iterator[Path]:
    """Files with Qwen in their path, the workspace's first; of shards the first speaks for its set."""
    folders = [models]
    for given in comfyuis:
        with suppress(WeightsError):  # gone since setup has seen it
            folders += comfyui.folders(given)
    for path in (path for folder in [*folders, *comfyui.hub_cache()] for path in comfyui.files(folder)):
        shard = SHARD.search(path.name)
        if "qwen" in str(path).lower() and path.suffix == ".safetensors" and (not shard or int(shard[1]) == 1):
            yield path


def check(path: Path) -> Path:
    """The file that the user gave. Raises WeightsError: it is not there, or upstream can't caption with it."""
    if not path.is_file():
        raise WeightsError(f"there is no file {path}, which was given as --model; look at its path.")
    if why := unfit(path):
        raise WeightsError(f"{path} can't write captions: {why}; give {NAME} of {REPO}.")
    return path


def unfit(path: Path) -> str | None:
    """Why upstream can't load it, from its header; None where it can."""
    try:
        return _unfit(open_source(path))
    except WeightsError as error:
        text = str(error).removesuffix("; get it again.").removesuffix(".")
        return f"it{text.removeprefix(str(path))}" if text.startswith(str(path)) else text
    except OSError as error:
        return f"it can't be read: {error.strerror}"


def _unfit(source: Source) -> str | None:
    rows = source.rows
    if structure({name: row.shape for name, row in rows.items()}) == STRUCTURE:
        strange = next((row for row in rows.values() if WIDTHS[row.dtype] > 4 or row.dtype[0] in "IUO"), None)
        return f"it stores {strange.name} as {strange.dtype}" if strange else None
    if not any("visual." in name for name in rows):
        return "it is no Qwen2.5-VL, whose tensors are called visual..."
    if sign := scaled(rows):
        return f"it is scaled fp8 (it holds {sign}), which upstream can't load; --fp8 makes fp8 of the bf16 file"
    if any(name.startswith(("model.language_model.", "model.visual.")) for name in rows):
        return "it has newer key names (model.language_model...) than those that upstream reads (model.layers...)"
    return "it is another Qwen-VL than 2.5 7B, or a part of it"


def check_configs() -> list[str]:
    """What is to be said of small files that upstream will download itself.

    Raises:
        DownloadError: it can't, offline.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    missing = [
        repo
        for repo, names in CONFIGS.items()
        if not all(isinstance(try_to_load_from_cache(repo, name, revision="main"), str) for name in names)
    ]
    if missing and constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"HF_HUB_OFFLINE is set, and the processor or tokenizer of {listing(missing)} is not in the Hugging Face "
            "cache; run this once online without it: upstream downloads them, about 15 MB."
        )
    return [f"small files of {repo} are not in the Hugging Face cache: upstream downloads them." for repo in missing]
