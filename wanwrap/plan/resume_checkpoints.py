"""BASE_DIR/resume_checkpoints, where the guides have people put a LoRA to go on from. None is taken unasked."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wanwrap.errors import OptionError, WeightsError
from wanwrap.plan import warm_start
from wanwrap.plan.plan import Plan, Step
from wanwrap.system.safetensors import Source, open_source
from wanwrap.upstream.options import number, whole
from wanwrap.weights import provenance

FOLDER = "resume_checkpoints"


@dataclass(frozen=True)
class Offer:
    """A file that a training could begin with; `why` is what is known of it."""

    path: Path
    step: Step
    why: str
    options: str

    def __str__(self) -> str:
        expert = warm_start.level(self.step)
        one = f" --noise_level {expert}" if expert else ""
        return (
            f"{self.path.name} in {FOLDER} {self.why}; this run does not begin with it. To begin with its weights: "
            f"--resume_from {shlex.quote(str(self.path))}{one}{self.options}"
        )


def offers(plan: Plan, base: Path) -> list[str]:
    """The files there that belong to what is trained, with the options that take them; others by their count.

    Nothing where the run begins with a file already. A file that can't be read is one of the others.
    """
    if any(step.recipe and step.recipe.options.get("network_weights") for step in plan.trainings):
        return []
    try:
        files = sorted(path for path in (base / FOLDER).iterdir() if path.suffix == ".safetensors" and path.is_file())
    except OSError:
        return []
    found = {path: offer for path in files if (offer := next(_offers(plan, path), None))}
    rest = len(files) - len(found)
    more = [f"{rest} {'other ' if found else ''}file(s) in {base / FOLDER} are not for this run."] if rest else []
    return [*map(str, found.values()), *more]


def _offers(plan: Plan, path: Path) -> Iterator[Offer]:
    """One for each training that it could be for."""
    with suppress(WeightsError, OSError):
        source = open_source(path)
        for step in plan.trainings:
            if why := _belongs(plan, step, source):
                yield Offer(path, step, why, _options(step, source))


def _belongs(plan: Plan, step: Step, source: Source) -> str | None:
    """How it is known to be of a training; None where it is not, or could not be loaded."""
    assert step.recipe
    mine, facts = warm_start.title(plan, step), provenance.trained(source.metadata)
    if "record" in facts:
        fits = provenance.titled(facts["record"]) == mine and _loads(plan, step, source, scaled=False)
        return f"belongs to this run ({provenance.told(facts)})" if fits else None
    window = facts.get("timesteps")
    alike = provenance.nearest(plan.preset, window) == warm_start.level(step) if window else len(plan.preset.experts) == 1  # fmt: skip
    if not alike or not _loads(plan, step, source, scaled=True):
        return None
    told = provenance.told(facts)
    return f"may belong to {mine}: rank and alpha are the same" + (f" ({told})" if told else "")


def _loads(plan: Plan, step: Step, source: Source, *, scaled: bool) -> bool:
    """Whether upstream would load all of it; `scaled` with this run's own rank and alpha."""
    try:
        warm_start.check_loads(plan, step, source, scaled=scaled)
    except (WeightsError, OptionError):
        return False
    return True


def _options(step: Step, source: Source) -> str:
    """What the rank and alpha of the file need."""
    assert step.recipe
    options, (ranks, alphas) = step.recipe.options, warm_start.rank_alpha(source)
    rank, alpha = max(ranks, default=0), max(alphas, default=0.0)
    same = rank == whole(options, "network_dim", 0), warm_start.same_alpha(alpha, number(options, "network_alpha", 0))
    if not rank or all(same):
        return ""
    return f" --dim {rank} --alpha {alpha:g}"
