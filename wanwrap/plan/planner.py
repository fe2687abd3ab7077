"""Request + data set + weights -> Plan.

Pure: reads nothing but wanwrap's own templates, writes nothing, starts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from wanwrap.data.dataset import Dataset, Entry, file_list, render
from wanwrap.errors import WeightsError
from wanwrap.paths import folder as shipped_folder
from wanwrap.plan.expert_options import ExpertOptions, expert_options, state_interval
from wanwrap.plan.plan import Cache, Plan, Prune, Rewrite, Step, Train
from wanwrap.plan.provenance import provenance
from wanwrap.plan.request import Request, check_name, slug
from wanwrap.preset import Expert
from wanwrap.upstream.caches import NOT_CACHED, SAME_LATENTS, What
from wanwrap.upstream.options import CACHE_LATENTS, CACHE_TEXT, TRAIN, Options, spell, whole
from wanwrap.upstream.pin import SETTINGS
from wanwrap.weights.locate import Located, digest


def make_plan(request: Request, dataset: Dataset, weights: Mapping[str, Located]) -> Plan:
    """The plan for one run; `weights` holds what the request needs, by the catalogue's names.

    Raises:
        OptionError: a setting that upstream would refuse, ignore or misread.
        WeightsError: a merge into fp8.
    """
    return _Planner(request, dataset, weights).plan()


@dataclass(frozen=True)
class _Planner:
    request: Request
    dataset: Dataset
    weights: Mapping[str, Located]

    def plan(self) -> Plan:
        request, steps, notes = self.request, list[Step](), [*self.dataset.notes]
        trainings = list[Train]()
        for expert in request.experts:
            dit, rewrite = self._dit(expert)
            steps += [rewrite] if rewrite else []
            settings = expert_options(request, expert, self.dataset, dit)
            trainings.append(self._train(expert, dit, settings))
            notes += [note for note in settings.notes if note not in notes]
        caches = tuple(self._cache(entry) for entry in self.dataset.entries)
        first = trainings[0].folder
        return Plan(
            request=request,
            dataset=self.dataset,
            weights={name: self.weights[name] for name in request.needed},
            name=self.name,
            folder=self.folder,
            files={path: text for train in trainings for path, text in self._files(train.folder, caches).items()},
            env={**request.upstream.env, **SETTINGS, **request.preset.env},
            steps=(*steps, *self._caching(self._config(first)), *trainings),
            caches=caches,
            encoders=self._encoders,
            notes=tuple(notes),
        )

    @cached_property
    def name(self) -> str:
        """By default the data set's and the preset's names."""
        return self.request.output_name or check_name(slug(f"{self.dataset.name}-{self.request.called}"))

    @cached_property
    def folder(self) -> Path:
        return self.request.base_dir / "outputs" / self.name

    def _path(self, key: str) -> str:
        return str(self.weights[key].path)

    @property
    def _clip(self) -> str | None:
        return self._path("clip") if self.request.preset.needs_clip else None

    # ---- files

    def _config(self, folder: Path) -> Path:
        return self.dataset.config or folder / "dataset.toml"

    def _files(self, folder: Path, caches: Sequence[Path]) -> dict[Path, str]:
        """What is written into an expert's folder."""
        prompts = self.request.preset.sample_prompts
        files = {folder / "accelerate.yaml": (shipped_folder("templates") / "accelerate.yaml").read_text("utf-8")}
        if self.dataset.config is None:
            lists = self._lists(folder)
            files[folder / "dataset.toml"] = render(self.dataset, caches, lists)
            files |= {path: file_list(entry) for path, entry in zip(lists, self.dataset.entries, strict=True) if path}
        return {**files, **({folder / "sample_prompts.txt": "".join(f"{p}\n" for p in prompts)} if prompts else {})}

    def _lists(self, folder: Path) -> list[Path | None]:
        """The list of files of each entry that has one; entries of the same files share it."""
        same = list(dict.fromkeys(entry.items for entry in self.dataset.entries if entry.listed))
        return [
            folder / f"{entry.kind}s-{same.index(entry.items) + 1}.jsonl" if entry.listed else None
            for entry in self.dataset.entries
        ]

    # ---- caches

    def _cache(self, entry: Entry) -> Path:
        """A folder for each thing that changes what is cached: upstream's file names tell none of it."""
        if self.dataset.config:
            return Path(entry.options.get("cache_directory") or entry.directory)
        width, height = entry.options["resolution"]
        shape = sorted((name, value) for name, value in entry.options.items() if name not in NOT_CACHED[entry.kind])
        mark = digest(entry.directory, shape, *self._encoders.values())
        name = f"{entry.kind}s-{width}x{height}-{self._mode}-{mark}"
        return self.request.base_dir / "cache" / slug(self.dataset.name) / name

    @property
    def _mode(self) -> str:
        preset = self.request.preset
        return "i2v-clip" if preset.needs_clip else "i2v" if preset.image_to_video else "t2v"

    @cached_property
    def _encoders(self) -> dict[What, str]:
        """Marks of what latents and embeddings are made by."""
        preset = self.request.preset
        vae, t5 = (self.weights[key].identity for key in ("vae", "t5"))
        clip = self.weights["clip"].identity if preset.needs_clip else None
        latents = sorted((k, v) for k, v in preset.cache_latents.items() if k not in SAME_LATENTS)
        text = sorted((k, v) for k, v in preset.cache_text.items() if k not in SAME_LATENTS)
        return {"latents": digest(self._mode, vae, clip, latents), "text": digest(t5, text)}

    def _caching(self, config: Path) -> tuple[Step, ...]:
        """Forget what is stale, then let upstream encode what is not there."""
        preset, shared = self.request.preset, {"dataset_config": str(config)}
        prune = (
            *self.request.wanwrap,
            "prune",
            str(config),
            "--latents",
            self._encoders["latents"],
            "--text",
            self._encoders["text"],
        )
        latents: Options = {**shared, "vae": self._path("vae"), "i2v": preset.image_to_video, "clip": self._clip}
        text: Options = {**shared, "t5": self._path("t5")}
        latents, text = {**latents, **preset.cache_latents}, {**text, **preset.cache_text}
        return (
            Prune(name="check caches", argv=prune),
            Cache(name="cache latents", argv=self._script(CACHE_LATENTS, latents), what="latents"),
            Cache(name="cache text", argv=self._script(CACHE_TEXT, text), what="text"),
        )

    def _script(self, script: str, options: Options) -> tuple[str, ...]:
        argv = spell({**options, "skip_existing": True})
        return (self.request.python, *self.request.upstream.start(script), *argv)

    # ---- DiTs

    def _dit(self, expert: Expert) -> tuple[Located, Rewrite | None]:
        """The DiT to train on, and the step that makes it: Lightning merged in, or another type, or both at once.

        Raises:
            WeightsError: a merge into fp8.
        """
        request, dit, lightning = self.request, self.weights[expert.dit], self.request.lightning
        lora = self.weights[lightning.lora(expert)] if lightning else None
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
        made = Located(
            path=request.base_dir / ("merged_dits" if lora else "models/converted") / f"{name}.safetensors",
            dtype=precision or dit.dtype,
            exists=False,
            identity=mark,
            size=dit.size // 2 if dit.dtype == "fp32" and precision else dit.size,
            made_of=digest(dit.content, lora and lora.content, *how),
        )
        return made, self._rewrite(expert, made, dit, lora)

    def _rewrite(self, expert: Expert, made: Located, dit: Located, lora: Located | None) -> Rewrite:
        """The command that makes a DiT."""
        request, lightning = self.request, self.request.lightning
        precision = made.dtype if made.dtype != dit.dtype else None
        common: Options = {"precision": precision, "out": str(made.path), "python": request.python}
        if lora and lightning:
            words: Options = {"dit": str(dit.path), "lora": str(lora.path), "strength": lightning.strength, **common}
            argv = ("merge", *spell({**words, "dit_sha256": dit.sha256, "lora_sha256": lora.sha256}))
        else:
            argv = ("convert", str(dit.path), *spell({**common, "sha256": dit.sha256}))
        name = "merge Lightning" if lora else f"cast to {precision}"
        return Rewrite(
            name=f"{name}, {expert.noise_level}" if expert.noise_level else name,
            argv=(*request.wanwrap, *argv),
            out=made.path,
            reads=(dit.path, *([lora.path] if lora else [])),
            bytes=made.size,
        )

    # ---- training

    def _train(self, expert: Expert, dit: Located, settings: ExpertOptions) -> Train:
        """Through accelerate, with all that a user's accelerate config or other GPUs could change."""
        request, folder = self.request, self.folder / expert.key
        launch: Options = {
            "config_file": str(folder / "accelerate.yaml"),
            "multi_gpu": request.gpus > 1,  # without a port: for port 0 accelerate's processes wait for each other
            "num_processes": request.gpus,
            "num_machines": 1,
            "gpu_ids": "all",
            "num_cpu_threads_per_process": 1,
            "mixed_precision": settings.options["mixed_precision"],
            "dynamo_backend": "no",
        }
        save_every = whole(settings.options, "save_every_n_epochs", 0) or None
        label = f"{self.name}-{expert.noise_level}" if expert.noise_level else self.name
        options: Options = {
            **settings.options,
            "save_every_n_epochs": (state_every := state_interval(save_every, settings.per_epoch)),
            "save_last_n_epochs": None,  # wanwrap's own business: what upstream would remove has been moved
            "save_state": True,
            "save_last_n_epochs_state": 2,  # the younger one may be half
            **self._sampling(settings.options, folder),
            "dit": str(dit.path),
            "dataset_config": str(self._config(folder)),
            "output_name": label,
        }
        train = Train(
            name="train" if expert.noise_level is None else f"train {expert.noise_level}",
            argv=(),
            comments=_comments(options),
            expert=expert.noise_level or "dit",
            folder=folder,
            label=label,
            launch=(request.python, "-m", "accelerate.commands.launch", *spell(launch), *request.upstream.start(TRAIN)),
            options=options,
            steps=settings.steps,
            per_epoch=settings.per_epoch,
            dit=dit,
            encoders=digest(*(self.weights[key].content for key in ("vae", "t5", "clip") if key in request.needed)),
            provenance=provenance(request, expert, settings.options, self.weights),
            state_every=state_every,
            save_every=save_every,
            keep_last=whole(settings.options, "save_last_n_epochs", 0) or None,
        )
        return replace(train, argv=train.attempt(1, {}))

    def _sampling(self, options: Options, folder: Path) -> Options:
        """What upstream needs for samples while training; the trainer reads VAE, T5 and CLIP for nothing else."""
        prompts = options.get("sample_prompts")
        if not (prompts or self.request.preset.sample_prompts):
            return {}
        return {
            "sample_prompts": prompts or str(folder / "sample_prompts.txt"),
            "vae": self._path("vae"),
            "t5": self._path("t5"),
            "clip": self._clip,
        }


def _comments(options: Options) -> tuple[str, ...]:
    if options.get("lr_scheduler") and options.get("lr_scheduler_type"):
        return ("--lr_scheduler_type decides on the learning rate; upstream only notes --lr_scheduler in the LoRA.",)
    return ()
