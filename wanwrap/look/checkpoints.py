"""The LoRAs of a run: by epochs, those of both experts that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wanwrap.errors import OptionError, OutputError, WeightsError, listing
from wanwrap.run.record import Record
from wanwrap.run.status import Expert, Run
from wanwrap.system.safetensors import read_header
from wanwrap.upstream.sampling import Inference
from wanwrap.upstream.states import PREFIX, lora_epoch
from wanwrap.weights import provenance

FEW = 5  # epochs that are sampled where none are asked for
LAST, ALL = "last", "all"


@dataclass(frozen=True)
class Checkpoint:
    """The LoRAs after an `epoch`, by expert; none of them with `epoch` None. In a `mixed` one each expert has ended after
    epochs of its own, of which `epoch` is the most.
    """

    epoch: int | None
    loras: Mapping[str, Path]
    mixed: bool = False


NONE = Checkpoint(None, {})


def inference(run: Run) -> tuple[Record, Inference]:
    """The record that tells how a run's LoRAs are used, and the settings. Raises OutputError: none does."""
    for each in run.experts:
        if use := each.record.use:
            return each.record, use
    raise OutputError(
        f"{run.name} was begun by an earlier wanwrap, whose records don't tell how its LoRAs are used; a run that is begun "
        "now tells."
    )


def checkpoints(run: Run) -> list[Checkpoint]:
    """Those that are there, the youngest last: the LoRAs of both experts after the same epoch, and where both have ended
    after different ones their last. An expert without a LoRA of its own stays as it is.

    Raises:
        OutputError: no LoRA is saved yet, or none of both experts after one epoch.
    """
    by_expert = {each.name: found for each in run.experts if (found := _saved(each))}
    if not by_expert:
        raise OutputError(f"{run.folder} holds no LoRA yet; `wanwrap status {run.name}` tells when one is saved.")
    common = sorted(set.intersection(*(set(found) for found in by_expert.values())))
    rows = [Checkpoint(epoch, {expert: found[epoch] for expert, found in by_expert.items()}) for epoch in common]
    ends = {expert: max(found) for expert, found in by_expert.items()}
    if len({*ends.values()}) > 1 and all(each.state == "done" for each in run.experts):
        rows.append(
            Checkpoint(max(ends.values()), {each: by_expert[each][end] for each, end in ends.items()}, mixed=True)
        )
    if not rows:
        raise OutputError(f"{run.name} has no epoch yet after which both experts have saved a LoRA; wait for the next.")
    return rows


def _saved(expert: Expert) -> dict[int, Path]:
    """Its LoRAs by their epochs; the last one, which has no number, by the epochs that were planned."""
    record, found = expert.record, dict[int, Path]()
    for name in record.files:
        epoch = lora_epoch(name, record.lora.removesuffix(".safetensors"))
        if epoch is not None and (path := expert.folder.parent / name).is_file():
            found[epoch or record.epochs_planned] = path
    return found


def choose(found: Sequence[Checkpoint], wanted: Sequence[str]) -> list[Checkpoint]:
    """Those of the epochs that are wanted: numbers, `last`, `all`; without a wish a few over the whole run.

    Raises:
        OptionError: there is none of such an epoch.
    """
    if ALL in wanted or (not wanted and len(found) <= FEW):
        return [*found]
    if not wanted:
        step = (len(found) - 1) / (FEW - 1)
        return [found[round(step * index)] for index in range(FEW)]
    by_name = {**{str(each.epoch): each for each in found if not each.mixed}, LAST: found[-1]}
    if missing := [word for word in wanted if word not in by_name]:
        raise OptionError(f"--epochs {missing[0]}: there are LoRAs of {listing([*by_name])}.")
    return [each for each in found if each in [by_name[word] for word in wanted]]


def check(checkpoint: Checkpoint, task: str) -> None:
    """Raises WeightsError: a LoRA that upstream would leave out without a word, or of the other expert."""
    for expert, path in checkpoint.loras.items():
        header = read_header(path)
        if not any(name.startswith(PREFIX) for name in header):
            raise WeightsError(f"{path} is no LoRA in musubi-tuner's format: upstream would sample without it.")
        record = provenance.read(header.get("__metadata__", {})) or {}
        of = record.get("expert")
        if (of or expert) != expert and expert != "dit":
            raise WeightsError(
                f"{path} is the {of}-noise expert's by its own record, and lies here as the {expert} one's."
            )
        if record.get("task", task) != task:
            raise WeightsError(f"{path} was trained for {record['task']}, and the run is one of {task}.")
