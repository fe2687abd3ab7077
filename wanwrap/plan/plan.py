"""A plan: the files to write and the commands to run; and what it is made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wanwrap.data.dataset import Dataset
from wanwrap.errors import OptionError
from wanwrap.plan.recipe import Recipe
from wanwrap.preset import Expert, NoiseLevel, Preset
from wanwrap.upstream.options import Options, spell
from wanwrap.upstream.pin import Upstream
from wanwrap.weights.locate import Located

Precision = Literal["fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are: the workspace, upstream, the Python that trains and the words that start this wanwrap."""

    base: Path
    upstream: Upstream
    python: str
    wanwrap: tuple[str, ...] = ("python", "-m", "wanwrap")
    child: tuple[str, ...] = ()  # the rehearsal's script around upstream's; empty: upstream's modules

    def module(self, name: str) -> tuple[str, ...]:
        """How python, or accelerate, is told to run one of upstream's scripts."""
        return (*self.child, name) if self.child else ("-m", f"musubi_tuner.{name}")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the user asked for beyond the preset; `given` by upstream's option names."""

    noise_level: NoiseLevel | None = None  # None: every expert of the preset
    output_name: str | None = None
    given: Options = field(default_factory=dict)
    skip_lightning: bool = False
    precision: Precision | None = None  # None: the DiT's own
    gpus: int = 1  # that train one expert together, each with a whole copy of the DiT


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command. `makes` is the file it ends with, `recipe` what a training step trains by.

    A step that makes a DiT `reads` others' files, and needs `room` for its own, in bytes. One that `fills` caches is
    not started where nothing is to be encoded. `after` is the command that ends a step by hand; `run` does that itself.
    """

    name: str
    argv: tuple[str, ...]
    makes: Path | None = None
    recipe: Recipe | None = None
    reads: tuple[Path, ...] = ()
    room: int = 0
    fills: Literal["latents", "text"] | None = None
    training: Training | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Training:
    """How one expert is trained, in as many attempts as it takes: each is `launch` and `options`, somewhat changed.

    `key` is the noise level, or "dit" where there are none; `base` and `encoders` are marks of what is in the files
    that it is made of. Every `state_every` epochs upstream saves a LoRA and its whole state; the LoRAs of every
    `save_every` epochs are kept (None: the last alone), of those the `keep_last` youngest.
    """

    key: str
    label: str
    launch: tuple[str, ...]
    options: Options
    base: str
    encoders: str
    state_every: int
    save_every: int | None
    keep_last: int | None = None

    def argv(self, changes: Options) -> tuple[str, ...]:
        """One attempt's command."""
        return (*self.launch, *spell({**self.options, **changes}))

    def folder(self, run: Path, number: int) -> Path:
        """Where upstream puts what an attempt makes, before it is whole and has its true number."""
        return run / "training" / f"{self.key}-{number}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run writes and starts, in order; each step runs in `folder` with `env` added."""

    preset: Preset
    dataset: Dataset
    name: str
    folder: Path
    files: Mapping[Path, str]
    env: Mapping[str, str]
    steps: tuple[Step, ...]
    weights: tuple[Located, ...]
    caches: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> str:
        """What the run's script, log and ledger are called: one expert's run keeps the other's."""
        levels = [step.name.removeprefix("train").strip() for step in self.trainings]
        return f"run-{levels[0]}" if len(levels) == 1 and levels[0] else "run"

    @property
    def trainings(self) -> tuple[Step, ...]:
        """The steps that train, the high-noise expert's first."""
        return tuple(step for step in self.steps if step.recipe)

    @property
    def without_lightning(self) -> bool:
        """Whether the preset merges Lightning and this plan does not."""
        return self.preset.lightning is not None and not any(len(step.reads) > 1 for step in self.steps)

    @property
    def rewrites(self) -> tuple[Step, ...]:
        """The steps that merge Lightning into a DiT, or cast one."""
        return tuple(step for step in self.steps if step.reads)


def experts(preset: Preset, choices: Choices) -> tuple[Expert, ...]:
    """The experts to train."""
    return tuple(e for e in preset.experts if choices.noise_level in (None, e.noise_level))


def needed(preset: Preset, choices: Choices) -> tuple[str, ...]:
    """The catalogue's names of all weights that a run reads."""
    trained = experts(preset, choices)
    lightning = None if choices.skip_lightning else preset.lightning
    loras = [lightning.lora(expert) for expert in trained] if lightning else []
    return (*(e.dit for e in trained), *loras, "vae", "t5", *(["clip"] if preset.needs_clip else []))


def called(preset: Preset, *, without_lightning: bool) -> str:
    """A preset's name: without the merge nothing is called lightning."""
    name = preset.name
    if without_lightning:
        name = name.replace("lightning", "vanilla") if "lightning" in name else f"{name}-vanilla"
    return name


def epoch_of(name: str, label: str) -> int | None:
    """The number in the name of a LoRA with this label; 0 for the last one, which has none; None for another file."""
    found = re.fullmatch(re.escape(label) + r"(?:-(\d{6}))?\.safetensors", name)
    return int(found[1] or 0) if found else None


def check_name(name: str) -> str:
    """Raises OptionError: a name that can't be a file's on every system, or would read as an option."""
    if not name.strip() or name[0] in "-. " or len(name.encode()) > 200 or re.search(r'[/\\:*?"<>|\x00-\x1f]', name):
        raise OptionError(
            f"--output_name {name!r} can't name files; begin with a letter or digit and leave out / and the like."
        )
    return name


def slug(name: str) -> str:
    """A name without what shells, file systems and upstream's own globs take for something else."""
    return re.sub(r"[^\w.-]+", "_", name).strip("-_.") or "data"
