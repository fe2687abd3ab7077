"""What is to be done with one source: copied, converted, cut, or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from wanwrap.errors import FULL
from wanwrap.prepare import clip, picture
from wanwrap.prepare.clip import Limits
from wanwrap.prepare.encode import Piece, Recipe
from wanwrap.prepare.sources import Source
from wanwrap.upstream.buckets import FPS

Action = Literal["copied", "converted", "cut", "unchanged", "left out", "failed"]
Scenes = Callable[[Path, int, Recipe], list[int]]  # file, stream, what to make of it -> first frames of its scenes


class Unusable(Exception):
    """A source that nothing can be made of; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do with a source: `pieces` are (begin, end) in frames of the result; a picture has none."""

    action: Action
    reason: str
    suffix: str
    recipe: Recipe | None = None
    pieces: tuple[Piece, ...] = ()
    dropped: tuple[Piece, ...] = ()
    stream: int | None = None  # None: frames come from Pillow
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Where its outputs go."""
        return "videos" if self.recipe else "images"


def decide(source: Source, limits: Limits, scenes: Scenes | None = None) -> Decision:
    """What to do with a source; `scenes` finds the first frames of a clip's scenes.

    Raises:
        Unusable: nothing can be made of it.
    """
    if source.moving:
        return _clip(source, limits, scenes)
    with reading():
        still = picture.look(source.path)
    if still.frames > 1:
        return _animation(source, still, limits)
    action: Action = "converted" if still.reasons else "copied"
    return Decision(action=action, reason=", ".join(still.reasons), suffix=still.suffix, notes=still.notes)


def _animation(source: Source, still: picture.Still, limits: Limits) -> Decision:
    with reading():
        seconds = picture.seconds(source.path)
    rate = Fraction(int(FPS))
    frames = max(1, math.floor(seconds * rate + clip.ROUNDING))
    size = clip.fitted(still.size, limits.area)
    recipe = Recipe(size=size, rate=rate, frames=frames, scaled=size != clip.even(still.size))
    return _cut(recipe, limits, [0], list(still.reasons), None, [])


def _clip(source: Source, limits: Limits, scenes: Scenes | None) -> Decision:
    with reading():
        seen = clip.look(source.path)
    recipe, starts = clip.recipe(seen, limits), [0]
    if scenes:
        starts = scenes(source.path, seen.stream, recipe)
    notes = [f"HDR ({seen.hdr}): upstream takes it for SDR, and its colours look pale"] if seen.hdr else []
    return _cut(recipe, limits, starts, clip.changes(seen, recipe), seen.stream, notes)


def _cut(
    recipe: Recipe, limits: Limits, starts: Sequence[int], why: Sequence[str], stream: int | None, notes: list[str]
) -> Decision:
    pieces = clip.split(starts, recipe.frames, clip.longest(recipe, limits))
    least = limits.min_seconds * recipe.rate
    short = [piece for piece in pieces if piece[1] - piece[0] < least]
    length = f"{float(recipe.frames / recipe.rate):.1f} s"
    kept = [piece for piece in pieces if piece not in short]
    action: Action = "cut" if len(pieces) > 1 else "converted" if why else "copied"
    if action == "cut":
        why = [f"{length} into {len(kept)}", *why]
    if not kept:
        what = "all its pieces are" if len(pieces) > 1 else f"it is {length} long,"
        action, why = "left out", [f"{what} less than {float(limits.min_seconds):g} s (--min_seconds)"]
    return Decision(
        action=action,
        reason=", ".join(why),
        suffix=".mp4",
        recipe=recipe,
        pieces=tuple(kept),
        dropped=tuple(short if kept else ()),
        stream=stream,
        notes=tuple(notes),
    )


@contextmanager
def reading() -> Iterator[None]:
    """Whatever a decoder raises, the file is what is wrong. Raises Unusable."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        if "cannot identify image" in str(error):
            raise Unusable("it is no picture, whatever its ending says") from error
        raise Unusable(f"it can't be read: {error.strerror or error}") from error
    except Exception as error:
        raise Unusable(getattr(error, "strerror", None) or str(error) or type(error).__name__) from error
