"""`--resume_from`: a training that begins with the weights of a LoRA. Checked here, for upstream says nothing.

Keys in another format are passed over and it trains from scratch; another alpha than the file's rescales what it has
learned; the other expert's file, of the same names and shapes, trains something else. Whether each tensor is one of
the network's, probe.py finds out before a run.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection
from pathlib import Path

from wanwrap.errors import WeightsError
from wanwrap.plan.plan import Plan, Train
from wanwrap.plan.script import native
from wanwrap.system.safetensors import Source, open_source
from wanwrap.upstream import states
from wanwrap.upstream.options import number, whole
from wanwrap.upstream.rules import window
from wanwrap.weights import provenance


def remarks(plan: Plan) -> list[str]:
    """What is to be said of trainings that begin with a file's weights.

    Raises:
        WeightsError: upstream would not load one, or it is not what is trained.
    """
    said = []
    for train in plan.trainings:
        path = Path(str(train.options["network_weights"]))
        source = open_source(path)
        if path.suffix != ".safetensors":
            raise WeightsError(f"{path} must end in .safetensors, by which upstream goes; rename it.")
        _check_same(plan, train, source)
        _check_format(plan, train, source)
        _check_scale(train, source)
        said.append(
            f"{path.name} gives its weights alone: the optimizer's moments, the random numbers, the count of steps and "
            "the place in the learning rate's schedule begin anew, the rate at the full --lr "
            f"{number(train.options, 'learning_rate', 0.0):g}. (A run of wanwrap's own that was stopped goes on exactly: "
            "give its command again, without --resume_from.)"
        )
    return said


def _check_same(plan: Plan, train: Train, source: Source) -> None:
    """Raises WeightsError: it was trained as something else, as far as it tells."""
    preset, path, level = plan.request.preset, source.paths[0], None if train.expert == "dit" else train.expert
    mine = provenance.title({"preset": plan.request.called, "expert": level})
    if record := provenance.read(source.metadata):
        if (theirs := provenance.title(record)) != mine:
            expert = f" --noise_level {record['expert']}" if "expert" in record else ""
            raise WeightsError(
                f"{path} was trained as {theirs}, and this run trains {mine}; give a LoRA of that, "
                f"or train what it is: wanwrap run {record['preset']}{expert}."
            )
        return
    trained = provenance.range_of(source.metadata)
    if trained is None or trained == window(train.options):
        return
    low, high = trained
    parts = dict[str | None, int]()  # timesteps that it shares with each expert
    for each in preset.experts:
        first, last = preset.window(each)
        parts[each.noise_level] = min(last, high) - max(first, low)
    best = max(parts, key=lambda level: parts[level])
    if parts[best] > max(parts[level], 0):
        raise WeightsError(
            f"{path} was trained on timesteps {low} to {high}, as the {best}-noise expert is, and this run trains "
            f"{mine}; give the file of that one, or --noise_level {best}."
        )


def _check_format(plan: Plan, train: Train, source: Source) -> None:
    """Raises WeightsError: in another format, of which upstream would load nothing."""
    path, first = source.paths[0], next(iter(source.rows), "nothing")
    if any(key.startswith(states.PREFIX) for key in source.rows):
        return
    out = path.with_name(f"{path.stem}-musubi.safetensors")
    files = ("--input", str(path), "--output", str(out), "--target", "default")
    command = shlex.join((train.argv[0], "-m", "musubi_tuner.convert_lora", *files))
    if native() == "powershell":
        command = f"& {command}"  # which takes a quoted program for a text
    if "PYTHONPATH" in plan.env:
        command = f"cd {shlex.quote(plan.env['PYTHONPATH'])}; {command}"
    raise WeightsError(
        f"{path} is no LoRA in upstream's key names ({first}): upstream would load nothing of it and train from "
        f"scratch; upstream converts those of ComfyUI and diffusers: {command}"
    )


def _rank_alpha(source: Source) -> tuple[set[int], set[float]]:
    """The ranks and alphas in a file; without an alpha it is the rank. A LoKr's whole matrices have none."""
    ranks = {row.shape[0] for name, row in source.rows.items() if name.endswith(states.RANKS) and row.shape}
    modules = {name.removesuffix(".alpha") for name in source.rows if name.endswith(".alpha")}
    alphas = {source.scalar(f"{name}.alpha") for name in modules if f"{name}.lokr_w2" not in source.rows}
    return ranks, alphas or {float(rank) for rank in ranks}


def _check_scale(train: Train, source: Source) -> None:
    """Raises WeightsError: upstream would stop, or scale the weights by another alpha than the file's."""
    path, (ranks, alphas) = source.paths[0], _rank_alpha(source)
    dim, alpha = whole(train.options, "network_dim", 0), number(train.options, "network_alpha", 0)
    same = all(math.isclose(each, alpha, rel_tol=0.008) for each in alphas)  # it may be stored in bf16
    if same and not ranks - {dim}:
        return
    rank, scale = _span(ranks or {dim}), _span(alphas)
    way = f"give --dim {rank} --alpha {scale}, or the file of the expert that is trained"
    if len(ranks) > 1 or len(alphas) > 1:
        way = "upstream's network has one of each, so give a LoRA that was trained by it"
    raise WeightsError(f"{path} has ranks {rank} and alphas {scale}, and the run has {dim} and {alpha:g}; {way}.")


def _span(numbers: Collection[float]) -> str:
    """`16`, or `16 to 128`."""
    return " to ".join(f"{each:g}" for each in dict.fromkeys((min(numbers), max(numbers))))
