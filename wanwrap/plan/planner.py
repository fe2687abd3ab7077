"""Preset + data set + weights + places -> Plan.

Pure: reads nothing but wanwrap's own templates, writes nothing, starts nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wanwrap.data.dataset import Dataset, Entry
from wanwrap.data.toml import file_list, render
from wanwrap.errors import WeightsError
from wanwrap.paths import folder as shipped_folder
from wanwrap.plan.plan import (
    Choices,
    Places,
    Plan,
    Precision,
    Step,
    Training,
    called,
    check_name,
    experts,
    needed,
    slug,
)
from wanwrap.plan.recipe import Recipe, cadence, recipe
from wanwrap.preset import Expert, Preset
from wanwrap.upstream.options import CACHE_LATENTS, CACHE_TEXT, TRAIN, Options, spell, whole
from wanwrap.upstream.pin import SETTINGS
from wanwrap.weights import provenance
from wanwrap.weights.locate import Located, digest

# What is not part of what is encoded: a cache serves all of these.
NOT_CACHED = {
    "image": {"batch_size", "num_repeats"},
    "video": {"batch_size", "num_repeats", "enable_bucket", "bucket_no_upscale"},  # clips are cached in buckets anyway
}
SAME_LATENTS = {"vae_cache_cpu", "batch_size", "num_workers", "device"}  # how encoders work, not what they make


def make_plan(
    preset: Preset, dataset: Dataset, weights: Mapping[str, Located], places: Places, choices: Choices
) -> Plan:
    """The plan for one run; `weights` holds what `needed` lists, by the catalogue's names.

    Raises:
        OptionError: a setting that upstream would refuse, ignore or misread.
    """
    return _Planner(preset, dataset, weights, places, choices).plan()


@dataclass(frozen=True)
class _Planner:
    preset: Preset
    dataset: Dataset
    weights: Mapping[str, Located]
    places: Places
    choices: Choices

    def plan(self) -> Plan:
        merges, trainings, notes = list[Step](), list[Step](), list(self.dataset.notes)
        for expert in experts(self.preset, self.choices):
            dit, merge = self._dit(expert)
            merges += merge
            chosen = self.choices
            found = recipe(self.preset, expert, self.dataset, dit, chosen.given, chosen.precision, chosen.gpus)
            trainings.append(self._training(expert, dit, found))
            notes += [note for note in found.notes if note not in notes]
        caches, lists = tuple(self._cache(entry) for entry in self.dataset.entries), self._lists()
        return Plan(
            preset=self.preset,
            dataset=self.dataset,
            name=self.name,
            folder=self.folder,
            files=self._files(caches, lists),
            env={**self.places.upstream.env, **SETTINGS, **self.preset.env},
            steps=(*merges, *self._caching(), *trainings),
            weights=tuple(self.weights[key] for key in needed(self.preset, self.choices)),
            caches=caches,
            notes=tuple(notes),
        )

    @property
    def name(self) -> str:
        """By default the data set's and the preset's names."""
        if self.choices.output_name is not None:
            return check_name(self.choices.output_name)
        return check_name(slug(f"{self.dataset.name}-{self._called}"))

    @property
    def _called(self) -> str:
        return called(self.preset, without_lightning=self.choices.skip_lightning)

    @property
    def folder(self) -> Path:
        return self.places.base / "outputs" / self.name

    @property
    def config(self) -> Path:
        return self.dataset.config or self.folder / "dataset.toml"

    def _path(self, key: str) -> str:
        return str(self.weights[key].path)

    @property
    def _clip(self) -> str | None:
        return self._path("clip") if self.preset.needs_clip else None

    def _lists(self) -> list[Path | None]:
        """The list of files of each entry that has one; entries of the same files share it."""
        same = list(dict.fromkeys(entry.items for entry in self.dataset.entries if entry.listed))
        return [
            self.folder / f"{entry.kind}s-{same.index(entry.items) + 1}.jsonl" if entry.listed else None
            for entry in self.dataset.entries
        ]

    def _files(self, caches: Sequence[Path], lists: Sequence[Path | None]) -> dict[Path, str]:
        accelerate = (shipped_folder("templates") / "accelerate.yaml").read_text(encoding="utf-8")
        files = {self.folder / "accelerate.yaml": accelerate}
        if self.dataset.config is None:
            files[self.config] = render(self.dataset, caches, lists)
            files |= {path: file_list(entry) for path, entry in zip(lists, self.dataset.entries, strict=True) if path}
        if self.preset.sample_prompts:
            files[self.folder / "sample_prompts.txt"] = "".join(f"{line}\n" for line in self.preset.sample_prompts)
        return files

    def _cache(self, entry: Entry) -> Path:
        """A folder for each thing that changes what is cached: upstream's file names tell none of it."""
        if self.dataset.config:
            return Path(entry.options.get("cache_directory") or entry.directory)
        width, height = entry.options["resolution"]
        shape = sorted((name, value) for name, value in entry.options.items() if name not in NOT_CACHED[entry.kind])
        mark = digest(entry.directory, shape, *self._encoders.values())
        name = f"{entry.kind}s-{width}x{height}-{self._mode}-{mark}"
        return self.places.base / "cache" / slug(self.dataset.name) / name

    @property
    def _mode(self) -> str:
        return "i2v-clip" if self.preset.needs_clip else "i2v" if self.preset.image_to_video else "t2v"

    @property
    def _encoders(self) -> dict[str, str]:
        """What latents and embeddings are made by."""
        clip = ["clip"] if self.preset.needs_clip else []
        identities = {key: self.weights[key].identity for key in ("vae", "t5", *clip)}
        latents = sorted((k, v) for k, v in self.preset.cache_latents.items() if k not in SAME_LATENTS)
        text = sorted((k, v) for k, v in self.preset.cache_text.items() if k not in SAME_LATENTS)
        return {
            "latents": digest(self._mode, identities["vae"], identities.get("clip"), latents),
            "text": digest(identities["t5"], text),
        }

    def _dit(self, expert: Expert) -> tuple[Located, list[Step]]:
        """The DiT to train on, and the step that makes it: Lightning merged in, or another type.

        Raises:
            WeightsError: a merge into fp8.
        """
        dit, lightning = self.weights[expert.dit], None if self.choices.skip_lightning else self.preset.lightning
        wanted = self.choices.precision if self.choices.precision != dit.dtype != "fp8" else None
        if lightning:
            return self._merged(expert, dit, self.weights[lightning.lora(expert)], lightning.strength, wanted)
        return self._cast(expert, dit, wanted) if wanted else (dit, [])

    def _merged(
        self, expert: Expert, dit: Located, lora: Located, strength: float, precision: Precision | None
    ) -> tuple[Located, list[Step]]:
        if dit.dtype == "fp8":
            raise WeightsError(
                f"{dit.path.name} is fp8, in which a merge rounds away; give an fp16 or bf16 DiT, or --skip_lightning."
            )
        mark = digest(dit.identity, lora.identity, strength, *([precision] if precision else []))
        out = self.places.base / "merged_dits" / f"{_stem(dit, precision)}-{lora.path.stem}-{mark}.safetensors"
        options: Options = {
            "dit": str(dit.path),
            "lora": str(lora.path),
            "strength": strength,
            "precision": precision,
            "out": str(out),
            "python": self.places.python,
            "dit_sha256": dit.sha256,
            "lora_sha256": lora.sha256,
        }
        argv = ("merge", *spell(options))
        return self._made(expert, "merge Lightning", argv, out, mark, precision, strength, dit, lora)

    def _cast(self, expert: Expert, dit: Located, precision: Precision) -> tuple[Located, list[Step]]:
        mark = digest(dit.identity, precision)
        out = self.places.base / "models" / "converted" / f"{_stem(dit, precision)}-{mark}.safetensors"
        options: Options = {
            "precision": precision,
            "out": str(out),
            "python": self.places.python,
            "sha256": dit.sha256,
        }
        argv = ("convert", str(dit.path), *spell(options))
        return self._made(expert, f"cast to {precision}", argv, out, mark, precision, None, dit)

    def _made(
        self,
        expert: Expert,
        name: str,
        argv: Sequence[str],
        out: Path,
        mark: str,
        precision: Precision | None,
        strength: float | None,
        dit: Located,
        *others: Located,
    ) -> tuple[Located, list[Step]]:
        """The DiT that comes out of a step, and the step."""
        step = Step(
            name=f"{name}, {expert.noise_level}" if expert.noise_level else name,
            argv=(*self.places.wanwrap, *argv),
            makes=out,
            reads=(dit.path, *(other.path for other in others)),
            room=dit.size // 2 if dit.dtype == "fp32" and precision else dit.size,
        )
        made_of = digest(dit.content, *(other.content for other in others), strength, precision)
        return Located(path=out, dtype=precision or dit.dtype, exists=False, identity=mark, made_of=made_of), [step]

    def _caching(self) -> tuple[Step, ...]:
        """Forget what is stale, then let upstream encode what is not there."""
        prune = (*self.places.wanwrap, "prune", str(self.config), *spell(self._encoders))
        latents: Options = {
            "dataset_config": str(self.config),
            "vae": self._path("vae"),
            "i2v": self.preset.image_to_video,
            "clip": self._clip,
            **self.preset.cache_latents,
            "skip_existing": True,
        }
        text: Options = {
            "dataset_config": str(self.config),
            "t5": self._path("t5"),
            **self.preset.cache_text,
            "skip_existing": True,
        }
        return (
            Step(name="check caches", argv=prune),
            replace(self._script("cache latents", CACHE_LATENTS, latents), fills="latents"),
            replace(self._script("cache text", CACHE_TEXT, text), fills="text"),
        )

    def _script(self, name: str, script: str, options: Options) -> Step:
        return Step(name=name, argv=(self.places.python, *self.places.module(script), *spell(options)))

    def _training(self, expert: Expert, dit: Located, found: Recipe) -> Step:
        """Through accelerate, with all that a user's accelerate config or other GPUs could change."""
        launch: Options = {
            "config_file": str(self.folder / "accelerate.yaml"),
            "multi_gpu": self.choices.gpus > 1,  # without a port: for port 0 accelerate's processes wait for each other
            "num_processes": self.choices.gpus,
            "num_machines": 1,
            "gpu_ids": "all",
            "num_cpu_threads_per_process": 1,
            "mixed_precision": found.options["mixed_precision"],
            "dynamo_backend": "no",
        }
        key = expert.noise_level or "dit"
        label = f"{self.name}-{expert.noise_level}" if expert.noise_level else self.name
        place = self.folder / "training" / f"{key}-1"
        saving, save_every, keep_last = cadence(found)
        options: Options = {
            **found.options,
            **saving,
            **self._sampling(found.options),
            "dit": str(dit.path),
            "dataset_config": str(self.config),
            "output_dir": str(place),
            "output_name": label,
            "logging_dir": str(place / "logs"),
            **self._record(expert, found),
        }
        training = Training(
            key=key,
            label=label,
            launch=(
                self.places.python,
                "-m",
                "accelerate.commands.launch",
                *spell(launch),
                *self.places.module(TRAIN),
            ),
            options=options,
            base=dit.content,
            encoders=digest(*(self.weights[key].content for key in ("vae", "t5", *(["clip"] if self._clip else [])))),
            state_every=whole(saving, "save_every_n_epochs", 1),
            save_every=save_every,
            keep_last=keep_last,
        )
        made = self.folder / f"{label}.safetensors"
        kept: Options = {"into": str(self.folder), "label": label, "save_every": save_every, "keep_last": keep_last}
        return Step(
            name=f"train {expert.noise_level}" if expert.noise_level else "train",
            argv=training.argv({}),
            makes=made,
            recipe=found,
            training=training,
            after=(*self.places.wanwrap, "collect", str(place), *spell(kept)),
        )

    def _record(self, expert: Expert, found: Recipe) -> Options:
        """What the LoRA itself will tell of its making; nothing where the user wants no metadata."""
        lightning = None if self.choices.skip_lightning else self.preset.lightning
        merged = (self.weights[lightning.lora(expert)], lightning.strength) if lightning else None
        upstream, dit = self.places.upstream, self.weights[expert.dit]
        record = provenance.text(self._called, self.preset, expert, found.options, upstream, dit, merged)
        return {} if found.options.get("no_metadata") else {"training_comment": record}

    def _sampling(self, options: Options) -> Options:
        """What upstream needs for samples while training; the trainer reads VAE, T5 and CLIP for nothing else."""
        prompts = options.get("sample_prompts")
        if not (prompts or self.preset.sample_prompts):
            return {}
        return {
            "sample_prompts": prompts or str(self.folder / "sample_prompts.txt"),
            "vae": self._path("vae"),
            "t5": self._path("t5"),
            "clip": self._clip,
        }


def _stem(dit: Located, precision: Precision | None) -> str:
    """A DiT's name in another type."""
    return re.sub(r"_(fp16|bf16|fp32)$", "", dit.path.stem) + f"_{precision}" if precision else dit.path.stem
