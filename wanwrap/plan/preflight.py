"""Everything that can be known to be wrong before the first file is written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from wanwrap.errors import (
    DownloadError,
    GpuError,
    OutputError,
    PackageError,
    RoomError,
    UpstreamError,
    WeightsError,
    listing,
)
from wanwrap.paths import PACKAGE
from wanwrap.plan.plan import Places, Plan
from wanwrap.run import progress
from wanwrap.run.ledger import at_work
from wanwrap.system import disk
from wanwrap.system.files import running
from wanwrap.system.process import capture
from wanwrap.upstream.options import Options
from wanwrap.upstream.pin import Upstream
from wanwrap.upstream.states import attempts
from wanwrap.weights.locate import checked

# module -> how to get it
PIP = {
    "torch": "torch torchvision",
    "accelerate": "accelerate==1.6.0",
    "tensorboard": "tensorboard",
    "xformers.ops": "xformers",
    "flash_attn": "flash-attn --no-build-isolation",
}
BUSY = "another wanwrap is at work in {}; `wanwrap status` tells what it does, `wanwrap stop` ends it."
VERSIONS = [["3", "10"], ["3", "11"], ["3", "12"]]  # upstream's requires-python
ATTENTION = {"xformers": "xformers.ops", "flash_attn": "flash_attn", "flash3": "flash_attn_interface"}


def modules(options: Options) -> list[str]:
    """What one training imports late, as `module` or `module:attribute`."""
    wanted = [module for name, module in ATTENTION.items() if options.get(name)]
    wanted += [name for name in ("tensorboard", "wandb") if options.get("log_with") in (name, "all")]
    wanted.append(_optimizer(str(options["optimizer_type"])))
    if options.get("lr_scheduler_type"):
        wanted.append(_dotted(str(options["lr_scheduler_type"]), "torch.optim.lr_scheduler"))
    network = str(options["network_module"])
    return [*wanted, *([] if network.startswith(("musubi_tuner.", "networks.")) else [network])]


def _optimizer(name: str) -> str:
    """Where upstream looks for an optimizer: three names in any case, else torch.optim or the whole path."""
    known = {
        "adamw": "torch.optim:AdamW",
        "adamw8bit": "bitsandbytes.optim:AdamW8bit",
        "adafactor": "transformers.optimization:Adafactor",
    }
    return known.get(name.lower()) or _dotted(name, "torch.optim")


def _dotted(name: str, default: str) -> str:
    module, _, attribute = name.rpartition(".")
    return f"{module or default}:{attribute}"


def ask(python: str, upstream: Upstream, wanted: Iterable[str]) -> dict[str, Any]:
    """What the training Python answers to `probe.py`.

    Raises:
        PackageError: it can't be started.
    """
    argv = [python, str(PACKAGE / "machine" / "probe.py"), json.dumps(sorted(set(wanted)))]
    try:
        answer: dict[str, Any] = json.loads(capture(argv, {**upstream.env, "PYTHONUTF8": "1"}).splitlines()[-1])
    except (OSError, ValueError, IndexError, TimeoutExpired) as error:
        raise PackageError(
            f"{python} can't be used to train: {error}; give the Python that has musubi-tuner with --python."
        ) from error
    if not isinstance(answer, dict) or not {"python", "missing", "gpus"} <= answer.keys():
        raise PackageError(f"{python} is no Python: it answered {str(answer)[:80]!r}; give another --python.")
    if answer["python"].split(".")[:2] not in VERSIONS:
        raise PackageError(
            f"{python} is Python {answer['python']}; musubi-tuner needs 3.10 to 3.12: give another --python."
        )
    return answer


def question(plan: Plan) -> set[str]:
    """All modules that a plan needs of the training Python."""
    chosen = {module for step in plan.trainings if step.recipe for module in modules(step.recipe.options)}
    return {"musubi_tuner", "torch", "accelerate", *chosen}


def check_answer(answer: dict[str, Any], places: Places, *, any_upstream: bool, gpus: int) -> Upstream:
    """The upstream that will run, once the training Python has said what it has; `gpus` is how many it must see.

    Raises:
        UpstreamError, PackageError, GpuError: it can't carry out the plan.
    """
    missing, upstream = answer["missing"], places.upstream
    if "musubi_tuner" in missing:
        raise UpstreamError(
            f"{places.python} has no musubi-tuner; `wanwrap setup` gets it, or give a checkout with --musubi_dir."
        )
    if missing:
        raise PackageError(lacking_module(places.python, missing))
    found = upstream if upstream.folder else replace(upstream, **answer["upstream"])
    complaint = found.complaint()
    if complaint and not any_upstream:
        raise UpstreamError(complaint)
    if gpus and not answer["gpus"]:
        raise GpuError(
            f"{places.python} sees no CUDA GPU, without which upstream can't train; "
            "`wanwrap rehearse` works without, or give another --python."
        )
    if gpus > len(answer["gpus"]):
        raise GpuError(
            f"{places.python} sees {len(answer['gpus'])} CUDA GPU(s), fewer than --gpus {gpus}; "
            f"give --gpus {len(answer['gpus'])}, or show it more (CUDA_VISIBLE_DEVICES)."
        )
    return found


def each_its_gpu(plan: Plan, answer: Mapping[str, Any]) -> tuple[str, ...]:
    """A GPU for each expert, as CUDA_VISIBLE_DEVICES names it. Raises GpuError: there are too few."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count, wanted = len(answer["gpus"]), len(plan.trainings)
    if count < wanted:
        raise GpuError(f"--parallel needs a GPU for each expert, {wanted}, and {count} is there; leave it out.")
    gpus = names if names != [""] else [str(number) for number in range(count)]
    return tuple(gpus[:wanted]) if wanted > 1 else ()


def lacking_module(python: str, missing: Mapping[str, str]) -> str:
    """What can't be imported, and how to get it."""
    module, why = min(missing.items())
    name, _, attribute = module.partition(":")
    if name.startswith("torch."):
        kind = "scheduler" if "lr_scheduler" in name else "optimizer"
        return (
            f"the {kind} {attribute} is not in {name}; give the whole path of the class (bitsandbytes.optim.Lion8bit)."
        )
    package = PIP.get(name, name.partition(".")[0])
    other = ", or choose another attention (--attention sdpa)" if name in ATTENTION.values() else ""
    others = f" ({len(missing)} modules in all: {', '.join(sorted(missing))})" if len(missing) > 1 else ""
    return f"{python} can't import {module} ({why}){others}; install it: {python} -m pip install {package}{other}."


def check_plan(plan: Plan, *, restart: bool = False) -> None:
    """What the plan itself and its folder tell; a `restart` puts aside what is there.

    Raises:
        OutputError: the plan can't be carried out.
    """
    check_place(plan)
    if not restart:
        progress.check(plan)
        check_output(plan)


def _to_make(plan: Plan) -> dict[Path, int]:
    """The DiTs that are to be merged or cast, and their bytes."""
    return {step.makes: step.room for step in plan.rewrites if step.makes and not step.makes.is_file()}


def check_room(plan: Plan) -> None:
    """Raises RoomError: too little disk or memory for the DiTs that are to be made, or disk for LoRAs and states."""
    from wanwrap.plan.saving import bytes_left

    made = _to_make(plan)
    if made:
        disk.check(next(iter(made)).parent, sum(made.values()), within=made)
    what = "needed for the LoRAs and states that the trainings save" + (
        ", and for DiTs to merge or cast" if made else ""
    )
    if why := disk.lacking(plan.folder, sum(made.values()) + bytes_left(plan), made, what):
        raise RoomError(why)


def lacking_disk(plan: Plan) -> list[str]:
    """What a dry run says of the disk: downloads that are missing count too."""
    from wanwrap.plan.saving import bytes_left

    made, get, save = _to_make(plan), sum(w.size for w in plan.weights if not w.exists), bytes_left(plan)
    merged = f", {sum(made.values()) / 1e9:.1f} GB for DiTs to merge or cast" if made else ""
    what = f"needed: {get / 1e9:.1f} GB to download{merged}, {save / 1e9:.1f} GB for LoRAs and states"
    why = disk.lacking(plan.folder, get + sum(made.values()) + save, made, what)
    return [why] if why else []


def complaints(plan: Plan) -> list[str]:
    """Files that are missing or cut off. Those of which a DiT has been made already are needed no more."""
    spent = {path for step in plan.rewrites if step.makes and step.makes.is_file() for path in step.reads}
    return [why for weight in plan.weights if weight.path not in spent and (why := weight.complaint())]


def how_to_get(plan: Plan) -> str:
    """The command that gets what is missing."""
    levels = [step.name.removeprefix("train").strip() for step in plan.trainings]
    one = f" --noise_level {levels[0]}" if len(levels) == 1 and levels[0] else ""
    return f"`wanwrap setup {plan.preset.name}{one}` gets what is missing, or finds it in a ComfyUI (--comfyui_dir)."


def check_weights(plan: Plan, sha256: Callable[[Path], str]) -> None:
    """Raises WeightsError: files are missing, cut off, or not the published ones. Asked late: they are large.

    Those that are merged or cast are checked by that step.
    """
    if found := complaints(plan):
        lines = "\n".join(f"  {why}" for why in found)
        raise WeightsError(f"weights are missing or can't be used:\n{lines}\n{how_to_get(plan)}")
    from wanwrap.weights.identify import look

    rewritten = {path for step in plan.rewrites for path in step.reads}
    for weight in plan.weights:
        if weight.weight is None:  # the user's own: it may be a published one, and another than it stands for
            checked(look(weight.path, sha256), weight.name)
        if weight.sha256 and weight.path not in rewritten and (mark := sha256(weight.path)) != weight.sha256:
            raise WeightsError(
                f"{weight.path} is not the published file: its sha256 is {mark}, not {weight.sha256}; get it again."
            )


def check_tokenizers(plan: Plan) -> list[str]:
    """What is to be said of tokenizers that upstream will download itself, when the latents have been cached.

    Raises:
        DownloadError: it can't, offline.
    """
    from huggingface_hub import constants

    from wanwrap.weights import download
    from wanwrap.weights.catalogue import TOKENIZERS

    missing = [name for name in plan.preset.tokenizers if not download.cached(TOKENIZERS[name])]
    if missing and constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"HF_HUB_OFFLINE is set, and the tokenizer of {listing(missing)} is not in the Hugging Face cache; "
            f"`wanwrap setup {plan.preset.name}` puts it there once you are online."
        )
    return [f"the tokenizer of {name} is not in the Hugging Face cache: upstream downloads it." for name in missing]


def check_place(plan: Plan) -> None:
    """Raises OutputError: the run's folder can't be used, or is being used."""
    for place in (plan.folder, *plan.caches):
        disk.writable(place)
    if running(plan.folder):
        raise OutputError(BUSY.format(plan.folder))
    check_caches(plan)


def check_caches(plan: Plan) -> None:
    """Raises OutputError: another run is at work on the caches."""
    if found := at_work(plan.folder.parent, plan.caches, besides={os.getpid()}):
        raise OutputError(
            f"another wanwrap (process {found[0]}) is at work in {found[1]}, on the same caches, which upstream would "
            "remove files from under it; wait until it has ended."
        )


def check_output(plan: Plan) -> None:
    """Raises OutputError: upstream would overwrite what nobody knows of."""
    unknown = [
        (step, step.training)
        for step in plan.trainings
        if step.training and not progress.read(plan.folder, step.training.key)
    ]
    names = [name for step, _ in unknown for name in progress.made(plan, step)]
    if names:
        raise OutputError(
            f"{plan.folder} holds LoRAs of which no record is there ({listing(names)}), which would be overwritten; "
            "give another --output_name, move them away, or begin anew with --restart (they are put aside)."
        )
    begun = [
        str(path)
        for _, training in unknown
        for path in attempts(plan.folder / "training", training.key)
        if any(path.glob(f"{training.label}*"))
    ]
    if begun:
        raise OutputError(
            f"a training has begun in {listing(begun)}, of which no record is there: by hand, with the printed script? "
            "Give another --output_name, move it away, or begin anew with --restart (it goes)."
        )
