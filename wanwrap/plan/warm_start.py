"""`--resume_from`: a training that begins with the weights of a LoRA. Checked here, for upstream says nothing.

Keys in another format are passed over and it trains from scratch; another alpha than the file's rescales what it has
learned; the other expert's file, of the same names and shapes, trains something else.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from wanwrap.errors import WeightsError
from wanwrap.plan.plan import Plan, Step, called
from wanwrap.plan.script import native
from wanwrap.system.safetensors import Source, open_source
from wanwrap.upstream import network
from wanwrap.upstream.options import Options, Value, number, whole
from wanwrap.weights import provenance
from wanwrap.weights.lora import grouped

OTHERS = {
    "diffusion_model.": "ComfyUI's",
    "transformer.": "diffusers'",
    "base_model.model.": "peft's",
    "model.diffusion_model.": "ComfyUI's",
}
CONVERTED = ("diffusion_model.", "transformer.")  # what upstream's convert_lora reads
RANKS = (".lora_down.weight", ".hada_w1_b", ".lokr_w2_b")  # tensors whose first side is the rank
LOST = (
    "the optimizer's moments, the random numbers, the count of steps and the place in the learning rate's schedule "
    "begin anew, the rate at the full --lr"
)


def remarks(plan: Plan) -> list[str]:
    """What is to be said of trainings that begin with a file's weights.

    Raises:
        WeightsError: upstream would not load all of one, or it is not what is trained.
    """
    said = []
    for step in plan.trainings:
        assert step.recipe
        if given := step.recipe.options.get("network_weights"):
            said += check(plan, step, Path(str(given)))
    return said


def check(plan: Plan, step: Step, path: Path) -> list[str]:
    """The remarks on one file. Raises WeightsError."""
    assert step.recipe
    source, options = open_source(path), step.recipe.options
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} must end in .safetensors, by which upstream goes; rename it.")
    _check_same(plan, step, path, source.metadata)
    said = [
        f"{path.name} gives its weights alone: {LOST} {number(options, 'learning_rate', 0.0):g}. (A run of wanwrap's "
        "own that was stopped goes on exactly: give its command again, without --resume_from.)"
    ]
    if check_loads(plan, step, source):
        return said
    unknown = f"what {options['network_module']} takes of {path.name} can't be checked: see `load network weights` in the log."
    return [*said, unknown]


def check_loads(plan: Plan, step: Step, source: Source, *, scaled: bool = True) -> bool:
    """Whether upstream loads all of it, or False where nobody knows; `scaled` with the run's own rank and alpha.

    Raises:
        WeightsError: it would not.
    """
    assert step.recipe
    options: dict[str, Value] = {**step.recipe.options}
    if not scaled:
        options["network_dim"] = max(rank_alpha(source)[0], default=0)
    wanted = network.tensors(network.matrices(plan, step), options)
    _check_format(plan, step, source)
    if wanted is None:
        return False
    if scaled:
        _check_scale(options, source)
    _check_tensors(source, wanted)
    return True


def level(step: Step) -> str | None:
    """Which expert a step trains."""
    return step.name.removeprefix("train").strip() or None


def title(plan: Plan, step: Step) -> str:
    """What a step trains, in words."""
    return provenance.title(called(plan.preset, without_lightning=plan.without_lightning), level(step))


def _check_same(plan: Plan, step: Step, path: Path, metadata: Mapping[str, str]) -> None:
    """Raises WeightsError: it was trained as something else, as far as it tells."""
    assert step.recipe
    record, mine, window = provenance.read(metadata), title(plan, step), provenance.range_of(metadata)
    if record and (theirs := provenance.titled(record)) != mine:
        raise WeightsError(
            f"{path} was trained as {theirs}, and this run trains {mine}; give a LoRA of that, "
            f"or train what it is: wanwrap run {_run(record)}."
        )
    if record or window in (None, provenance.window(step.recipe.options)):
        return
    assert window
    other = provenance.nearest(plan.preset, window)
    if other not in (None, level(step)):
        raise WeightsError(
            f"{path} was trained on timesteps {window[0]} to {window[1]}, as the {other}-noise expert is, and this run "
            f"trains {mine}; give the file of that one, or --noise_level {other}."
        )


def _run(record: Mapping[str, Any]) -> str:
    return f"{record['preset']} --noise_level {record['expert']}" if "expert" in record else str(record["preset"])


def _check_format(plan: Plan, step: Step, source: Source) -> None:
    """Raises WeightsError: in another format, of which upstream would load nothing."""
    if any(key.startswith("lora_unet_") for key in source.rows):
        return
    path, first = source.paths[0], next(iter(source.rows), "nothing")
    prefix = next((prefix for prefix in OTHERS if first.startswith(prefix)), None)
    whose = f"has {OTHERS[prefix]} key names" if prefix else "is no LoRA in upstream's key names"
    why = f"{path} {whose} ({first}), of which upstream would load nothing, and train from scratch"
    if prefix not in CONVERTED or "lora_A.default" in first:
        raise WeightsError(f"{why}; give a LoRA in upstream's key names (lora_unet_...lora_down.weight).")
    raise WeightsError(f"{why}; convert it first: {convert(plan, step, path)}")


def convert(plan: Plan, step: Step, path: Path) -> str:
    """Upstream's command that gives a LoRA its own key names, for this system's shell."""
    where = f"cd {shlex.quote(plan.env['PYTHONPATH'])}; " if "PYTHONPATH" in plan.env else ""
    where += "& " if native() == "powershell" else ""  # which takes a quoted program for a text
    out = path.with_name(f"{path.stem}-musubi.safetensors")
    files = ("--input", str(path), "--output", str(out), "--target", "default")
    return where + shlex.join((step.argv[0], "-m", "musubi_tuner.convert_lora", *files))


def rank_alpha(source: Source) -> tuple[set[int], set[float]]:
    """The ranks and alphas in a file; without an alpha it is the rank. A LoKr's whole matrices have none."""
    ranks = {row.shape[0] for name, row in source.rows.items() if name.endswith(RANKS) and row.shape}
    modules = {name.removesuffix(".alpha") for name in source.rows if name.endswith(".alpha")}
    alphas = {source.scalar(f"{name}.alpha") for name in modules if f"{name}.lokr_w2" not in source.rows}
    return ranks, alphas or {float(rank) for rank in ranks}


def same_alpha(one: float, other: float) -> bool:
    """It is stored in the type of the weights: within the last digits of bf16."""
    return math.isclose(one, other, rel_tol=0.008)


def _check_scale(options: Options, source: Source) -> None:
    """Raises WeightsError: upstream would stop, or scale the weights by another alpha than the file's."""
    path, (ranks, alphas) = source.paths[0], rank_alpha(source)
    dim, alpha = whole(options, "network_dim", 0), number(options, "network_alpha", 0)
    if len(ranks) > 1 or len(alphas) > 1:
        raise WeightsError(
            f"{path} has ranks {_span(ranks)} and alphas {_span(alphas)}; upstream's network has one of each, "
            "so give a LoRA that was trained by it."
        )
    if ranks - {dim} or not all(same_alpha(each, alpha) for each in alphas):
        rank = _span(ranks or {dim})
        raise WeightsError(
            f"{path} has rank {rank} and alpha {_span(alphas)}; the run has {dim} and {alpha:g}. "
            f"Give --dim {rank} --alpha {_span(alphas)}, or the file of the expert that is trained."
        )


def _span(numbers: Collection[float]) -> str:
    """`16`, or `16 to 128`."""
    return " to ".join(f"{each:g}" for each in dict.fromkeys((min(numbers), max(numbers))))


def _check_tensors(source: Source, wanted: Mapping[str, network.Shape]) -> None:
    """Raises WeightsError: not each tensor of the file is one of the network's, or the other way round."""
    path, alphas = source.paths[0], (".alpha",) if not any(key.endswith(".alpha") for key in source.rows) else ()
    lacking = [key for key in wanted if key not in source.rows and not key.endswith(alphas)]
    extra = [key for key in source.rows if key not in wanted]
    if lacking or extra:
        parts = [f"{what} {_modules(keys)}" for what, keys in (("lacks", lacking), ("holds", extra)) if keys]
        raise WeightsError(
            f"{path} is not of the network that is trained: it {', and '.join(parts)}. Upstream would pass over that "
            "without a word; give a LoRA of the same model, with the same --network_args."
        )
    for key, shape in wanted.items():
        size = source.rows[key].shape if key in source.rows else shape
        if size != shape and (shape or math.prod(size) != 1):
            raise WeightsError(f"{path} is for another model: {key} is {[*size]}, and must be {[*shape]} here.")


def _modules(keys: Collection[str]) -> str:
    """Which modules tensors are of, those of all blocks as one: `blocks_*_ffn_2 (40)`."""
    return grouped(dict.fromkeys(key.partition(".")[0].removeprefix("lora_unet_") for key in keys))
