"""A plan: the files to write and the commands to run, in order."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wanwrap.data.dataset import Dataset
from wanwrap.plan.request import Request
from wanwrap.upstream.buckets import What
from wanwrap.upstream.options import Options, Value, spell
from wanwrap.upstream.states import lora_name
from wanwrap.weights.weight_file import WeightFile

if TYPE_CHECKING:
    from wanwrap.plan.fit import Fit


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, and what is to be said of it in the script."""

    name: str
    argv: tuple[str, ...]
    comments: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MakeToys(Step):
    """A rehearsal's first step: toy weights."""


@dataclass(frozen=True, kw_only=True)
class Rewrite(Step):
    """A DiT with Lightning merged in, or in another type: `out`, of so many `bytes`, made of the files it `reads`."""

    out: Path
    reads: tuple[Path, ...]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Prune(Step):
    """wanwrap forgets what is stale in the caches."""


@dataclass(frozen=True, kw_only=True)
class Cache(Step):
    """Upstream encodes what is missing: latents, or text embeddings."""

    what: What


@dataclass(frozen=True, kw_only=True)
class Train(Step):
    """One expert's training, in as many attempts as it takes: each is `launch` and `options`, somewhat changed.

    `folder` is the expert's own; upstream calls its LoRAs `label`. A state is saved every `state_every` epochs, of the
    LoRAs those of every `save_every` epochs are kept (None: the last alone), of these the `keep_last` youngest.
    """

    expert: Literal["high", "low", "dit"]
    folder: Path
    label: str
    launch: tuple[str, ...]
    options: Options
    steps: int
    per_epoch: int
    dit: WeightFile
    encoders: str  # a mark of what is in VAE, text encoder and CLIP
    provenance: Mapping[str, Any]
    state_every: int
    save_every: int | None
    keep_last: int | None

    @property
    def epochs(self) -> int:
        """The epochs that are begun; of a training that is counted in steps the last may be cut."""
        return math.ceil(self.steps / self.per_epoch)

    @property
    def lora(self) -> Path:
        """The LoRA of the last epoch."""
        return self.folder.parent / lora_name(self.label, None)

    @property
    def loras(self) -> list[str]:
        """The names of all LoRAs that are kept in the end; upstream saves the last epoch's without a number."""
        every = self.save_every or self.epochs
        numbered = range(every, self.epochs, every)[-(self.keep_last or 0) :]
        return [*(lora_name(self.label, epoch) for epoch in numbered), self.lora.name]

    def attempt_folder(self, attempt: int) -> Path:
        """Where upstream saves in the nth start; the first is the one that the script prints."""
        return self.folder / f"attempt-{attempt}"

    def logs(self, attempt: int) -> Path:
        """Where upstream writes the curves of the nth start."""
        return self.folder / "logs" / f"attempt-{attempt}"

    def attempt(self, attempt: int, changes: Options, done: tuple[int, int] | None = None) -> tuple[str, ...]:
        """The command of the nth start; `done` are the epochs and steps before it."""
        own: dict[str, Value] = {
            "output_dir": str(self.attempt_folder(attempt)),
            "logging_dir": str(self.logs(attempt)),
        }
        if not self.options.get("no_metadata"):
            record = {name: value for name, value in {**self.provenance, "done": done}.items() if value}
            own["training_comment"] = json.dumps(record, separators=(",", ":"))
        return (*self.launch, *spell({**self.options, **own, **changes}))


@dataclass(frozen=True, kw_only=True)
class Sample(Step):
    """wanwrap makes samples with the LoRAs of all experts, when all are trained."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run writes and starts, in order; each step runs in `folder` with `env` added."""

    request: Request
    dataset: Dataset
    weights: Mapping[str, WeightFile]
    name: str
    folder: Path
    files: Mapping[Path, str]
    env: Mapping[str, str]
    steps: tuple[Step, ...]
    encoders: Mapping[What, str] = field(default_factory=dict)  # marks of what each cache is made by
    notes: tuple[str, ...] = ()
    fits: tuple[Fit, ...] = ()  # of each training, where a card was asked for

    @property
    def trainings(self) -> tuple[Train, ...]:
        """The steps that train, the high-noise expert's first."""
        return tuple(step for step in self.steps if isinstance(step, Train))

    @property
    def caches(self) -> list[Path]:
        """The folders of what is cached."""
        return [entry.cache for entry in self.dataset.entries]

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        """The steps that merge Lightning into a DiT, or cast one."""
        return tuple(step for step in self.steps if isinstance(step, Rewrite))

    def needed(self) -> list[WeightFile]:
        """The weights that are read; those of which a DiT has been made already are needed no more."""
        spent = {path for step in self.rewrites if step.out.is_file() for path in step.reads}
        return [weight for weight in self.weights.values() if weight.path not in spent]
