"""The small copy of a plan that is rehearsed: a handful of items where they lie, toy weights, two epochs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wanwrap.data.dataset import Entry
from wanwrap.errors import RoomError, StepError
from wanwrap.plan import fit_words, preflight
from wanwrap.plan.build import build
from wanwrap.plan.plan import MakeToys, Plan, Sample
from wanwrap.plan.planner import make_plan, sample_step
from wanwrap.plan.preflight import Machine
from wanwrap.plan.request import Request, slug
from wanwrap.preset import Preset
from wanwrap.run import record as records
from wanwrap.run.folders import check_folders
from wanwrap.run.training import LOG
from wanwrap.system import disk
from wanwrap.system.files import remove_tree
from wanwrap.system.safetensors import open_source
from wanwrap.upstream import states
from wanwrap.upstream.options import ATTENTION, Options, Value
from wanwrap.upstream.rules import IDLE_WITHOUT, OWN_OPTIMIZERS, SAMPLING, optimizer_class
from wanwrap.weights.catalogue import CATALOGUE
from wanwrap.weights.weight_file import WeightFile

CHILD = str(Path(__file__).with_name("child.py"))
ITEMS = 3  # of each folder
AREA = 128 * 64  # pixels a rehearsed item has about
FRAMES = 5  # at most; 4N+1
EPOCHS = 2
LENGTH: Options = {"max_train_epochs": EPOCHS, "save_every_n_epochs": 1}
BYTES = 300_000_000  # of a rehearsal's folder at most, about
SWAP = 2  # of the toy's 4 blocks
LEFT_OUT = {
    "max_train_steps",
    "network_weights",
    "sample_prompts",
    *SAMPLING,
    *(name for name, other in IDLE_WITHOUT.items() if other == "sample_prompts"),
}
PROMPT = "--w 64 --h 64 --f 1 --s 2"


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The small plan, the real one, what will carry them out, and how the small one differs."""

    plan: Plan
    real: Plan
    machine: Machine
    notes: tuple[str, ...]


def rehearsal(request: Request) -> Rehearsal:
    """The rehearsal of what is asked; its folder is made anew.

    Raises:
        the errors of everything that is asked of the preset, the data set and the training Python.
    """
    real = build(request, whole=True)  # what the real run would refuse is refused here
    classes = {optimizer_class(str(train.options["optimizer_type"])) for train in real.trainings}
    preflight.check_recorded(request.gone)
    answer = preflight.ask(request.python, request.upstream, {"torch", *classes})
    missing = {name: why for name, why in answer["missing"].items() if why.startswith("AttributeError")}
    preflight.check_packages({"missing": missing}, request.python)  # no stand-in for what there isn't
    gpu = bool(answer["gpus"])
    level = f"-{request.noise_level}" if request.noise_level else ""  # they may be rehearsed at the same time
    base = request.base_dir / "rehearsal" / slug(f"{real.dataset.name}-{request.preset.name}{level}")
    plan, notes = stage(real, base, gpu=gpu)
    if why := disk.lacking(base, BYTES, what="needed for a rehearsal"):
        raise RoomError(why)
    machine = preflight.check_machine(plan, gpus=request.gpus if gpu else 0)  # on a CPU as many processes do
    check_folders(plan, restart=True)
    remove_tree(base)
    (base / "models").mkdir(parents=True)
    return Rehearsal(plan=plan, real=real, machine=machine, notes=notes)


def verify(plan: Plan) -> None:
    """Raises StepError: all steps ended well, and yet nothing was learned."""
    for train in plan.trainings:
        record, log = records.read(train.folder), train.folder / LOG
        if record is None or record.loss is None:
            raise StepError(f"the rehearsal of {train.name} ended with a loss that is no number; see {log}.")
        if not _learned(train.lora):
            raise StepError(f"{train.lora} is a LoRA of zeros: nothing was learned; see {log}.")


def _learned(lora: Path) -> bool:
    """Whether any up matrix, all zeros before the first step, has changed. LoHa and LoKr have none."""
    source = open_source(lora)
    ups = [row for row in source.rows.values() if row.name.endswith(states.UP)]
    return not ups or any(any(source.read(row.name, 0, row.end - row.begin)) for row in ups)


def stage(real: Plan, base: Path, *, gpu: bool, length: Options = LENGTH) -> tuple[Plan, tuple[str, ...]]:
    """The small plan, with all its files in `base`, and its differences from the real one.

    Its first step makes the toy weights that the others read; `length` is how long it trains, and how often it saves.
    """
    request, preset = real.request, real.request.preset
    samples = tuple(map(_small_sample, request.samples[:1]))
    chosen = {fit.train.expert: fit.chosen for fit in real.fits}
    experts = [
        replace(expert, train=_soften({**preset.train, **expert.train, **chosen.get(expert.key, {})}, gpu))
        for expert in preset.experts
    ]
    given = {name: value for name, value in _soften(request.given, gpu).items() if name not in LEFT_OUT}
    small = replace(
        request,
        preset=replace(preset, train={}, experts=tuple(experts)),
        samples=samples,
        base_dir=base,
        given={**given, **length, **({"sample_every_n_epochs": EPOCHS} if samples else {})},
        output_name=f"{real.name}-toy",
        sample=False,  # it has its own
        upstream=replace(request.upstream, child=CHILD),
    )
    toys = {name: _toy(name, real.weights[name], base) for name in small.needed}
    entries = tuple(_entry(entry, base / "data" / str(index)) for index, entry in enumerate(real.dataset.entries))
    plan = make_plan(small, replace(real.dataset, entries=entries, config=None), toys)
    make = MakeToys(name="make toy weights", argv=(request.python, CHILD, "make", _spec(preset, toys)))
    notes = [
        "bytes stand in for the tokens of upstream's tokenizers, which come from the Hub",
        "lists of a few files stand in for the folders of the data set",
    ]
    for train, toy in zip(real.trainings, plan.trainings, strict=True):
        notes += _differences(train.options, toy.options)
    if not gpu:
        notes.append("without a GPU fp16 and fp8 weights are loaded as such, and computed with in fp32 or bf16")
    notes += [f"`{fit_words.typed(fit.chosen)}` is chosen for the real run" for fit in real.fits if fit.chosen]
    steps = (make, *plan.steps, *_samples(plan))
    return replace(plan, steps=steps, env={**real.env, **plan.env}), tuple(dict.fromkeys(notes))


def _samples(plan: Plan) -> list[Sample]:
    """A picture without the LoRAs and one with the last ones, which need all experts' toys, and upstream's own network."""
    modules = [str(train.options["network_module"]).removeprefix("musubi_tuner.") for train in plan.trainings]
    whole = len(plan.trainings) == len(plan.request.preset.experts)
    if not whole or not all(module.startswith("networks.") for module in modules):
        return []
    return [sample_step(plan.request, plan.folder, size="64x64", steps=2, epochs="last", prompt="a toy")]


def _small_sample(line: str) -> str:
    """A line of prompts with its first frame, of a size that a CPU can draw."""
    picture = "".join(line.partition(" --i ")[1:])
    return f"{line.partition(' --')[0]} {PROMPT}{picture}"


def _soften(options: Options, gpu: bool) -> dict[str, Value]:
    """Options for the toy model; on a CPU without what a CPU cannot do."""
    soft = dict(options)
    if soft.get("blocks_to_swap"):
        soft["blocks_to_swap"] = SWAP
    if gpu:
        return soft
    if ATTENTION & soft.keys():
        soft["sdpa"] = True
    left_out = {"block_swap_h2d_only", "block_swap_ring_size", *ATTENTION - {"sdpa"}}
    optimizer = str(soft.get("optimizer_type") or "adamw").lower()
    if optimizer == "adamw8bit" or ("." in optimizer and optimizer not in OWN_OPTIMIZERS):
        soft["optimizer_type"] = "adamw"
        left_out.add("optimizer_args")
    return {name: value for name, value in soft.items() if name not in left_out}


def _differences(real: Options, small: Options) -> Iterator[str]:
    """What stands in for an option of a training, and which are left out."""
    for name in sorted(ATTENTION):
        if real.get(name) and not small.get(name):
            yield f"without a GPU sdpa stands in for {name}"
    before, now = real["optimizer_type"], small["optimizer_type"]
    if now != before:
        yield f"without a GPU {now} stands in for {before}"
    for name in sorted(real.keys() - ATTENTION):
        if real[name] and not small.get(name):
            yield f"{name} is left out"


def _toy(name: str, real: WeightFile, base: Path) -> WeightFile:
    """Where the toy stands in for a real file: of its type, and with its ending, by which upstream reads it."""
    path = base / "models" / f"{name}{real.path.suffix}"
    return WeightFile(path=path, dtype=real.dtype, usable=True, stamp=(0, 0), identity=name, content=name)


def _spec(preset: Preset, toys: Mapping[str, WeightFile]) -> str:
    files = {
        str(toy.path): {"role": CATALOGUE[name].role, "dtype": toy.dtype, "prefix": CATALOGUE[name].prefix}
        for name, toy in toys.items()
    }
    return json.dumps({"task": preset.task, "files": files})


def _entry(entry: Entry, folder: Path) -> Entry:
    """The first files of an entry, given to upstream as a list; `folder` tells its caches from another entry's."""
    return replace(entry, directory=folder, items=entry.items[:ITEMS], options=_small(entry.options), listed=True)


def _small(options: Mapping[str, Any]) -> dict[str, Any]:
    """An entry's options at about the same aspect ratio and few frames."""
    width, height = options["resolution"]
    side = (AREA / (width * height)) ** 0.5
    small: dict[str, Any] = {"resolution": tuple(max(32, round(length * side / 16) * 16) for length in (width, height))}
    if "target_frames" in options or "frame_extraction" in options:
        small["target_frames"] = tuple(sorted({min(int(n), FRAMES) for n in options.get("target_frames", (FRAMES,))}))
    kept = {name: value for name, value in options.items() if not re.search("_directory|jsonl|max_frames", name)}
    if any("jsonl" in name for name in options):
        kept["caption_extension"] = ""  # captions of a list that is the user's own lie beside no file
    how = {"frame_extraction": "head"} if options.get("frame_extraction") in ("full", "slide", "chunk") else {}
    return {
        "enable_bucket": False,
        "bucket_no_upscale": False,
        **kept,
        **small,
        **how,
        "num_repeats": min(2, options.get("num_repeats", 1)),
    }
