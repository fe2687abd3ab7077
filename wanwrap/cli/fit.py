"""The verb that tells on which cards a training fits, and with what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import click

from wanwrap.cli.options import FIT, PRESET, RUN, VRAM, RunVerb, json_option, option, sizes, with_options
from wanwrap.cli.terminal import indented, show_result
from wanwrap.cli.words import expected
from wanwrap.errors import listing
from wanwrap.plan import card, fit_words
from wanwrap.plan.build import SAMPLE, build
from wanwrap.plan.card import Card
from wanwrap.plan.fit import Fit, fitted
from wanwrap.plan.fit_words import gib, offers
from wanwrap.plan.request import read
from wanwrap.run.status import runs
from wanwrap.system.disk import large

CARDS = (8, 12, 16, 24, 32, 48, 80)
OURS = [each for each in RUN[1:] if each not in (VRAM, FIT)]  # run's own, but for the preset


def several(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """`8,12,24`: cards in GB."""
    try:
        return sizes(ctx, param, [float(word) for word in value.split(",")] if value else None)
    except ValueError:
        raise click.BadParameter("give GB, as in 12,16,24.", param=param) from None


@click.command(cls=RunVerb, epilog="Example: wanwrap fit t2v-vanilla cats --vram 16,24")
@PRESET(required=False)
@with_options(OURS)
@option("--vram", callback=several, help="GB of the cards, as in 12,16,24 (default: this machine's, and 8 to 80).")
@option("--measured", is_flag=True, help="What runs have taken instead, beside what was foretold.")
@json_option("As a JSON list.")
@click.pass_context
def fit(
    ctx: click.Context, /, preset: str | None, vram: Sequence[float] | None, measured: bool, as_json: bool, **given: Any
) -> None:
    """Tell on which cards a PRESET can be trained on a DATASET (default: wanwrap's sample), and how.

    What is chosen trains the same, and `run` chooses it by itself. Memory is reckoned for the largest batch, in GiB as
    nvidia-smi counts. Nothing is started, and no weights are needed.
    """
    if measured:
        tries = [*_measured(given["base_dir"])]
        show_result(as_json, lambda: tries, [_row(**row) for row in tries] or ["no run has been measured yet"])
        return
    if preset is None:
        ctx.fail("Missing argument 'PRESET'.")
    given["dataset"] = given["dataset"] or (None if given["dataset_config"] else SAMPLE)
    plan = build(read(preset=preset, fit="auto", **given))
    here = None if vram else card.here()
    cards = [*([here] if here else []), *map(card.described, vram or CARDS)]
    fits = {its: fitted(plan, its).fits for its in cards}
    rows = [fit_words.as_json(each) for each in chain(*fits.values())]
    show_result(as_json, lambda: rows, map(indented, _lines(plan.name, fits)))


def _lines(name: str, fits: Mapping[Card, Sequence[Fit]]) -> Iterator[str]:
    first, *_ = chain(*fits.values())
    yield f"{name}: the largest batch decides ({first.tokens} tokens{fit_words.largest(first)})"
    for its, each in fits.items():
        yield f"{its.name}:"
        yield from chain(*map(_one, each))


def _one(fit: Fit) -> Iterator[str]:
    memory, verdict = fit.memory, "fits" if fit.fits else "does not fit"
    yield f"  {fit.train.expert:<4}  {verdict}: {gib(memory.total)}{fit_words.chosen(fit)}, {large(fit.ram)} of RAM"
    yield (
        f"        weights {gib(memory.weights)}, LoRA {gib(memory.lora)}, activations {gib(memory.activations)}, torch's "
        f"allocator {gib(memory.beside)}{expected(fit)}"
    )
    if not fit.fits and (ways := offers(fit)):
        yield f"        to fit: {listing(ways)}"


def _measured(base_dir: Path) -> Iterator[dict[str, Any]]:
    """What trainings have taken of their GPU, with all else that used it; and those that ran out of its memory."""
    for run in runs(base_dir):
        for expert in run.experts:
            gpu: Mapping[str, Any] = next(iter(expert.record.machine.get("gpus", [])), {})
            before = (attempt.get("memory", {}) for attempt in expert.record.attempts)
            for row in (*before, expert.record.memory):
                if row.get("used") or "lacking" in row:
                    values = {name: row.get(name) for name in ("used", "foretold", "lacking")}
                    yield {"run": run.name, "expert": expert.name, "gpu": gpu.get("name"), **values}


def _row(run: str, expert: str, gpu: str, used: int | None, foretold: int | None, lacking: int | None) -> str:
    seen = f"{gib(used)} in use on {gpu}" if used else f"on {gpu}"
    said = f", {gib(foretold)} were foretold" if foretold else ""
    out = "" if lacking is None else f"; it ran out when {gib(lacking)} more were asked for"
    return f"{run}  {expert}: {seen}{said}{out}"
