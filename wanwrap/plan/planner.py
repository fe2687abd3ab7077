"""Request + data set + weights -> Plan.

Pure: reads nothing but wanwrap's own templates, writes nothing, starts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from wanwrap.data.dataset import Dataset, Entry, file_list, render
from wanwrap.data.media import Item
from wanwrap.errors import WeightsError
from wanwrap.paths import folder as shipped_folder
from wanwrap.plan.expert_options import count_steps, expert_options, provenance, state_interval
from wanwrap.plan.plan import Cache, Plan, Prune, Rewrite, Sample, Step, Train
from wanwrap.plan.request import Request, check_name, slug
from wanwrap.preset import Expert, Preset
from wanwrap.system.safetensors import digest
from wanwrap.upstream.buckets import NOT_CACHED, SAME_LATENTS, What
from wanwrap.upstream.options import CACHE_LATENTS, CACHE_TEXT, TRAIN, Options, Value, spell, whole
from wanwrap.upstream.pin import SETTINGS
from wanwrap.upstream.sample_prompts import remarks as remarks_on
from wanwrap.weights.weight_file import WeightFile

Weights = Mapping[str, WeightFile]  # by the catalogue's names
SAMPLE_PROMPTS = "sample_prompts.txt"


def make_plan(request: Request, dataset: Dataset, weights: Weights) -> Plan:
    """The plan for one run; `weights` holds what the request needs.

    Raises:
        OptionError: a setting that upstream would refuse, ignore or misread.
        WeightsError: a merge into fp8.
    """
    name = request.output_name or check_name(slug(f"{dataset.name}-{request.called}"))
    encoders = _encoders(request.preset, weights)
    if dataset.config is None:
        place = request.base_dir / "cache" / slug(dataset.name)
        entries = (replace(entry, cache=place / _cache(request.preset, entry, encoders)) for entry in dataset.entries)
        dataset = replace(dataset, entries=tuple(entries))
    rewrites, trainings, files, notes = list[Step](), list[Train](), dict[Path, str](), [*dataset.notes]
    for expert in request.experts:
        dit, rewrite = _dit(request, expert, weights)
        rewrites += [rewrite] if rewrite else []
        options, remarks = expert_options(request, expert, dataset, dit)
        train = _train(request, expert, dataset, weights, name, dit, options)
        trainings.append(train)
        files |= _files(request, dataset, train.folder)
        notes += [remark for remark in remarks if remark not in notes]
    notes += remarks_on(request.samples)
    return Plan(
        request=request,
        dataset=dataset,
        weights={key: weights[key] for key in request.needed},
        name=name,
        folder=trainings[0].folder.parent,
        files=files,
        env={**request.upstream.env, **SETTINGS, **request.preset.env},
        steps=(
            *rewrites,
            *_caching(request, weights, encoders, str(trainings[0].options["dataset_config"])),
            *trainings,
            *([sample_step(request, trainings[0].folder.parent)] if request.sample else []),
        ),
        encoders=encoders,
        notes=tuple(notes),
    )


# ---- files and caches


def _files(request: Request, dataset: Dataset, folder: Path) -> dict[Path, str]:
    """What is written into an expert's folder; entries of the same files share a list of them."""
    files = {folder / "accelerate.yaml": (shipped_folder("templates") / "accelerate.yaml").read_text("utf-8")}
    if dataset.config is None:
        lists = dict[tuple[Item, ...], Path]()
        for entry in dataset.entries:
            if entry.listed:
                lists.setdefault(entry.items, folder / f"{entry.kind}s-{len(lists) + 1}.jsonl")
        files[folder / "dataset.toml"] = render(dataset, lists)
        files |= {path: file_list(items) for items, path in lists.items()}
    if request.samples:
        files[folder / SAMPLE_PROMPTS] = "\n".join((*request.samples, ""))
    return files


def _encoders(preset: Preset, weights: Weights) -> dict[What, str]:
    """Marks of what latents and embeddings are made by."""
    vae, t5 = weights["vae"].identity, weights["t5"].identity
    clip = weights["clip"].identity if preset.needs_clip else None
    latents = sorted((name, value) for name, value in preset.cache_latents.items() if name not in SAME_LATENTS)
    text = sorted((name, value) for name, value in preset.cache_text.items() if name not in SAME_LATENTS)
    return {"latents": digest(preset.mode, vae, clip, latents), "text": digest(t5, text)}


def _cache(preset: Preset, entry: Entry, encoders: Mapping[What, str]) -> str:
    """The name of a folder for each thing that changes what is cached: upstream's file names tell none of it."""
    width, height = entry.options["resolution"]
    shape = sorted((name, value) for name, value in entry.options.items() if name not in NOT_CACHED[entry.kind])
    mark = digest(entry.directory, shape, *encoders.values())
    return f"{entry.kind}s-{width}x{height}-{preset.mode}-{mark}"


def _caching(
    request: Request, weights: Weights, encoders: Mapping[What, str], config: str
) -> tuple[Prune, Cache, Cache]:
    """Forget what is stale, then let upstream encode what is not there."""
    preset, python, start = request.preset, request.python, request.upstream.start
    prune = ("prune", config, *spell({"latents": encoders["latents"], "text": encoders["text"]}))
    latents: Options = {
        "dataset_config": config,
        "vae": str(weights["vae"].path),
        "i2v": preset.mode != "t2v",
        "clip": str(weights["clip"].path) if preset.needs_clip else None,
        **preset.cache_latents,
        "skip_existing": True,
    }
    t5 = str(weights["t5"].path)
    text: Options = {"dataset_config": config, "t5": t5, **preset.cache_text, "skip_existing": True}
    return (
        Prune(name="check caches", argv=(*request.wanwrap, *prune)),
        Cache(name="cache latents", argv=(python, *start(CACHE_LATENTS), *spell(latents)), what="latents"),
        Cache(name="cache text", argv=(python, *start(CACHE_TEXT), *spell(text)), what="text"),
    )


def sample_step(request: Request, folder: Path, **more: Value) -> Sample:
    """`wanwrap sample` on a run's folder, with the same upstream; `more` are options of it."""
    upstream = request.upstream.folder
    options: Options = {
        "base_dir": str(request.base_dir),
        "python": request.python,
        "musubi_dir": str(upstream) if upstream else None,
        "any_upstream": request.any_upstream,
        "vram": request.vram,
        **more,
    }
    return Sample(name="sample", argv=(*request.wanwrap, "sample", str(folder), *spell(options)))


# ---- DiTs


def _dit(request: Request, expert: Expert, weights: Weights) -> tuple[WeightFile, Rewrite | None]:
    """The DiT to train on, and the step that makes it: Lightning merged in, or another type, or both at once.

    Raises:
        WeightsError: a merge into fp8.
    """
    dit, lightning = weights[expert.dit], request.lightning
    lora = weights[lightning.lora(expert)] if lightning else None
    precision = request.precision if request.precision != dit.dtype != "fp8" else None
    if lora and dit.dtype == "fp8":
        raise WeightsError(
            f"{dit.path.name} is fp8, in which a merge rounds away; give an fp16 or bf16 DiT, or --skip_lightning."
        )
    if not (lora or precision):
        return dit, None
    how = [each for each in (lightning and lightning.strength, precision) if each is not None]
    mark = digest(dit.identity, *([lora.identity] if lora else []), *how)
    stem = re.sub(r"_(fp16|bf16|fp32)$", "", dit.path.stem) + f"_{precision}" if precision else dit.path.stem
    name = "-".join([stem, *([lora.path.stem] if lora else []), mark])
    made = WeightFile(
        path=request.base_dir / ("merged_dits" if lora else "models/converted") / f"{name}.safetensors",
        dtype=precision or dit.dtype,
        identity=mark,
        size=dit.size // 2 if dit.dtype == "fp32" and precision else dit.size,
        content=digest(dit.content, lora and lora.content, *how),
    )
    return made, _rewrite(request, expert, made, dit, lora)


def _rewrite(request: Request, expert: Expert, made: WeightFile, dit: WeightFile, lora: WeightFile | None) -> Rewrite:
    precision = made.dtype if made.dtype != dit.dtype else None
    common: Options = {"precision": precision, "out": str(made.path), "python": request.python}
    if lora and request.lightning:
        strength = request.lightning.strength
        words: Options = {"dit": str(dit.path), "lora": str(lora.path), "strength": strength, **common}
        argv = ("merge", *spell({**words, "dit_sha256": dit.sha256, "lora_sha256": lora.sha256}))
    else:
        argv = ("convert", str(dit.path), *spell({**common, "sha256": dit.sha256}))
    name = "merge Lightning" if lora else f"cast to {precision}"
    return Rewrite(
        name=f"{name}, {expert.noise_level}" if expert.noise_level else name,
        argv=(*request.wanwrap, *argv),
        out=made.path,
        reads=(dit.path, lora.path) if lora else (dit.path,),
        bytes=made.size,
    )


# ---- training


def _train(
    request: Request, expert: Expert, dataset: Dataset, weights: Weights, name: str, dit: WeightFile, settings: Options
) -> Train:
    """One expert's training, its command that of the first start."""
    folder = request.base_dir / "outputs" / name / expert.key
    steps, per_epoch = count_steps(settings, dataset, request.gpus)
    save_every = whole(settings, "save_every_n_epochs", 0) or None
    state_every = state_interval(save_every, per_epoch)
    label = f"{name}-{expert.noise_level}" if expert.noise_level else name
    options: Options = {
        **settings,
        "save_every_n_epochs": state_every,
        "save_last_n_epochs": None,  # wanwrap's own business: what upstream would remove has been moved
        "save_state": True,
        "save_last_n_epochs_state": 2,  # the younger one may be half
        **_sampling(request, weights, folder),
        "dit": str(dit.path),
        "dataset_config": str(dataset.config or folder / "dataset.toml"),
        "output_name": label,
    }
    wins = "--lr_scheduler_type decides on the learning rate; upstream only notes --lr_scheduler in the LoRA."
    train = Train(
        name=f"train {expert.noise_level}" if expert.noise_level else "train",
        argv=(),
        comments=(wins,) if options.get("lr_scheduler") and options.get("lr_scheduler_type") else (),
        expert=expert.key,
        folder=folder,
        label=label,
        launch=_launch(request, folder, settings),
        options=options,
        steps=steps,
        per_epoch=per_epoch,
        dit=dit,
        encoders=digest(*(weights[key].content for key in ("vae", "t5", "clip") if key in request.needed)),
        provenance=provenance(request, expert, settings, weights),
        state_every=state_every,
        save_every=save_every,
        keep_last=whole(settings, "save_last_n_epochs", 0) or None,
    )
    return replace(train, argv=train.attempt(1, {}))


def _launch(request: Request, folder: Path, settings: Options) -> tuple[str, ...]:
    """accelerate, with all that a user's own config of it or other GPUs could change."""
    words: Options = {
        "config_file": str(folder / "accelerate.yaml"),
        "multi_gpu": request.gpus > 1,  # without a port: for port 0 accelerate's processes wait for each other
        "num_processes": request.gpus,
        "num_machines": 1,
        "gpu_ids": "all",
        "num_cpu_threads_per_process": 1,
        "mixed_precision": settings["mixed_precision"],
        "dynamo_backend": "no",
    }
    return (request.python, "-m", "accelerate.commands.launch", *spell(words), *request.upstream.start(TRAIN))


def _sampling(request: Request, weights: Weights, folder: Path) -> Options:
    """What upstream needs for samples while training; the trainer reads VAE, T5 and CLIP for nothing else."""
    if not request.samples:
        return {}
    return {
        "sample_prompts": str(folder / SAMPLE_PROMPTS),
        "vae": str(weights["vae"].path),
        "t5": str(weights["t5"].path),
        "clip": str(weights["clip"].path) if request.preset.needs_clip else None,
    }
