"""Where the files beside the code are: in the installed package, or beside it in a checkout."""

from __future__ import annotations

import os
import sys
from pathlib import Path

QUOTED = "In PowerShell leave out the last \\ of a path in quotes: it takes the quote into the name."
PACKAGE = Path(__file__).resolve().parent


def absolute(path: str | Path) -> Path:
    """The whole path, `~` and `..` resolved, links kept: upstream's processes run in another folder.

    On Windows in the letters of the disk, however it is typed: caches and what `prepare` has made are known by it.
    """
    whole = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  Path keeps `..`, and fails for some `~`
    real = os.path.realpath(whole) if sys.platform == "win32" else whole
    return Path(real if os.path.normcase(real) == os.path.normcase(whole) else whole)


def folder(kind: str) -> Path:
    """The folder `presets` or `templates`."""
    packaged = PACKAGE / kind
    return packaged if packaged.is_dir() else PACKAGE.parent / kind


def upstream_flags() -> Path:
    """The table of upstream's options that `scripts/upstream_flags.py` writes."""
    packaged = folder("templates") / "upstream_flags.json"
    return packaged if packaged.is_file() else PACKAGE.parent / "tests" / "upstream_flags.json"
