"""The engines that a run can be launched with, by the words that mean them."""

from __future__ import annotations

import importlib
from types import ModuleType

ENGINES = {"slurm": "slurm", "modal": "modal", "sky": "sky", "script": "pod"}


def shared(module: ModuleType) -> bool:
    """Whether the machines there see this one's files."""
    return getattr(module, "SHARED_FILES", False)


def engine(word: str) -> ModuleType:
    """Its module: PROGRAM, INSTALL, OPTIONS, render(job, **options), and complaint(environ, home) where it has accounts."""
    return importlib.import_module(f"wanwrap.launch.{ENGINES[word]}")
