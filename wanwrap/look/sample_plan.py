"""What `sample` makes: of what was asked for, and of the run's own records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from wanwrap.errors import OptionError
from wanwrap.look import checkpoints as loras
from wanwrap.look import sample_models
from wanwrap.look.grid import Cell, cells
from wanwrap.look.prompts import prompts
from wanwrap.look.sample_models import Models
from wanwrap.look.sample_request import SampleRequest
from wanwrap.plan.card import Card
from wanwrap.run.record import Record
from wanwrap.upstream import dit
from wanwrap.upstream.options import Options
from wanwrap.upstream.sampling import LIGHTNING, Inference

CLIP_FRAMES = 33  # two seconds: enough to see it move, in half the time of a whole clip
STEPS = 20  # at most, unless more are asked for: enough to tell checkpoints apart, in half the time
NETWORK = "networks.lora_wan"
Network = tuple[str, Mapping[str, str]]  # a module of upstream's, and its arguments


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """The cells of the grid and their models, upstream's network of each expert's LoRAs, and what is to be said.

    `options` change no sample: with them, and with `env` in its environment, it fits the `card`.
    """

    request: SampleRequest
    cells: Sequence[Cell]
    models: Models
    networks: Mapping[str, Network]
    use: Inference
    notes: Sequence[str]
    record: Record
    card: Card | None = None
    options: Options = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.request.run.folder


def make_plan(request: SampleRequest) -> SamplePlan:
    """The samples that are asked for, those that are there included; fitted to no card yet.

    Raises:
        OutputError: the run has no LoRAs, or is of an earlier wanwrap.
        OptionError: what is asked for can't be made. WeightsError: a file that is needed is not there.
    """
    run = request.run
    record, use = loras.inference(run)
    models = sample_models.find(request, record)
    _check_blocks(request.blocks_to_swap, models.task)
    use = _use(request, LIGHTNING if request.lightning else use)
    chosen = loras.choose(loras.checkpoints(run), request.epochs)
    for checkpoint in chosen:
        loras.check(checkpoint, models.task)
    columns = list(product(chosen, sorted({*request.strength})))
    return SamplePlan(
        request=request,
        cells=[*cells(models, use, request.seed, prompts(request, record), columns)],
        models=models,
        networks={each.name: _network(each.record) for each in run.experts},
        use=use,
        notes=[*sample_models.remarks(models, chosen[-1].loras)],
        record=record,
    )


def _check_blocks(blocks: int | None, task: str) -> None:
    """Raises OptionError: the model has not so many."""
    most = dit.blocks(task) - 1
    if blocks is not None and blocks > most:
        raise OptionError(f"--blocks_to_swap {blocks}: of this model {most} at most can be swapped.")


def _network(record: Record) -> Network:
    """The module that LoRAs are hooked with, and its arguments. Raises OptionError: it is none of upstream's."""
    module = str(record.settings.get("network_module", NETWORK)).removeprefix("musubi_tuner.")
    if not module.startswith("networks."):
        raise OptionError(f"{module} is no network of upstream's; samples are made of those alone.")
    pairs = (str(pair).partition("=") for pair in record.settings.get("network_args", ()))
    return f"musubi_tuner.{module}", {key: value for key, _, value in pairs}


def _use(request: SampleRequest, use: Inference) -> Inference:
    """The settings of the run, as far as nothing else is asked for."""
    return replace(
        use,
        size=request.size or use.size,
        video_length=request.frames or (CLIP_FRAMES if request.clips else 1),
        infer_steps=request.steps or min(use.infer_steps, STEPS),
    )
