"""LoRA files in all formats that are about: what they are, and which tensors of a DiT they change, and how.

Headers only, no torch.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from wanwrap.errors import WeightsError, listing
from wanwrap.system.safetensors import FLOATS, Row, Source
from wanwrap.upstream.dit import BLOCK
from wanwrap.weights import provenance

# upstream's, ComfyUI's, diffusers' and peft's names of the same things
PARTS = {
    "lora_down.weight": "down",
    "lora_A.weight": "down",
    "lora_A.default.weight": "down",
    "lora_up.weight": "up",
    "lora_B.weight": "up",
    "lora_B.default.weight": "up",
    "alpha": "alpha",
    "diff": "diff",
    "diff_b": "diff_b",
    "diff_m": "diff_m",
}
PREFIX = r"(?:model\.diffusion_model\.|base_model\.model\.|diffusion_model\.|transformer\.|lora_unet_)*"
KEY = re.compile(rf"{PREFIX}(?P<module>.*)\.(?P<part>{'|'.join(map(re.escape, PARTS))})")
FORMATS = {"lora_unet_": "musubi-tuner", "transformer.": "diffusers", "base_model.model.": "peft"}
# What a difference is added to: the weight, the bias, the modulation of a block (as LightX2V writes them).
TARGETS = {"diff": (".weight", ""), "diff_b": (".bias",), "diff_m": (".modulation", "")}
FIVE_B = 3072  # the width of Wan 2.2's TI2V 5B
WIDTHS = {5120: "Wan 14B", 1536: "Wan 1.3B", FIVE_B: "Wan 2.2 TI2V 5B"}
Modules = dict[str, dict[str, str]]  # {module: {part: key}}


@dataclass(frozen=True)
class LowRank:
    """`scale * up @ down` is added; `scale` is strength * alpha / rank."""

    up: str
    down: str
    scale: float


@dataclass(frozen=True)
class Difference:
    """`scale * tensor` is added; `scale` is the strength."""

    name: str
    scale: float


Patch = LowRank | Difference


@dataclass(frozen=True)
class Match:
    """What a LoRA does to a DiT: patches by the DiT's tensor names, and the keys whose tensors the DiT lacks."""

    patches: dict[str, tuple[Patch, ...]] = field(default_factory=dict)
    left: tuple[str, ...] = ()


def is_lora(source: Source) -> bool:
    """Whether a file holds low-rank pairs."""
    downs = tuple(f".{name}" for name, part in PARTS.items() if part == "down")
    return any(name.endswith(downs) for name in source.rows)


def grouped(names: Iterable[str]) -> str:
    """Names as a person reads them: `blocks.*.cross_attn.k_img.lora_down.weight (40)`."""
    groups = Counter(re.sub(r"(?<=[._])\d+(?=[._])", "*", name, count=1) for name in names)
    return listing((f"{name} ({count})" if count > 1 else name for name, count in groups.items()), 20)


# ---- what it is


def verdict(source: Source) -> dict[str, Any]:
    """Fields of the verdict on a LoRA. Raises WeightsError: its alpha is no number."""
    (modules, why), width = _modules(source), _width(source.rows)
    why = why and f"it {why}"
    if width is None:
        why = "it is a LoRA of another model than Wan"
    if (provenance.read(source.metadata) or {}).get("toy"):
        why = "it is a toy of a rehearsal, and has learned nothing"
    alphas = (source.scalar(parts["alpha"]) for parts in modules.values() if "alpha" in parts)
    alpha = next(alphas, None)
    downs = [source.rows[parts["down"]].shape for parts in modules.values() if "down" in parts]
    ranks = sorted({shape[0] for shape in downs if shape})
    several = f"{ranks[0]} to {ranks[-1]}" if len(ranks) > 1 else None
    first = next(iter(source.rows))
    facts = {
        "format": next((whose for prefix, whose in FORMATS.items() if first.startswith(prefix)), "ComfyUI"),
        "rank": several or next(iter(ranks), None),
        "alpha": alpha if alpha is None or math.isfinite(alpha) else str(alpha),
        "modules": len(modules),
        "model": width and WIDTHS[width],
    }
    return {
        "lora": facts,
        "trained": provenance.trained(source.metadata) or None,
        "what": f"LoRA of {WIDTHS[width]}" if width else "LoRA",
        "usable": why is None,
        "reason": why or "wanwrap can merge it",
    }


def _width(rows: Mapping[str, Row]) -> int | None:
    """The width of Wan's model whose blocks it changes; that of high and low, T2V and I2V is the same."""
    matrix = re.compile(r"blocks[._]\d+[._](self_attn|cross_attn)[._][qkvo](?![^\W_])")
    sides = {side for name, row in rows.items() if matrix.search(name) for side in row.shape}
    return next((width for width in WIDTHS if width in sides), None)


# ---- what it does to a DiT


def match(lora: Source, dit: Mapping[str, Row], strength: float) -> Match:
    """Every key of the LoRA is in `patches` or `left`; `dit` has its rows by their native names.

    Raises:
        WeightsError: of another model (which tensor), or with parts that can't be merged (which keys).
    """
    if any(key.endswith(BLOCK) for key in lora.rows):
        raise WeightsError(f"{lora.paths[0]} is a DiT, no LoRA; have --dit and --lora changed places?")
    underscored = {name.rpartition(".")[0].replace(".", "_"): name.rpartition(".")[0] for name in dit}
    (modules, why), found, left = _modules(lora, underscored), dict[str, list[Patch]](), list[str]()
    if why:
        raise WeightsError(f"{lora.paths[0]} {why}.")
    for module, parts in modules.items():
        for keys, endings, patch in _changes(lora, parts, strength):
            target = next((module + ending for ending in endings if module + ending in dit), None)
            if target is None:
                left += keys
                continue
            _check(lora, dit[target], patch)
            found.setdefault(target, []).append(patch)
    if not found:
        raise WeightsError(
            f"{lora.paths[0]} changes no tensor of this DiT: its keys ({listing(lora.rows, 2)}) name none; give another."
        )
    return Match({name: tuple(patches) for name, patches in found.items()}, tuple(left))


def _modules(lora: Source, names: Mapping[str, str] = {}) -> tuple[Modules, str | None]:
    """The keys by the modules that they change, and why they can't be merged; None where they can.

    `names` are the DiT's own of the modules with underscores.
    """
    modules, foreign, twice = Modules(), list[str](), list[str]()
    for key in lora.rows:
        found = KEY.fullmatch(key)
        if found is None:
            foreign.append(key)
            continue
        module, part = found["module"], PARTS[found["part"]]
        parts = modules.setdefault(names.get(module, module), {})
        if parts.setdefault(part, key) != key:
            twice = [parts[part], key]
    for parts in modules.values():
        if not {"up", "down"} <= parts.keys():  # which mean nothing alone
            foreign += [parts[part] for part in ("up", "down", "alpha") if part in parts]
    if twice:
        return modules, f"has {' and '.join(twice)} for one tensor; give another LoRA"
    if foreign:
        return modules, f"holds what wanwrap can't merge: {grouped(foreign)}; give a LoRA of up and down matrices"
    return modules, None


def _changes(
    lora: Source, parts: Mapping[str, str], strength: float
) -> Iterator[tuple[list[str], tuple[str, ...], Patch]]:
    """(keys, how the name of the DiT's tensor may end, patch) of each change in a module."""
    if "down" in parts:
        keys = [parts[part] for part in ("down", "up", "alpha") if part in parts]
        yield keys, (".weight",), _low_rank(lora, parts, strength)
    for part, endings in TARGETS.items():
        if part in parts:
            yield [parts[part]], endings, Difference(parts[part], strength)


def _low_rank(lora: Source, parts: Mapping[str, str], strength: float) -> LowRank:
    up, down = lora.rows[parts["up"]], lora.rows[parts["down"]]
    rank = down.shape[0] if down.shape else 0
    if not rank or len(up.shape) < 2 or math.prod(up.shape[1:]) != rank:
        raise WeightsError(f"{lora.paths[0]}: {up.name} {list(up.shape)} and {down.name} {list(down.shape)} don't fit.")
    alpha = lora.scalar(parts["alpha"]) if "alpha" in parts else float(rank)
    if not math.isfinite(alpha) or alpha == 0:
        raise WeightsError(f"{lora.paths[0]}: {parts['alpha']} is {alpha}, so nothing would be added; get it again.")
    return LowRank(up.name, down.name, strength * alpha / rank)


def _check(lora: Source, row: Row, patch: Patch) -> None:
    """Raises WeightsError: made for a model of another size, or stored in a type that is no float."""
    if isinstance(patch, Difference):
        stored, wanted = [lora.rows[patch.name]], row.shape
        shape = stored[0].shape
    else:
        stored, wanted = [lora.rows[patch.up], lora.rows[patch.down]], (*row.shape[:1], math.prod(row.shape[1:]))
        shape = (stored[0].shape[0], math.prod(stored[1].shape[1:]))
    if odd := next((each for each in stored if each.dtype not in FLOATS), None):
        raise WeightsError(f"{lora.paths[0]} stores {odd.name} as {odd.dtype}; give the LoRA in fp16, bf16 or fp32.")
    if row.dtype not in FLOATS:
        raise WeightsError(
            f"{lora.paths[0]} changes {row.name}, which this DiT stores as {row.dtype}; give an fp16 or bf16 DiT."
        )
    if shape != wanted:
        raise WeightsError(
            f"{lora.paths[0]} is for another model: it changes {row.name} by {list(shape)}, and this DiT's is {list(wanted)}."
        )
