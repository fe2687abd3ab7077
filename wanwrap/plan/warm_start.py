"""`--resume_from`: a training that begins with the weights of a LoRA. Checked here, for upstream says nothing.

Keys in another format are passed over and it trains from scratch; another alpha than the file's rescales what it has
learned; the other expert's file, of the same names and shapes, trains something else. Whether each tensor is one of
the network's, probe.py finds out before a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wanwrap.errors import WeightsError, listing
from wanwrap.plan.plan import Plan, Train
from wanwrap.plan.script import command
from wanwrap.system.safetensors import Source, open_source
from wanwrap.system.shell import joined, native
from wanwrap.upstream import states
from wanwrap.upstream.options import number, whole
from wanwrap.upstream.rules import Window, window
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
        if record := provenance.read(source.metadata):
            _check_record(plan, train, path, record)
        elif trained := provenance.range_of(source.metadata):
            _check_window(plan, train, path, trained)
        if not any(name.startswith(states.PREFIX) for name in source.rows):
            raise WeightsError(_other_format(plan, train, source))
        _check_scale(train, source)
        said.append(
            f"{path.name} gives its weights alone: the optimizer's moments, the random numbers, the count of steps and "
            "the place in the learning rate's schedule begin anew, the rate at the full --lr "
            f"{number(train.options, 'learning_rate', 0.0):g}. (A run of wanwrap's own that was stopped goes on exactly: "
            "give its command again, without --resume_from.)"
        )
    return said


def _check_record(plan: Plan, train: Train, path: Path, record: Mapping[str, Any]) -> None:
    """Raises WeightsError: it was trained as something else, by what wanwrap has written down."""
    level = None if train.expert == "dit" else train.expert
    mine = provenance.title({"preset": plan.request.called, "expert": level})
    if (theirs := provenance.title(record)) != mine:
        expert = f" --noise_level {record['expert']}" if "expert" in record else ""
        raise WeightsError(
            f"{path} was trained as {theirs}, and this run trains {mine}; give a LoRA of that, "
            f"or train what it is: wanwrap run {record['preset']}{expert}."
        )


def _check_window(plan: Plan, train: Train, path: Path, trained: Window) -> None:
    """Raises WeightsError: most of the timesteps on which another has trained it are the other expert's."""
    preset, (low, high) = plan.request.preset, trained
    shared = dict[str, int]()  # timesteps with each expert
    for expert in preset.experts:
        first, last = preset.window(expert)
        shared[expert.key] = max(min(last, high) - max(first, low), 0)
    best = max(shared, key=lambda key: shared[key])
    if trained != window(train.options) and shared[best] > shared[train.expert]:
        raise WeightsError(
            f"{path} was trained on timesteps {low} to {high}, as the {best}-noise expert is, and this run trains the "
            f"{train.expert}-noise one; give the file of that one, or --noise_level {best}."
        )


def _other_format(plan: Plan, train: Train, source: Source) -> str:
    """Why upstream would load nothing of a file, and how to convert it."""
    path, first = source.paths[0], next(iter(source.rows), "nothing")
    out = path.with_name(f"{path.stem}-musubi.safetensors")
    files = ("--input", str(path), "--output", str(out), "--target", "default")
    convert = command((train.argv[0], "-m", "musubi_tuner.convert_lora", *files), native())
    start = f"{joined(('cd', plan.env['PYTHONPATH']))}\n" if "PYTHONPATH" in plan.env else ""
    return (
        f"{path} is no LoRA in upstream's key names ({first}): upstream would load nothing of it and train from "
        f"scratch; upstream converts those of ComfyUI and diffusers:\n{start}{convert}"
    )


def _rank_alpha(source: Source) -> tuple[set[int], set[float]]:
    """The ranks and alphas in a file; without an alpha it is the rank. A LoKr's whole matrices have none."""
    ranks = {row.shape[0] for name, row in source.rows.items() if name.endswith(states.RANKS) and row.shape}
    modules = [name.removesuffix(".alpha") for name in source.rows if name.endswith(".alpha")]
    alphas = {source.scalar(f"{name}.alpha") for name in modules if f"{name}.lokr_w2" not in source.rows}
    return ranks, alphas or {*map(float, ranks)}


def _check_scale(train: Train, source: Source) -> None:
    """Raises WeightsError: upstream would stop, or scale the weights by another alpha than the file's."""
    ranks, alphas = _rank_alpha(source)
    dim, alpha = whole(train.options, "network_dim", 0), number(train.options, "network_alpha", 0)
    same = all(math.isclose(each, alpha, rel_tol=0.008) for each in alphas)  # it may be stored in bf16
    if same and ranks <= {dim}:
        return
    rank, scale = listing(sorted(ranks or {dim})), listing(f"{each:g}" for each in sorted(alphas))
    way = f"give --dim {rank} --alpha {scale}, or the file of the expert that is trained"
    if len(ranks) > 1 or len(alphas) > 1:
        way = "upstream's network has one of each, so give a LoRA that was trained by it"
    path = source.paths[0]
    raise WeightsError(f"{path} has ranks {rank} and alphas {scale}, and the run has {dim} and {alpha:g}; {way}.")
