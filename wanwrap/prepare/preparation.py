"""A `prepare` as it was asked for on one command line."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from wanwrap.data.media import Unfit
from wanwrap.errors import OptionError
from wanwrap.system.files import atomic_file
from wanwrap.upstream.buckets import STEP

RECIPE = "1"  # another number when clips come out otherwise
FOR_PICTURES = ("background",)
FOR_CLIPS = ("keep_fps", "area", "max_seconds", "min_seconds", "scenes")
FOR_ANIMATIONS = FOR_CLIPS + FOR_PICTURES


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Options by their names, but for `area`, which is --max_size in pixels; lengths are in seconds."""

    out: Path
    keep_fps: bool
    area: int
    max_seconds: Fraction
    min_seconds: Fraction
    scenes: bool
    background: str  # "#rrggbb"
    trigger: str | None
    template: str | None
    again: bool
    dry_run: bool
    threads: int = 1  # of each decoder and encoder

    def check(self) -> None:
        """Raises OptionError: every piece would be left out."""
        if self.min_seconds > self.max_seconds or not self.max_seconds:
            raise OptionError(
                f"--max_seconds {float(self.max_seconds):g} is less than --min_seconds {float(self.min_seconds):g}, "
                "so that every piece would be left out; change one of them."
            )

    def settings(self, names: Sequence[str] = FOR_ANIMATIONS) -> dict[str, str]:
        """What decides on the outputs of a source, as the manifest keeps it."""
        return {"recipe": RECIPE, **{name: str(getattr(self, name)) for name in names}}

    def copy(self, path: Path, name: str) -> None:
        """A file as it is, whole, under a name in the data set."""
        with path.open("rb") as source, atomic_file(self.out / name) as file:
            shutil.copyfileobj(source, file, 1 << 20)


def check_size(size: tuple[int, int]) -> None:
    """Raises Unfit: upstream can't train anything so small."""
    if min(size) < STEP:
        raise Unfit(f"it is smaller than {STEP} pixels; remove it")
