"""A run that was asked for here -> the same run there: what must be sent, and the words that it is started with there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wanwrap.errors import OptionError, RoomError
from wanwrap.launch.job import GPUS, TERAFLOPS, WORKSPACE, Job
from wanwrap.paths import absolute, folder
from wanwrap.plan import card as cards
from wanwrap.plan import fit_words
from wanwrap.plan.build import SAMPLE
from wanwrap.plan.card import LEAST, MOST, Card
from wanwrap.plan.fit import fitted, seconds
from wanwrap.plan.plan import Plan
from wanwrap.plan.request import slug
from wanwrap.system.disk import large
from wanwrap.weights.catalogue import CATALOGUE

HOURS = 12.0  # where nobody knows how long it takes
LEAST_RAM = 64  # GB: a DiT passes through RAM
SPARE = 60  # GB of disk beside what is reckoned: upstream, packages, caches
MOST_DATA = 200_000_000_000  # bytes of a data set: more than a night's line takes
INPUTS = "inputs"  # where single files go there
FILES = {"resume_from"}  # run's options that name a file which is sent along
UPSTREAM_FILES = {"--sample_prompts", "--log_tracker_config"}
# run's options that are about this machine: the far side has its own
HERE = {"python", "musubi_dir", "base_dir", "vram", "any_upstream"}
WEIGHTS = {"dit", "dit_high", "dit_low", "lightning_high", "lightning_low", "vae", "t5", "clip"}


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
    """The plan fitted to the card there.

    Raises:
        RoomError: it doesn't fit it, or its data set is too large to be sent.
    """
    plan = fitted(replace(plan, request=replace(plan.request, fit=request.fit)), card_of(request.gpu))
    fit_words.check(plan)
    if (size := data_bytes(plan)) > MOST_DATA:
        raise RoomError(f"{plan.dataset.name} has {large(size)}, too much to be sent; leave out or shorten clips.")
    return plan


def data_bytes(plan: Plan) -> int:
    """Of all files that are trained."""
    return sum({item.path: item.path.stat().st_size for entry in plan.dataset.entries for item in entry.items}.values())


def limit(plan: Plan, request: LaunchRequest) -> float:
    """The hours after which it is ended: those that were asked for, else what it takes at most and two for what comes before."""
    if request.hours is not None:
        return request.hours
    known = seconds(plan)
    return math.ceil(known[1] / 3600) + 2.0 if known else HOURS


def disk(plan: Plan) -> int:
    """GB: weights, merged DiTs, LoRAs and states, data, and packages."""
    weights = sum(CATALOGUE[name].bytes for name in plan.request.needed)
    return math.ceil((weights + sum(step.bytes for step in plan.rewrites) + data_bytes(plan)) / 1e9 + SPARE)


def job(plan: Plan, request: LaunchRequest, words: Words, wheel: Path) -> Job:
    """The run for another machine, with all that is sent."""
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
        uploads={**words.uploads, wheel.name: wheel},  # which shared files make needless
        wheel=wheel.name,
        gpu=request.gpu,
        gpus=2 if request.parallel else plan.request.gpus,
        hours=limit(plan, request),
        price=request.price,
        ram=max(LEAST_RAM, math.ceil(1.2 * max(fit.ram for fit in plan.fits) / 1e9)),
        disk=disk(plan),
        secrets=("WANDB_API_KEY",) if plan.request.given.get("log_with") in ("wandb", "all") else (),
    )


@dataclass(frozen=True)
class Words:
    """The words after `wanwrap run` there, `after` being upstream's, what they name by its place there, and more words for
    `wanwrap setup`.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    uploads: Mapping[str, Path]
    setup: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """In one piece."""
        return (*self.before, *self.after)


def words(plan: Plan, given: Mapping[str, Any], spelled: Sequence[str], upstream: Sequence[str]) -> Words:
    """The run's words there: `given` are its options by their names, `spelled` the same as words but for files, and
    `upstream` what stands after `--`.

    Raises:
        OptionError: one names files of this machine that can't be sent.
    """
    if own := sorted(WEIGHTS & given.keys()):
        raise OptionError(
            f"--{own[0]} is a file of this machine; there the published weights are fetched: leave it out."
        )
    if plan.dataset.config is not None:
        raise OptionError(
            f"{plan.dataset.config} names folders of this machine; give the folder of the data set itself."
        )
    uploads = dict[str, Path]()
    preset = plan.request.preset.name
    if str(given["preset"]).endswith(".py"):
        preset = f"./{_sent(uploads, absolute(given['preset']))}"
    dataset = SAMPLE
    if plan.dataset.root and plan.dataset.root != folder("templates") / SAMPLE:
        dataset = slug(plan.dataset.name)
        uploads[f"{WORKSPACE}/datasets/{dataset}"] = plan.dataset.root
    files = [w for name in sorted(FILES & given.keys()) for w in (f"--{name}", _sent(uploads, absolute(given[name])))]
    name = [] if "output_name" in given else ["--output_name", plan.name]
    return Words((preset, dataset, *spelled, *files, *name), _upstream(upstream, uploads), uploads)


def _sent(uploads: dict[str, Path], path: Path) -> str:
    """The place there of a single file."""
    place = f"{INPUTS}/{path.name}"
    uploads[place] = path
    return place


def _upstream(words: Sequence[str], uploads: dict[str, Path]) -> tuple[str, ...]:
    """Upstream's options, whose files are sent too."""
    found, file = list[str](), False
    for word in words:
        option, equals, value = word.partition("=")
        named = equals and option.replace("-", "_").replace("__", "--", 1) in UPSTREAM_FILES
        found.append(
            f"{option}={_sent(uploads, absolute(value))}" if named else _sent(uploads, absolute(word)) if file else word
        )
        file = (
            not equals and f"--{word.removeprefix('--').replace('-', '_')}" in UPSTREAM_FILES and word.startswith("--")
        )
    return ("--", *found) if found else ()
