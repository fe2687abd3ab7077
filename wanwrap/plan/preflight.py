"""Everything that can be known to be wrong before the first file is written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from wanwrap.errors import (
    DownloadError,
    GpuError,
    OptionError,
    OutputError,
    PackageError,
    RoomError,
    UpstreamError,
    WeightsError,
    listing,
)
from wanwrap.paths import PACKAGE
from wanwrap.plan import fit_words
from wanwrap.plan.fit import Fit
from wanwrap.plan.fit_words import gib
from wanwrap.plan.long_paths import too_long
from wanwrap.plan.plan import Plan, Train
from wanwrap.plan.request import Request
from wanwrap.system import console, disk
from wanwrap.system.process import capture
from wanwrap.system.shell import joined
from wanwrap.upstream import dit
from wanwrap.upstream.memory import CONTEXT, GIB
from wanwrap.upstream.options import spell
from wanwrap.upstream.pin import BRINGS, PYTHONS, Upstream
from wanwrap.upstream.rules import ATTENTION_MODULES, late_imports

OTHERS = 0.25  # of a GPU: more than a desktop and a browser use
STATES = 3  # that lie there while the third is being written


@dataclass(frozen=True)
class Machine:
    """What will train: the upstream that was found, the versions beside it, and the GPUs with their bytes."""

    upstream: Upstream
    python: str
    packages: Mapping[str, str]
    gpus: Sequence[Mapping[str, Any]]


# ---- the Python that trains


def ask(python: str, upstream: Upstream, modules: Iterable[str], trainings: Mapping[str, Any] = {}) -> dict[str, Any]:
    """What the training Python answers to `probe.py`; `trainings` are built there once.

    Raises:
        PackageError: it can't be started, or is another than upstream takes.
    """
    asked = json.dumps({"modules": sorted({*modules}), "trainings": trainings})
    argv = [python, str(PACKAGE / "upstream" / "probe.py"), asked]
    console.show([f"asking {python} what it can train with (it imports torch) ..."])
    try:
        answer: dict[str, Any] = json.loads(capture(argv, {**upstream.env, "PYTHONUTF8": "1"}).splitlines()[-1])
        version = answer["python"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PackageError(
            f"{python} can't be used to train: {error}; give the Python that has musubi-tuner with --python."
        ) from error
    finally:
        console.show([])
    if version.rpartition(".")[0] not in PYTHONS:
        raise PackageError(
            f"{python} is Python {version}; musubi-tuner needs {listing(PYTHONS)}: give another --python."
        )
    return answer


def absent(request: Request, modules: Iterable[str]) -> Collection[str]:
    """Those that the training Python can't import. Raises PackageError: it can't be started."""
    return {*ask(request.python, request.upstream, modules)["missing"]}


def checked(
    python: str,
    upstream: Upstream,
    modules: Iterable[str],
    trainings: Mapping[str, Any] = {},
    *,
    any_upstream: bool,
) -> tuple[dict[str, Any], Upstream]:
    """What the training Python answers, and the upstream that will run. Raises PackageError, UpstreamError: one is lacking."""
    answer = ask(python, upstream, modules, trainings)
    found = check_upstream(answer, python, upstream, any_upstream=any_upstream)
    check_packages(answer, python)
    return answer, found


def check_upstream(answer: Mapping[str, Any], python: str, upstream: Upstream, *, any_upstream: bool) -> Upstream:
    """The upstream that will run. Raises UpstreamError: there is none, or another than the pinned one."""
    if "musubi_tuner" in answer["missing"]:
        raise UpstreamError(
            f"{python} has no musubi-tuner; `wanwrap setup` gets it, or give a checkout with --musubi_dir."
        )
    found = upstream if upstream.folder else replace(upstream, **answer["upstream"])
    if (complaint := found.complaint()) and not any_upstream:
        raise UpstreamError(complaint)
    return found


def check_packages(answer: Mapping[str, Any], python: str) -> None:
    """Raises PackageError: modules can't be imported; all of them, and how to get each."""
    if wrong := [name for name, why in answer["missing"].items() if why.startswith("AttributeError")]:
        module, _, name = wrong[0].partition(":")
        raise PackageError(f"there is no {name} in {module}; look at its name, or give another --optimizer.")
    missing = {name.partition(":")[0]: why for name, why in answer["missing"].items() if name != "musubi_tuner"}
    if not missing:
        return
    packages = dict.fromkeys(name.partition(".")[0] for name in missing)
    others = [package for package in packages if package not in BRINGS]
    ways = ["`wanwrap setup` installs what is missing"] if len(others) < len(packages) else []
    ways += [f"to install {listing(others)}: {joined((python, '-m', 'pip', 'install', *others))}"] if others else []
    if missing.keys() & ATTENTION_MODULES.values():
        ways.append("or choose another attention (--attention sdpa)")
    absent = "ModuleNotFoundError: No module named"
    whys = ", ".join(name if why.startswith(absent) else f"{name} ({why})" for name, why in missing.items())
    raise PackageError(f"{python} can't import {whys}; {'; '.join(ways)}.")


def check_trial(answer: Mapping[str, Any]) -> None:
    """Raises OptionError, PackageError, WeightsError: what upstream can't build of a training."""
    for expert, problem in answer.get("problems", {}).items():
        whose = "" if expert == "dit" else f" of the {expert}-noise expert"
        way = "install that package (pip), or change the option" if problem["package"] else "change that option"
        text = f"upstream can't build the {problem['stage']}{whose}: {problem['error']}; {way}."
        kind = PackageError if problem["package"] else OptionError
        raise WeightsError(text) if ".safetensors is" in problem["error"] else kind(text)


def check_recorded(gone: Mapping[str, str]) -> None:
    """Raises OptionError: `wanwrap.toml` names a Python or a checkout that is not there."""
    if gone:
        raise OptionError("\n".join(gone.values()))


def check_machine(plan: Plan, *, gpus: int) -> Machine:
    """The Python, upstream and GPUs that will train, and the trainings built there once without numbers.

    Raises:
        PackageError, UpstreamError, GpuError, OptionError, WeightsError: they can't carry out the plan.
        OutputError: Windows takes no paths as long as its files'.
        RoomError: a training doesn't fit the card.
    """
    request = plan.request
    check_recorded(request.gone)
    if why := too_long(plan):
        raise OutputError(why)
    if request.vram:  # else torch is asked first: nvidia-smi may have told of another machine's, or of another GPU
        fit_words.check(plan)
    imports = chain.from_iterable(late_imports(train.options) for train in plan.trainings)
    trainings: dict[str, Any] = {
        train.expert: {"argv": [*spell(train.options)], "steps": train.steps * request.gpus} for train in plan.trainings
    }
    modules, any_upstream = ("musubi_tuner", "torch", "accelerate", *imports), request.any_upstream
    answer, upstream = checked(request.python, request.upstream, modules, trainings, any_upstream=any_upstream)
    if gpus > (seen := len(answer["gpus"])):
        raise GpuError(
            f"{request.python} sees {seen or 'no'} CUDA GPU(s), and {gpus} are to train; ask for fewer (--gpus, or leave "
            "out --parallel), show it more (CUDA_VISIBLE_DEVICES), or give another --python. `wanwrap rehearse` needs none."
        )
    check_trial(answer)
    return Machine(upstream, answer["python"], answer["packages"], answer["gpus"])


# ---- weights and tokenizers


def complaints(plan: Plan) -> list[str]:
    """Files that are missing or cut off."""
    return [weight.reason for weight in plan.needed() if not weight.usable]


def how_to_get(plan: Plan) -> str:
    """The command that gets what is missing."""
    request = plan.request
    one = f" --noise_level {request.noise_level}" if request.noise_level else ""
    return f"`wanwrap setup {request.preset.word}{one}` gets what is missing, or finds it in a ComfyUI (--comfyui_dir)."


def check_weights(plan: Plan, sha256: Callable[[Path], str]) -> None:
    """Raises WeightsError: files are missing, cut off, or not the published ones. Asked late: they are large.

    Those that are merged or cast are checked by that step.
    """
    if found := complaints(plan):
        lines = "\n  ".join(found)
        raise WeightsError(f"weights are missing or can't be used:\n  {lines}\n{how_to_get(plan)}")
    from wanwrap.weights.identify import checked, look

    rewritten = {path for step in plan.rewrites for path in step.reads}
    for weight in plan.needed():
        if weight.sha256 is None:  # the user's own: it may be a published one, and another than it stands for
            checked(look(weight.path, sha256), weight.names[0])
        if weight.sha256 and weight.path not in rewritten and (mark := sha256(weight.path)) != weight.sha256:
            raise WeightsError(
                f"{weight.path} is not the published file: its sha256 is {mark}, not {weight.sha256}; get it again."
            )


def check_tokenizers(plan: Plan) -> None:
    """Say which tokenizers upstream will download itself, when the latents have been cached.

    Raises:
        DownloadError: it can't, offline.
    """
    from huggingface_hub import constants

    from wanwrap.weights import download
    from wanwrap.weights.catalogue import TOKENIZERS

    preset = plan.request.preset
    missing = [name for name in preset.tokenizers if not download.cached(TOKENIZERS[name])]
    if missing and constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"HF_HUB_OFFLINE is set, and the tokenizer of {listing(missing)} is not in the Hugging Face cache; "
            f"`wanwrap setup {preset.word}` puts it there once you are online."
        )
    for name in missing:
        console.say(f"note: the tokenizer of {name} is not in the Hugging Face cache: upstream downloads it.")


# ---- disk and memory


def saving_bytes(train: Train, epoch: int = 0, known: Mapping[str, int] = {}) -> int:
    """Bytes of the LoRAs and states that a training will have written at most, after an `epoch` that is saved.

    `known` are the sizes that a LoRA and a state have had so far.
    """
    lora, state = dit.lora_bytes(train.options)
    lora, state = known.get("lora", lora), known.get("state", state)
    every = train.save_every or train.epochs
    kept = (train.epochs - 1) // every - epoch // every
    kept = min(kept, train.keep_last) if train.keep_last else kept
    return lora * (kept + 2) + state * (STATES - (epoch > 0))  # the last LoRA, and one in the making


def check_disk(plan: Plan, saving: int) -> None:
    """Raises RoomError: too little disk for all that a run writes."""
    if why := lacking_disk(plan, saving):
        raise RoomError(why)


def lacking_disk(plan: Plan, saving: int) -> str | None:
    """Why the disk is too small for all that a plan and `saving` take, downloads that are missing too; None where not."""
    made = {step.out: step.bytes for step in plan.rewrites if not step.out.is_file()}
    get = sum(weight.size for weight in plan.needed() if not weight.exists)
    parts = {"to download": get, "for DiTs to merge or cast": sum(made.values()), "for LoRAs and states": saving}
    what = ", ".join(f"{disk.large(size)} {words}" for words, size in parts.items() if size)
    return disk.lacking(plan.folder, sum(parts.values()), made, f"needed: {what}")


def check_gpu_memory(plan: Plan, machine: Machine, gpus: int) -> list[str]:
    """What to know of the first so many GPUs, whose memory others use.

    Raises:
        RoomError: a training doesn't fit one, or what is left of it.
    """
    fit_words.check(plan)
    needed = max((fit.memory.total for fit in plan.fits), default=0)
    free, most = min(((row["free"], row["memory"]) for row in machine.gpus[:gpus]), default=(needed, needed))
    if needed <= free + CONTEXT * GIB:  # the Python that was asked took that itself
        return []
    if needed > most:
        return [
            f"note: the training needs about {gib(needed)}, and the GPU has {gib(most)}: it will run out of memory."
        ]
    used = f"other programs use {gib(most - free)} of the GPU's {gib(most)}, and the training needs about {gib(needed)}"
    if most - free > OTHERS * most and plan.request.fit == "auto":
        raise RoomError(f"{used}: end them first (nvidia-smi, or the Task Manager, tells of them).")
    return [f"note: {used}: close what you can."]


def check_ram(plan: Plan, *, together: bool) -> None:
    """Raises RoomError: RAM and page file that are free are too little for a training, or for both `together`."""
    import psutil

    each = [Fit(train, plan.dataset, None).ram for train in plan.trainings]
    needed = sum(each) if together else max(each)
    ram, page = psutil.virtual_memory().available, psutil.swap_memory().free
    if needed <= ram + page:
        return
    both = " for both experts at once" if together else ""
    swaps = any(train.options.get("blocks_to_swap") for train in plan.trainings)
    fewer = ", swap fewer blocks (--blocks_to_swap)" if swaps else ""
    raise RoomError(
        f"about {disk.large(needed)} of RAM are needed{both}, and {disk.large(ram)} are free, with {disk.large(page)} of "
        f"swap (page file); close other programs{fewer}, or enlarge the swap."
    )


def missing(plan: Plan) -> list[str]:
    """What a dry run says: what would have to be there before this plan can run."""
    import importlib.util

    request, to_get = plan.request, complaints(plan)
    elsewhere = request.upstream.folder or request.python != sys.executable
    if not (elsewhere or importlib.util.find_spec("musubi_tuner")):
        to_get.insert(0, "musubi-tuner is not there.")
    if to_get:
        to_get.append(how_to_get(plan))
    too_small = lacking_disk(plan, sum(map(saving_bytes, plan.trainings)))
    return [*to_get, *request.gone.values(), *fit_words.complaints(plan), *filter(None, (too_long(plan), too_small))]
