"""Is this machine ready to train? Each thing that a run needs, fine or with what to do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wanwrap import __version__
from wanwrap.errors import GpuError, OutputError, PackageError, RoomError, UpstreamError, WeightsError, listing
from wanwrap.machine.driver import driver
from wanwrap.machine.install import CUDA_BUILD, question
from wanwrap.machine.wish import Wish
from wanwrap.plan import preflight
from wanwrap.system import disk
from wanwrap.weights import comfyui, download
from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS
from wanwrap.weights.locate import Located, locate

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
        *_machine(wish, weights),
        *_weights(wish, weights),
        *_tokenizers(wish),
        *_comfyui(wish),
    ]


def _located(wish: Wish, name: str) -> Located | WeightsError:
    """Where a run would find it, or why it would refuse it."""
    try:
        return locate(name, wish.models, None, wish.before.weights.get(name))
    except WeightsError as error:
        return error


def _trainer(wish: Wish) -> Iterator[Line]:
    """Python, upstream, torch, packages and GPUs, as the training Python tells."""
    yield Line("wanwrap", f"{__version__}, on Python {sys.version.split()[0]}")
    wanted = {*question(wish.modules), *OPTIONAL}
    try:
        answer = preflight.ask(wish.python, wish.upstream, wanted)
    except PackageError as error:
        yield Line("Python", str(error), error.exit_code)
        return
    yield Line("Python", f"{answer['python']}, {wish.python}")
    yield _upstream(wish, answer)
    yield from _torch(answer)
    yield _packages(wish, answer["missing"])


def _packages(wish: Wish, missing: Mapping[str, str]) -> Line:
    needed = question(wish.modules) - {"musubi_tuner", "torch", CUDA_BUILD}
    if lacking := {name.partition(":")[0]: why for name, why in sorted(missing.items()) if name in needed}:
        why = next(iter(lacking.values()))
        text = f"{listing(lacking)} can't be imported ({why}); `wanwrap setup` installs what is missing"
        return Line("packages", text, PackageError.exit_code)
    have = listing(name.partition(".")[0] for name in OPTIONAL if name not in missing) or "none"
    return Line("packages", f"the presets' are there; of those to choose from: {have}")


def _upstream(wish: Wish, answer: Mapping[str, Any]) -> Line:
    missing = {name: why for name, why in answer["missing"].items() if name == "musubi_tuner"}
    try:
        found = preflight.check_upstream({**answer, "missing": missing}, wish.python, wish.upstream, any_upstream=False)
    except UpstreamError as error:
        return Line("musubi-tuner", str(error), error.exit_code)
    commit = f"commit {found.commit[:7]}" if found.commit else "its commit is not known"
    return Line("musubi-tuner", f"{found.version}, {commit}, {found.folder or 'installed'}")


def _torch(answer: Mapping[str, Any]) -> Iterator[Line]:
    version, missing = answer["packages"].get("torch"), answer["missing"]
    if "torch" in missing:
        text = f"can't be imported ({missing['torch']}); `wanwrap setup` installs it"
        yield Line("torch", text, PackageError.exit_code)
        seen = driver()
        names = (
            listing(gpu.name for gpu in seen.gpus) if seen else "there is no NVIDIA driver; training needs a CUDA GPU"
        )
        yield Line("GPU", names, 0 if seen else GpuError.exit_code)
        return
    yield Line("torch", str(version))
    if not answer["gpus"]:
        cpu = "`wanwrap setup` installs the build for this driver"
        why = f"torch {version} sees none: {cpu if CUDA_BUILD in missing else 'it may be too new for the driver'}"
        why = why if driver() else "there is no NVIDIA driver"
        yield Line("GPU", f"{why}; training needs a CUDA GPU (`wanwrap rehearse` works without)", GpuError.exit_code)
    for gpu in answer["gpus"]:
        yield Line("GPU", f"{gpu['name']}, {disk.large(gpu['free'])} of {disk.large(gpu['memory'])} free")


def _machine(wish: Wish, weights: Mapping[str, Located | WeightsError]) -> Iterator[Line]:
    """Memory and disk."""
    import psutil

    memory, largest = psutil.virtual_memory(), max(CATALOGUE[name].bytes for name in wish.needs)
    text = f"{disk.large(memory.available)} of {disk.large(memory.total)} free"
    short = memory.total + psutil.swap_memory().total < largest
    more = f"; a DiT of {disk.large(largest)} passes through it: add memory or swap" if short else ""
    yield Line("RAM", text + more, RoomError.exit_code if short else 0)
    place, get = disk.nearest(wish.base_dir), sum(each.size for each in _missing(weights.values()))
    try:
        why = disk.lacking(place, get, what="to download still")
        free = f"{disk.large(shutil.disk_usage(place).free)} free in {place}"
        yield Line("disk", why or free, RoomError.exit_code if why else 0)
    except OutputError as error:
        yield Line("disk", str(error), error.exit_code)


def _missing(weights: Iterable[Located | WeightsError]) -> list[Located]:
    return [each for each in weights if isinstance(each, Located) and not each.exists and not each.changed]


def _weights(wish: Wish, weights: Mapping[str, Located | WeightsError]) -> Iterator[Line]:
    """Each preset's, with a verdict."""
    for preset in wish.presets:
        names = wish.request(preset).needed
        mine = [weights[name] for name in names]
        missing = _missing(mine)
        problems = [str(each) for each in mine if isinstance(each, WeightsError)]
        there = [each for each in mine if isinstance(each, Located) and each not in missing]
        problems += [why for each in there if (why := each.complaint())]
        if missing:
            size = disk.large(sum(each.size for each in missing))
            get = f"`wanwrap setup {preset.name}` finds or fetches them."
            problems.append(f"{len(missing)} of {len(names)} are not there ({size}): {get}")
        code = WeightsError.exit_code if problems else 0
        yield Line(f"weights of {preset.name}", " ".join(problems) or f"all {len(names)} are there", code)


def _tokenizers(wish: Wish) -> Iterator[Line]:
    for name in wish.tokenizers:
        there = download.cached(TOKENIZERS[name])
        text = "in the Hugging Face cache" if there else "not in the Hugging Face cache; `wanwrap setup` puts it there"
        yield Line(f"tokenizer of {name}", text, 0 if there else WeightsError.exit_code)


def _comfyui(wish: Wish) -> Iterator[Line]:
    if not wish.before.comfyui:
        yield Line("ComfyUI", "none given; `wanwrap setup --comfyui_dir FOLDER` uses the weights of one")
    for folder in wish.before.comfyui:
        try:
            count = len(comfyui.folders(folder, quiet=True))
            yield Line("ComfyUI", f"{folder}, {count} folders of models")
        except WeightsError as error:
            yield Line("ComfyUI", str(error), error.exit_code)
