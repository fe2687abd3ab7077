"""A `sample` as it was asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wanwrap.run.status import Run
from wanwrap.upstream.pin import Upstream
from wanwrap.upstream.sampling import Size
from wanwrap.weights.workspace import Workspace

SEED = 42


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """Samples of a run as they were asked for, by the options' names; what is None or empty is left to the run."""

    run: Run
    base_dir: Path
    epochs: Sequence[str] = ()
    strength: Sequence[float] = (1.0,)
    prompt: Sequence[str] = ()
    prompts: Path | None = None
    image: Path | None = None
    trigger: str | None = None
    clips: bool = False
    frames: int | None = None
    size: Size | None = None
    steps: int | None = None
    seed: int = SEED
    lightning: bool = False
    vram: float | None = None  # GB of the card, where it isn't this machine's
    blocks_to_swap: int | None = None
    python: str = sys.executable
    upstream: Upstream = field(default_factory=Upstream)
    any_upstream: bool = False
    workspace: Workspace = field(default_factory=Workspace)

    @property
    def models(self) -> Path:
        """The folder of the weights that the run has read: of a rehearsal its own, for toys are no weights."""
        return (self.run.folder.parents[1] if self.run.rehearsal else self.base_dir) / "models"
