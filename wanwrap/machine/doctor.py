"""Is this machine ready to train? Each thing that a run needs, fine or with what to do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wanwrap import __version__
from wanwrap.errors import GpuError, PackageError, RoomError, WanwrapError, WeightsError, listing
from wanwrap.machine.driver import driver
from wanwrap.machine.install import CUDA_BUILD, question
from wanwrap.machine.wish import Wish
from wanwrap.plan import preflight
from wanwrap.preset import Preset
from wanwrap.system import disk
from wanwrap.weights import comfyui, download
from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS
from wanwrap.weights.locate import locate
from wanwrap.weights.weight_file import WeightFile

# what a user may choose with --attention and --optimizer
OPTIONAL = ("xformers.ops", "flash_attn", "flash_attn_interface", "bitsandbytes", "tensorboard")


@dataclass(frozen=True)
class Line:
    """One thing: `code` is 0 where it is fine, else the exit code of the error that a run would end with."""

    name: str
    text: str
    code: int = 0


def examine(wish: Wish) -> list[Line]:
    """All lines, those that a run would meet first before the others."""
    weights = {name: _located(wish, name) for name in wish.needs}
    return [
        *_trainer(wish),
        _memory(max(CATALOGUE[name].bytes for name in wish.needs)),
        _checked("disk", lambda: _disk(wish, weights)),
        *(_weights(wish, preset, weights) for preset in wish.presets),
        *_tokenizers(wish),
        *_comfyui(wish),
    ]


def _checked(name: str, check: Callable[[], str]) -> Line:
    """What a check says of what is fine, else the error that a run would end with."""
    try:
        return Line(name, check())
    except WanwrapError as error:
        return Line(name, str(error), error.exit_code)


def _located(wish: Wish, name: str) -> WeightFile | WeightsError:
    """Where a run would find it, or why it would refuse it."""
    try:
        return locate(name, wish.models, None, wish.before.weights.get(name))
    except WeightsError as error:
        return error


def _trainer(wish: Wish) -> Iterator[Line]:
    """Python, upstream, torch, packages and GPUs, as the training Python tells."""
    yield Line("wanwrap", f"{__version__}, on Python {sys.version.split()[0]}")
    wanted = question(wish.modules)
    try:
        answer = preflight.ask(wish.python, wish.upstream, {*wanted, *OPTIONAL})
    except PackageError as error:
        yield Line("Python", str(error), error.exit_code)
        return
    missing = answer["missing"]
    yield Line("Python", f"{answer['python']}, {wish.python}")
    yield _checked("musubi-tuner", lambda: _upstream(wish, answer))
    yield _checked("packages", lambda: _packages(answer, wanted - {"musubi_tuner", CUDA_BUILD}))
    if not answer["gpus"]:
        why = "torch may be too new for the NVIDIA driver"
        if driver() is None:
            why = "there is no NVIDIA driver"
        elif CUDA_BUILD in missing:
            why = "torch is not there or a build for the CPU: `wanwrap setup` installs the one for this driver"
        yield Line("GPU", f"{why}; training needs a CUDA GPU (`wanwrap rehearse` works without)", GpuError.exit_code)
    for gpu in answer["gpus"]:
        yield Line("GPU", f"{gpu['name']}, {disk.large(gpu['free'])} of {disk.large(gpu['memory'])} free")


def _upstream(wish: Wish, answer: Mapping[str, Any]) -> str:
    found = preflight.check_upstream(answer, wish.python, wish.upstream, any_upstream=False)
    commit = f"commit {found.commit[:7]}" if found.commit else "its commit is not known"
    return f"{found.version}, {commit}, {found.folder or 'installed'}"


def _packages(answer: Mapping[str, Any], wanted: Collection[str]) -> str:
    """Raises PackageError: one of those that are wanted can't be imported."""
    missing = answer["missing"]
    if lacking := {name.partition(":")[0]: why for name, why in sorted(missing.items()) if name in wanted}:
        why = next(iter(lacking.values()))
        raise PackageError(f"{listing(lacking)} can't be imported ({why}); `wanwrap setup` installs what is missing")
    have = listing(name.partition(".")[0] for name in OPTIONAL if name not in missing) or "none"
    return f"torch {answer['packages'].get('torch')}, and what the presets need; of those to choose from: {have}"


def _memory(largest: int) -> Line:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{disk.large(memory.available)} of {disk.large(memory.total)} free"
    if memory.total + psutil.swap_memory().total >= largest:
        return Line("RAM", text)
    more = f"a DiT of {disk.large(largest)} passes through it: add memory or swap"
    return Line("RAM", f"{text}; {more}", RoomError.exit_code)


def _disk(wish: Wish, weights: Mapping[str, WeightFile | WeightsError]) -> str:
    """Raises RoomError, OutputError: too little for what is to be downloaded, or no place to write to."""
    missing = [each for each in weights.values() if isinstance(each, WeightFile) and not each.exists]
    place = disk.nearest(wish.base_dir)
    if why := disk.lacking(place, sum(each.size for each in missing), what="to download still"):
        raise RoomError(why)
    return f"{disk.large(shutil.disk_usage(place).free)} free in {place}"


def _weights(wish: Wish, preset: Preset, weights: Mapping[str, WeightFile | WeightsError]) -> Line:
    mine = [weights[name] for name in wish.request(preset).needed]
    problems = [each.reason if isinstance(each, WeightFile) else str(each) for each in mine]
    if whys := [why for why in problems if why]:
        get = f"`wanwrap setup {preset.name}` finds or fetches what is missing."
        return Line(f"weights of {preset.name}", " ".join([*whys, get]), WeightsError.exit_code)
    return Line(f"weights of {preset.name}", f"all {len(mine)} are there")


def _tokenizers(wish: Wish) -> Iterator[Line]:
    for name in wish.tokenizers:
        there = download.cached(TOKENIZERS[name])
        text = "in the Hugging Face cache" if there else "not in the Hugging Face cache; `wanwrap setup` puts it there"
        yield Line(f"tokenizer of {name}", text, 0 if there else WeightsError.exit_code)


def _comfyui(wish: Wish) -> Iterator[Line]:
    if not wish.before.comfyui:
        yield Line("ComfyUI", "none given; `wanwrap setup --comfyui_dir FOLDER` uses the weights of one")
    for folder in wish.before.comfyui:
        yield _checked("ComfyUI", partial(_models, folder))


def _models(folder: Path) -> str:
    return f"{folder}, {len(comfyui.folders(folder, quiet=True))} folders of models"
