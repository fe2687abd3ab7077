"""The network that upstream builds for a training, by the names and shapes of its tensors.

Upstream loads a LoRA into it without a word about keys that are missing or too many (`strict=False`).
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from wanwrap.errors import OptionError
from wanwrap.plan.plan import Plan, Step
from wanwrap.preset import Preset
from wanwrap.system.header import PREFIX
from wanwrap.system.safetensors import Source, open_source
from wanwrap.upstream.options import Options, whole
from wanwrap.weights.models import SHAPES

Shape = tuple[int, ...]
PARTS = [*(f"{attention}.{matrix}" for attention in ("self_attn", "cross_attn") for matrix in "qkvo"), "ffn.0", "ffn.2"]
CLIP = ["cross_attn.k_img", "cross_attn.v_img"]  # Wan 2.1 I2V's
INNER = {1536: 8960, 5120: 13824}  # how wide the feed-forward part is, by the model's width


def declared(preset: Preset) -> dict[str, Shape]:
    """The matrices of a model's blocks, `{name: (out, in)}`, as they are published."""
    shape = SHAPES[preset.task]
    assert shape
    width, _, clip = shape
    sizes = {"ffn.0": (INNER[width], width), "ffn.2": (width, INNER[width])}
    parts = {part: sizes.get(part, (width, width)) for part in [*PARTS, *(CLIP if clip else [])]}
    return {f"blocks.{block}.{part}": size for block in range(preset.blocks) for part, size in parts.items()}


def found(dit: Source) -> dict[str, Shape]:
    """The same of a DiT that is there: what upstream will find as `Linear` in its blocks."""
    rows = {name.removeprefix(PREFIX): row for name, row in dit.rows.items()}
    linear = {name: row for name, row in rows.items() if len(row.shape) == 2 and name.endswith(".weight")}
    return {name.removesuffix(".weight"): row.shape for name, row in linear.items() if name.startswith("blocks.")}


def matrices(plan: Plan, step: Step) -> dict[str, Shape]:
    """Those of the DiT that is trained on, as far as one of its files is there; else as the model is published."""
    assert step.training
    base = next((e.dit for e in plan.preset.experts if step.training.key in (e.noise_level, "dit")), None)
    files = [Path(str(step.training.options["dit"])), *(w.path for w in plan.weights if w.name == base)]
    there = next((path for path in files if path.is_file()), None)
    return found(open_source(there)) if there else declared(plan.preset)


def tensors(matrices: Mapping[str, Shape], options: Options) -> dict[str, Shape] | None:
    """The network's own tensors, alphas as (); None for a network that is not upstream's own.

    Raises:
        OptionError: network_args that upstream would stop at.
    """
    kind, arguments = str(options["network_module"]).rpartition(".")[2], _arguments(options)
    if kind not in KINDS or "lycoris" in str(options["network_module"]):
        return None
    rank, factor = whole(options, "network_dim", 0), whole(arguments, "factor", -1)
    found = dict[str, Shape]()
    for name in _targets(matrices, arguments):
        out, into = matrices[name]
        parts = {**dict(KINDS[kind](rank, out, into, factor)), "alpha": ()}
        found |= {f"lora_unet_{name.replace('.', '_')}.{part}": shape for part, shape in parts.items()}
    return found


def _lora(rank: int, out: int, into: int, _: int) -> Iterator[tuple[str, Shape]]:
    yield from (("lora_down.weight", (rank, into)), ("lora_up.weight", (out, rank)))


def _loha(rank: int, out: int, into: int, _: int) -> Iterator[tuple[str, Shape]]:
    for number in "12":
        yield from ((f"hada_w{number}_a", (out, rank)), (f"hada_w{number}_b", (rank, into)))


def _lokr(rank: int, out: int, into: int, factor: int) -> Iterator[tuple[str, Shape]]:
    """A small matrix whole; the large one in two, unless the rank makes them larger than it is."""
    (small_in, large_in), (small_out, large_out) = _factors(into, factor), _factors(out, factor)
    yield "lokr_w1", (small_out, small_in)
    if rank < max(large_out, large_in) / 2:
        yield from (("lokr_w2_a", (large_out, rank)), ("lokr_w2_b", (rank, large_in)))
    else:
        yield "lokr_w2", (large_out, large_in)


KINDS = {"lora_wan": _lora, "loha": _loha, "lokr": _lokr}


def _factors(size: int, factor: int) -> tuple[int, int]:
    """The two numbers that upstream splits a side into, the smaller one first."""
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    most = size if factor < 0 else factor
    small = max(n for n in range(1, min(most, int(size**0.5)) + 1) if size % n == 0)
    return small, size // small


def _arguments(options: Options) -> dict[str, str]:
    pairs = options.get("network_args") or ()
    assert not isinstance(pairs, (str, bool, int, float))
    return dict(pair.split("=", 1) for pair in pairs)


def _targets(matrices: Mapping[str, Shape], arguments: Mapping[str, str]) -> list[str]:
    """Those that get a part of the network: what `include_patterns` name is in it, whatever excludes it."""
    patterns = [_patterns(f"{how}_patterns", arguments) for how in ("exclude", "include")]
    excluded, included = ({name for name in matrices if any(p.fullmatch(name) for p in each)} for each in patterns)
    return [name for name in matrices if name not in excluded - included]


def _patterns(name: str, arguments: Mapping[str, str]) -> list[re.Pattern[str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `\.` in a text that is no raw one, as upstream's own guide writes it
            return [re.compile(pattern) for pattern in ast.literal_eval(arguments.get(name, "[]"))]
    except (ValueError, SyntaxError, TypeError, re.error) as error:
        raise OptionError(
            f"--network_args {name}={arguments[name]} is no list of patterns ({error}); write {name}=['.*ffn.*']."
        ) from error
