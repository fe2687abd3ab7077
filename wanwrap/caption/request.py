"""A `caption` as it was asked for on one command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class CaptionRequest:
    """Options by their names; None where nothing was said."""

    dataset: str | None
    base_dir: Path
    kind: str | None = None
    trigger: str | None = None
    prompt: str | None = None
    prompt_file: Path | None = None
    overwrite: bool = False
    model: Path | None = None
    fp8: bool = False
    max_size: int | None = None
    max_new_tokens: int | None = None
    python: str | None = None
    musubi_dir: Path | None = None
    any_upstream: bool = False
    cpu: bool = False
