"""The figures behind wanwrap/upstream/memory.py: what upstream's own model takes of a GPU's memory, by fake tensors.

    TRAINING_PYTHON scripts/upstream_memory.py MUSUBI_TUNER_FOLDER [--sampling] [--only CASE ...] [--reserved] [--json]

Upstream's trainer does two steps of a model of 3 and of 4 blocks, of full size but without numbers; the rest is a
straight line. No GPU is needed, and no weights. --reserved does all blocks (half a minute a case), and adds what torch's
caching allocator takes, without and with expandable_segments. Each figure stands beside the formula's. Ends with 1 where
the formula is more than 2.5 % beside what upstream's model takes.

--sampling: the same of sampling_memory.py, of all blocks and in what torch's allocator takes; more than 5 % ends with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from caching_allocator import reserved

sys.path.append(str(Path(__file__).resolve().parent.parent))
from wanwrap.upstream import dit, memory, sampling_memory
from wanwrap.upstream.buckets import tokens

GIB = 2**30
STAGES = [f"{stage}{kind}" for stage in ("denoising", "decoding") for kind in ("", "_expandable")]
WORST = {"allocated": 0.025, **dict.fromkeys(STAGES, 0.05)}
UNITS = {"allocated": GIB, "reserved": GIB, "expandable": GIB, "flops": 1e15, **dict.fromkeys(STAGES, GIB)}
MOMENTS = ("last", "between", "first", "step")  # backward passes of the last, other and first blocks, and the optimizer
KINDS = ("weights", "lora", "inputs", "rest")  # a LoRA with its gradients and moments; the blocks' inputs
SCALED, PLAIN = {"fp8_base": True, "fp8_scaled": True}, {"fp8_base": True}
OFFLOAD, EMBEDDING = {memory.OFFLOAD: True}, {memory.EMBEDDING: True}
# width, height, frames; options, besides `ALWAYS`
CASES: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "secourses": ((512, 512, 1), {"task": "t2v-14B", **SCALED, **OFFLOAD, "network_dim": 128, "optimizer_type": "adafactor"}),
    "2.2-picture": ((512, 512, 1), {"task": "t2v-A14B", **SCALED}),
    "2.1-picture": ((720, 1280, 1), {"task": "t2v-14B", **SCALED}),
    "2.2-short": ((512, 512, 21), {"task": "t2v-A14B", **SCALED}),
    "2.1-short": ((512, 512, 21), {"task": "t2v-14B", **SCALED}),
    "obsxrver": ((288, 288, 81), {"task": "t2v-A14B", **PLAIN, "network_dim": 16, "optimizer_type": "adamw", "blocks_to_swap": 1}),
    "lora-gym": ((960, 544, 45), {"task": "t2v-A14B", **SCALED, "blocks_to_swap": 30}),
    "lora-gym-embedding": ((960, 544, 45), {"task": "t2v-A14B", **SCALED, **EMBEDDING, "blocks_to_swap": 20}),
    "2.1-offload": ((960, 544, 45), {"task": "t2v-14B", **SCALED, **OFFLOAD}),
    "pr537": ((1280, 720, 25), {"task": "t2v-A14B", **SCALED}),
    "pr537-offload": ((1280, 720, 25), {"task": "t2v-A14B", **SCALED, **OFFLOAD}),
    "2.1-480p": ((832, 480, 81), {"task": "t2v-14B", **SCALED, "network_dim": 16, "blocks_to_swap": 36}),
    "issue723": ((1280, 720, 81), {"task": "i2v-A14B", **SCALED, "blocks_to_swap": 39}),
    "1.3b": ((832, 480, 81), {"task": "t2v-1.3B"}),
    "i2v-2.1": ((832, 480, 81), {"task": "i2v-14B", **SCALED, "blocks_to_swap": 20}),
    "i2v-2.1-fp8": ((512, 512, 1), {"task": "i2v-14B", **PLAIN}),
    "1.3b-fp8": ((512, 512, 1), {"task": "t2v-1.3B", **PLAIN}),
    "1.3b-scaled": ((512, 512, 21), {"task": "t2v-1.3B", **SCALED}),
    "2.2-16bit": ((512, 512, 1), {"task": "t2v-A14B"}),
}  # fmt: skip
ALWAYS = {
    "network_module": "musubi_tuner.networks.lora_wan",
    "network_dim": 32,
    "optimizer_type": "adamw8bit",
    "mixed_precision": "bf16",
    "gradient_checkpointing": True,
    "sdpa": True,
    "timestep_sampling": "shift",
}

TWO = {"task": "t2v-A14B", "dits": 2}
CLIP, CACHE = (832, 480, 33), {sampling_memory.CACHE: True}
SAMPLING: dict[str, tuple[tuple[int, int, int], dict[str, Any], dict[str, Any]]] = {
    "picture": ((832, 480, 1), TWO, {"blocks_to_swap": 39, **EMBEDDING, **CACHE}),
    "clip": (CLIP, TWO, {"blocks_to_swap": 20}),
    "clip-embedding": (CLIP, TWO, {"blocks_to_swap": 20, **EMBEDDING, **CACHE}),
    "lightning": ((832, 480, 81), {**TWO, "ranks": (32, 64)}, {"blocks_to_swap": 36, **EMBEDDING, **CACHE}),
    "low": ((624, 352, 33), TWO, {"blocks_to_swap": 39, **EMBEDDING, **CACHE}),
    "long": ((832, 480, 81), TWO, {**EMBEDDING}),
    "long-swapped": ((832, 480, 81), TWO, {"blocks_to_swap": 36, **EMBEDDING, **CACHE}),
    "720p": ((1280, 720, 81), TWO, {"blocks_to_swap": 30, **EMBEDDING, **CACHE}),
    "i2v": ((1280, 720, 33), {**TWO, "task": "i2v-A14B", "fp8": "base"}, {"blocks_to_swap": 10}),
    "i2v-2.1": (CLIP, {"task": "i2v-14B"}, {}),
    "2.1-16bit": (CLIP, {"task": "t2v-14B", "fp8": None}, {"blocks_to_swap": 20}),
    "1.3b": ((832, 480, 81), {"task": "t2v-1.3B", "fp8": None}, {}),
    "1.3b-picture": ((832, 480, 1), {"task": "t2v-1.3B", "fp8": None}, {}),
}


def line(three: Counter[str], four: Counter[str], count: int) -> Counter[str]:
    """What it is with so many blocks, from that with 3 and with 4."""
    return Counter({kind: three[kind] + (count - 3) * (four[kind] - three[kind]) for kind in KINDS})


def row(name: str, whole: bool) -> dict[str, Any]:
    """The figures of a case, in bytes."""
    from fake_upstream import follow  # needs the folder

    shape, changes = CASES[name]
    options = {**ALWAYS, **changes}
    count, swapped = dit.blocks(options["task"]), options.get("blocks_to_swap", 0)
    (three, block), (four, _) = follow(options, shape, 3), follow(options, shape, 4)
    peak = max((line(three.peaks[each], four.peaks[each], count) for each in MOMENTS), key=Counter.total)
    peak["weights"] -= swapped * block
    found = {"case": name, "options": options, "tokens": tokens(shape), **peak, "allocated": peak.total()}
    found["allocated_formula"] = memory.of(options, tokens(shape)).allocated
    found["flops"] = three.flops + (count - 3) * (four.flops - three.flops)
    found["flops_formula"] = dit.flops(options["task"], tokens(shape))
    if whole:
        trace, _ = follow(options, shape, count, swapped)
        found["all_blocks"] = max(map(Counter.total, trace.peaks.values()))
        for kind, expandable in (("reserved", False), ("expandable", True)):
            found[kind] = reserved(trace.events, expandable=expandable)
            found[f"{kind}_formula"] = memory.of(options, tokens(shape), expandable=expandable).reserved
    return found


def sampling_row(name: str, _: bool) -> dict[str, Any]:
    """The figures of a case of SAMPLING, in bytes."""
    from fake_sampling import decode, denoise  # needs the folder

    shape, changes, options = SAMPLING[name]
    need = sampling_memory.SamplingNeed(size=shape[:2], frames=shape[2], **changes)
    (passes, resting), coding = denoise(need, options), decode(shape, bool(options.get(sampling_memory.CACHE)))
    found = {"case": name, "shape": shape, "need": changes, "options": options, "tokens": tokens(shape)}
    for end, expandable in (("", False), ("_expandable", True)):
        found[f"denoising{end}"] = reserved(passes.events, expandable=expandable)
        found[f"decoding{end}"] = sum(reserved(each, expandable=expandable) for each in (resting, coding.events))
        formula = sampling_memory.of_sampling(need, options, expandable=expandable)
        for stage in ("denoising", "decoding"):
            found[f"{stage}{end}_formula"] = getattr(formula, stage) - round(memory.CONTEXT * GIB)
    return found


def words(found: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [
        f"{found['case']:20}{found['tokens']:7}",
        *(f"{found[kind] / GIB:6.2f}" for kind in KINDS if kind in found),
    ]
    for name, unit in UNITS.items():
        if name in found:
            cells.append(
                f" | {found[name] / unit:7.3f} {found[name + '_formula'] / unit:7.3f} {beside(found, name):+6.1%}"
            )
    return " ".join(cells)


def beside(found: dict[str, Any], name: str) -> float:
    """The formula's difference, as a share."""
    return float(found[f"{name}_formula"] / found[name] - 1)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sampling", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[*CASES, *SAMPLING], metavar="CASE")
    parser.add_argument("--reserved", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sys.path.append(str(args.folder / "src"))
    rows = list[dict[str, Any]]()
    cases, follow = (SAMPLING, sampling_row) if args.sampling else (CASES, row)
    for name in args.only or cases:
        with contextlib.redirect_stdout(io.StringIO()):  # upstream prints
            rows.append(follow(name, args.reserved))
        if not args.json:
            print(words(rows[-1]), flush=True)
    if args.json:
        print(json.dumps(rows))
    return int(any(abs(beside(each, name)) > most for each in rows for name, most in WORST.items() if name in each))


if __name__ == "__main__":
    sys.exit(main())
