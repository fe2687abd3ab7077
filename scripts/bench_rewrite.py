"""How fast a merge is, and how much memory it takes: against a plain merge in memory, and against cp.

    python scripts/bench_rewrite.py                 # 6 blocks of the 14B model: a DiT of 4.2 GB
    python scripts/bench_rewrite.py --blocks 40     # all of it: 28 GB, twice on disk; --no_plain spares the memory

Made up numbers in the shapes and types of Wan 2.2 T2V (fp16) and of Lightning (fp32, rank 64, alpha 8). Each
contestant reads from a warm cache where the file fits into it, and ends with its bytes on the disk.
Needs a Python with torch, safetensors and wanwrap.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from wanwrap.system.safetensors import sha256

DIM, FFN, RANK = 5120, 13824, 64
AIM_MEMORY, AIM_CP, AIM_PLAIN = 1.0, 2.0, 4.0  # GB, times cp's time, times faster than in memory


def shapes(blocks: int) -> Iterator[tuple[str, list[int]]]:
    """The tensors of a DiT without what lies outside its blocks."""
    for block in range(blocks):
        for attention in ("self_attn", "cross_attn"):
            for name in "qkvo":
                yield f"blocks.{block}.{attention}.{name}.weight", [DIM, DIM]
                yield f"blocks.{block}.{attention}.{name}.bias", [DIM]
        yield f"blocks.{block}.ffn.0.weight", [FFN, DIM]
        yield f"blocks.{block}.ffn.2.weight", [DIM, FFN]
        yield f"blocks.{block}.modulation", [1, 6, DIM]


def lora_shapes(blocks: int) -> Iterator[tuple[str, list[int]]]:
    """Lightning's tensors for them; an empty shape is alpha."""
    for name, shape in shapes(blocks):
        if len(shape) == 2:
            module = f"diffusion_model.{name.removesuffix('.weight')}"
            yield f"{module}.lora_down.weight", [RANK, shape[1]]
            yield f"{module}.lora_up.weight", [shape[0], RANK]
            yield f"{module}.alpha", []


def make(path: Path, tensors: list[tuple[str, list[int]]], dtype: str) -> None:
    """Write random numbers tensor by tensor: the file may be larger than the memory."""
    import torch

    types = {"F16": torch.float16, "F32": torch.float32, "I64": torch.int64}
    values = {name: dtype if shape else "I64" for name, shape in tensors}
    rows, end = {}, 0
    for name, shape in tensors:
        size = types[values[name]].itemsize * torch.Size(shape).numel()
        rows[name] = {"dtype": values[name], "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(rows).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            number = torch.randn(shape) * 0.02 if shape else torch.tensor(8)
            file.write(number.to(types[values[name]]).numpy().tobytes())


def plain(dit: str, lora: str, out: str) -> None:
    """What everybody writes: all of it in memory, merged, saved."""
    from safetensors.torch import load_file, save_file

    weights, delta = load_file(dit), load_file(lora)
    for key in [key for key in delta if key.endswith(".lora_down.weight")]:
        module = key.removesuffix(".lora_down.weight")
        up, down = delta[f"{module}.lora_up.weight"].float(), delta[key].float()
        name = f"{module.removeprefix('diffusion_model.')}.weight"
        change = (up @ down) * (float(delta[f"{module}.alpha"]) / down.shape[0])
        weights[name] = (weights[name].float() + change).to(weights[name].dtype)
    save_file(weights, out)
    subprocess.run(["sync", out], check=True)


def measured(argv: list[str], out: Path) -> tuple[float, float]:
    """Seconds, and the most GB that a command and its children held at once."""
    out.unlink(missing_ok=True)
    os.sync()
    began, most = time.perf_counter(), 0
    process = psutil.Popen(argv, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        most = max(most, _held(process))
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{argv} failed with {process.returncode}")
    return time.perf_counter() - began, most / 1e9


def _held(process: psutil.Process) -> int:
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def main() -> None:
    """Make the files, run the contestants in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="the best of as many counts")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: the system's for such)")
    parser.add_argument(
        "--no_plain", action="store_true", help="leave the merge in memory out: it holds three times the file"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        dit, lora, out = (Path(folder, f"{name}.safetensors") for name in ("dit", "lora", "out"))
        make(dit, list(shapes(arguments.blocks)), "F16")
        make(lora, list(lora_shapes(arguments.blocks)), "F32")
        merge = [sys.executable, "-m", "wanwrap", "merge", "--dit", str(dit), "--lora", str(lora), "--out", str(out)]
        contestants = {
            "cp and sync": ["sh", "-c", f"cp {dit} {out} && sync {out}"],
            "wanwrap merge": merge,
            "with sha256": [*merge, "--dit_sha256", sha256(dit)],  # as a run does with published files
            "merge in memory": [sys.executable, __file__, "--plain", str(dit), str(lora), str(out)],
        }
        if arguments.no_plain:
            del contestants["merge in memory"]
        best = dict.fromkeys(contestants, (float("inf"), 0.0))
        for _ in range(arguments.rounds):
            for name, argv in contestants.items():
                seconds, held = measured(argv, out)
                print(f"{name:<16} {seconds:6.1f} s {held:6.2f} GB", flush=True)
                best[name] = min(best[name][0], seconds), max(best[name][1], held)
        report(best, dit.stat().st_size / 1e9)


def report(best: dict[str, tuple[float, float]], size: float) -> None:
    """The ratios beside their aims."""
    seconds, held = best["wanwrap merge"]
    print(f"\nDiT of {size:.1f} GB, best of all rounds (memory: most of all rounds)")
    print(f"peak memory             {held:5.2f} GB  (aim: {AIM_MEMORY} at most)")
    print(f"time against cp + sync  {seconds / best['cp and sync'][0]:5.2f}     (aim: {AIM_CP} at most)")
    print(f"... with the sha256     {best['with sha256'][0] / best['cp and sync'][0]:5.2f}")
    if "merge in memory" in best:
        print(f"faster than in memory   {best['merge in memory'][0] / seconds:5.2f}     (aim: {AIM_PLAIN} at least)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plain"]:
        plain(*sys.argv[2:])
    else:
        main()
