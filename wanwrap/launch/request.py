"""A run that was asked for here -> the same run there: that it fits the card, what it needs, and how long it takes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from wanwrap.errors import PackageError, listing
from wanwrap.launch.job import GPUS, TERAFLOPS, Job
from wanwrap.launch.words import Words, data_bytes
from wanwrap.machine.request import SetupRequest
from wanwrap.plan import card as cards
from wanwrap.plan import fit_words
from wanwrap.plan.card import LEAST, MOST, Card
from wanwrap.plan.fit import fitted, seconds
from wanwrap.plan.plan import Plan
from wanwrap.upstream.pin import BRINGS, BROUGHT
from wanwrap.upstream.rules import late_imports
from wanwrap.weights.catalogue import CATALOGUE

HOURS = 12.0  # where nobody knows how long it takes
LEAST_RAM = 24  # GB: T5 in bf16 has 11.4, and each passes through RAM
SPARE = 60  # GB of disk beside what is reckoned: upstream, packages, caches
LOGGERS = {"tensorboard", "wandb"}  # which are called the same by pip


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """What was asked for beside the run: the card and how many, hours, price, whether each expert is a job of its own."""

    gpu: str
    hours: float | None = None
    price: float | None = None
    separate: bool = False
    parallel: bool = False
    fit: Literal["auto", "off"] = "auto"


def card_of(gpu: str) -> Card:
    """A rented card, under Linux."""
    built = TERAFLOPS.get(gpu, 0) * 1e12
    described = cards.described(GPUS[gpu], "bash")
    return replace(described, name=gpu, speed=(LEAST * built, MOST * built), expandable=None)


def checked(plan: Plan, request: LaunchRequest) -> Plan:
    """The plan fitted to the card there. Raises RoomError: it doesn't fit it."""
    plan = fitted(replace(plan, request=replace(plan.request, fit=request.fit)), card_of(request.gpu))
    fit_words.check(plan)
    return plan


def packages(plan: Plan, given: Sequence[str], absent: Callable[[set[str]], Collection[str]]) -> tuple[str, ...]:
    """What `wanwrap setup` is told to install there beside what it brings: those that were `given`, and loggers.

    `absent` are those of modules that are not there already. Raises PackageError: the options want one of unknown name.
    """
    brings = BROUGHT | (BRINGS & set(_packages(SetupRequest(runs=(plan.request,)).modules)))
    imports = [module for train in plan.trainings for module in late_imports(train.options)]
    wanted = {*_packages(imports)} - brings
    if (others := wanted - LOGGERS) and not given and (lacking := sorted(absent(others))):
        raise PackageError(
            f"the options want {listing(lacking)}, which `wanwrap setup` doesn't bring there; add --package and its name in "
            "pip, or leave out that option."
        )
    return (*given, *sorted((wanted & LOGGERS) - {*given}))


def _packages(modules: Iterable[str]) -> Iterator[str]:
    """Of modules, some with an attribute."""
    return (re.split("[.:]", module)[0] for module in modules)


def limit(plan: Plan, request: LaunchRequest) -> float:
    """The hours after which it is ended: those that were asked for, else what it takes at most and two for what comes before."""
    if request.hours is not None:
        return request.hours
    known = lasts(plan, request)
    return math.ceil(known[1] / 3600) + 2.0 if known else HOURS


def lasts(plan: Plan, request: LaunchRequest) -> tuple[float, float] | None:
    """Seconds that the trainings take there, at least and at most; None where nobody knows."""
    return seconds(plan, parallel=request.separate or request.parallel)


def disk(plan: Plan) -> int:
    """GB: weights, merged DiTs, LoRAs and states, data, and packages."""
    weights = sum(CATALOGUE[name].bytes for name in plan.request.needed)
    data = data_bytes(plan.dataset.root) if plan.dataset.root else 0
    return math.ceil((weights + sum(step.bytes for step in plan.rewrites) + data) / 1e9 + SPARE)


def make_job(plan: Plan, request: LaunchRequest, words: Words, wheel: str) -> Job:
    """The run for another machine, with all that is sent; `wheel` is wanwrap's place among it."""
    levels = [train.expert for train in plan.trainings]
    separate = request.separate and len(levels) > 1
    experts = tuple(levels) if separate else ("both" if len(levels) > 1 else levels[0],)
    runs = tuple(
        (*words.before, "--noise_level", expert, *words.after) if separate else words.all for expert in experts
    )
    return Job(
        name=plan.name,
        folder=plan.folder,
        preset=plan.request.preset.name,
        setup=(words.before[0], *(["--noise_level", levels[0]] if levels in (["high"], ["low"]) else []), *words.setup),
        runs=runs,
        experts=experts,
        uploads=words.uploads,
        wheel=wheel,
        gpu=request.gpu,
        gpus=2 if request.parallel else plan.request.gpus,
        hours=limit(plan, request),
        price=request.price,
        ram=max(LEAST_RAM, math.ceil(1.2 * (sum if request.parallel else max)(fit.ram for fit in plan.fits) / 1e9)),
        disk=disk(plan),
        secrets=("WANDB_API_KEY",)
        if any(t.options.get("log_with") in ("wandb", "all") for t in plan.trainings)
        else (),
    )
