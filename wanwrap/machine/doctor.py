"""Is this machine ready to train? Each thing that a run needs, fine or with what to do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wanwrap import __version__
from wanwrap.errors import GpuError, OptionError, PackageError, RoomError, WanwrapError, WeightsError
from wanwrap.machine import windows
from wanwrap.machine.driver import driver
from wanwrap.machine.install import CUDA_BUILD, question
from wanwrap.machine.request import SetupRequest
from wanwrap.plan import preflight
from wanwrap.plan.request import Request
from wanwrap.system import disk
from wanwrap.weights import download
from wanwrap.weights.catalogue import CATALOGUE, TOKENIZERS
from wanwrap.weights.locate import locate


@dataclass(frozen=True)
class Line:
    """One thing: `code` is 0 where it is fine, else the exit code of the error that a run would end with.

    A `note` is advice, which nothing ends for.
    """

    name: str
    text: str
    code: int = 0
    note: bool = False


def examine(request: SetupRequest) -> Iterator[Line]:
    """All lines, those that a run would meet first before the others."""
    yield Line("wanwrap", f"{__version__}, on Python {sys.version.split()[0]}")
    yield from (Line("wanwrap.toml", why, OptionError.exit_code) for why in request.first.gone.values())
    yield from _trainer(request)
    largest = max(CATALOGUE[name].bytes for name in request.needs)
    yield _checked("RAM", lambda: _memory(largest))
    problems, missing = _weights(request)
    yield _checked("disk", lambda: _disk(request.first.base_dir, missing))
    for run in request.runs:
        yield _checked(f"weights of {run.preset.name}", partial(_all_there, run, problems))
    for name in request.tokenizers:
        there = download.cached(TOKENIZERS[name])
        text = "in the Hugging Face cache" if there else "not in the Hugging Face cache; `wanwrap setup` puts it there"
        yield Line(f"tokenizer of {name}", text, 0 if there else WeightsError.exit_code)
    yield from (Line(name, text, note=True) for name, text in windows.advice(request.first.base_dir, largest))


def _checked(name: str, check: Callable[[], str]) -> Line:
    """What a check says of what is fine, else the error that a run would end with."""
    try:
        return Line(name, check())
    except WanwrapError as error:
        return Line(name, str(error), error.exit_code)


def _trainer(request: SetupRequest) -> Iterator[Line]:
    """Upstream, packages and GPUs, as the training Python tells."""
    try:
        answer = preflight.ask(request.first.python, request.first.upstream, question(request.modules))
    except PackageError as error:
        yield Line("Python", str(error), error.exit_code)
        return
    yield Line("Python", f"{answer['python']}, {request.first.python}")
    yield _checked("musubi-tuner", lambda: _upstream(request, answer))
    yield _checked("packages", lambda: _packages(request, answer))
    yield from _gpus(answer)


def _upstream(request: SetupRequest, answer: Mapping[str, Any]) -> str:
    found = preflight.check_upstream(answer, request.first.python, request.first.upstream, any_upstream=False)
    commit = f"commit {found.commit[:7]}" if found.commit else "its commit is not known"
    return f"{found.version}, {commit}, {found.folder or 'installed'}"


def _packages(request: SetupRequest, answer: Mapping[str, Any]) -> str:
    lacking = {name: why for name, why in answer["missing"].items() if name != CUDA_BUILD}
    preflight.check_packages({"missing": lacking}, request.first.python)
    return f"torch {answer['packages'].get('torch')}, and what the presets need"


def _gpus(answer: Mapping[str, Any]) -> Iterator[Line]:
    """Each that torch can use, else why there is none."""
    rocm = "rocm" in str(answer["packages"].get("torch"))
    untried = ", by ROCm, with which wanwrap is not tried" if rocm else ""
    for gpu in answer["gpus"]:
        yield Line("GPU", f"{gpu['name']}, {disk.large(gpu['free'])} of {disk.large(gpu['memory'])} free{untried}")
    if answer["gpus"]:
        return
    why = "torch may be too new for the NVIDIA driver"
    if rocm:
        why = "torch is a build for ROCm, and sees no AMD GPU"
    elif driver() is None:
        why = "nvidia-smi tells of no NVIDIA driver"
    elif CUDA_BUILD in answer["missing"]:
        why = "torch is not there or a build for the CPU: `wanwrap setup` installs the one for this driver"
    yield Line(
        "GPU", f"{why}; training needs a GPU that torch can use (`wanwrap rehearse` works without)", GpuError.exit_code
    )


def _memory(largest: int) -> str:
    """Raises RoomError: less than the largest DiT, all of which passes through it."""
    import psutil

    memory = psutil.virtual_memory()
    text = f"{disk.large(memory.available)} of {disk.large(memory.total)} free"
    if memory.total + psutil.swap_memory().total < largest:
        raise RoomError(f"{text}; a DiT of {disk.large(largest)} passes through it: add memory or swap")
    return text


def _weights(request: SetupRequest) -> tuple[dict[str, str], int]:
    """Why a run would refuse some of those that are needed, by name; and the bytes that are to be downloaded."""
    problems, missing = dict[str, str](), 0
    for name in request.needs:
        try:
            found = locate(name, request.models, None, request.first.workspace.weights.get(name))
        except WeightsError as error:
            problems[name] = str(error)
            continue
        if not found.usable:
            problems[name] = found.reason
        if not found.exists:
            missing += found.size
    return problems, missing


def _all_there(run: Request, problems: Mapping[str, str]) -> str:
    """Raises WeightsError: one preset's are not."""
    if whys := [problems[name] for name in run.needed if name in problems]:
        get = f"`wanwrap setup {run.preset.word}` finds or fetches what is missing."
        raise WeightsError(" ".join([*whys, get]))
    return f"all {len(run.needed)} are there"


def _disk(base: Path, missing: int) -> str:
    """Raises RoomError, OutputError: too little for what is to be downloaded, or no place to write to."""
    place = disk.nearest(base)
    if why := disk.lacking(place, missing, what="to download still"):
        raise RoomError(why)
    return f"{disk.large(shutil.disk_usage(place).free)} free in {place}"
