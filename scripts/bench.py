"""What wanwrap costs, against its limits; ends with 1 where one is missed.

    python scripts/bench.py                 # all of it: some minutes, 15 GB of disk
    python scripts/bench.py start merge     # some of start, headers, dataset, overhead, merge

Timings of a busy machine say nothing; where it is cheap the best of several rounds is taken. For Linux, with the
packages of the tests.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from helpers import PYTHONPATH, STANDIN, clip, picture, toy_weights  # noqa: E402
from weightfiles import rows, sparse  # noqa: E402

WANWRAP = [sys.executable, "-m", "wanwrap"]
DIM, FFN, RANK = 5120, 13824, 64  # of Wan 14B, and of Lightning


class Result(NamedTuple):
    """A figure, and the most that it may be."""

    what: str
    value: float
    limit: float
    unit: str


def run(argv: list[str], folder: Path, **env: str) -> tuple[float, float]:
    """Seconds of a command, and the most MB that it and its children held at once (looked at ten times a second)."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("WANWRAP_")}
    whole = {**mine, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache"), **env}
    whole.pop("PYTHONDONTWRITEBYTECODE", None)
    began, most = time.perf_counter(), 0.0
    with psutil.Popen(argv, cwd=folder, env=whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with suppress(psutil.Error):
                most = max(most, sum(each.memory_info().rss for each in (process, *process.children(recursive=True))))
            with suppress(psutil.TimeoutExpired):
                process.wait(0.1)
    if process.returncode:
        sys.exit(f"{argv} failed with {process.returncode}")
    return time.perf_counter() - began, most / 1e6


def start(folder: Path) -> Iterator[Result]:
    """Help, and a dry run on 100 pictures, beyond bare Python; in turns, so that a slow moment hits all alike."""
    for number in range(100):
        picture(folder / "data" / f"{number}.jpg", (1024, 768))
    dry = [*WANWRAP, "run", "t2v-vanilla", str(folder / "data"), "--dry_run"]
    commands = {"bare": [sys.executable, "-c", "pass"], "--help": [*WANWRAP, "--help"], "dry run": dry}
    env = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    rounds = [{name: run(argv, folder, **env)[0] for name, argv in commands.items()} for _ in range(15)]
    best = {name: min(times[name] for times in rounds) for name in commands}
    yield Result("--help beyond bare Python", 1000 * (best["--help"] - best["bare"]), 100, "ms")
    yield Result("a dry run on 100 pictures beyond it", 1000 * (best["dry run"] - best["bare"]), 200, "ms")


def headers(folder: Path) -> Iterator[Result]:
    """100 sparse files with the true header of Wan T2V 14B."""
    names = [f"wan2.2_t2v_high_noise_{number}.safetensors" for number in range(100)]
    made = [str(sparse(folder / name, rows("t2v-14B"))) for name in names]
    best = min(run([*WANWRAP, "inspect", "--json", *made], folder)[0] for _ in range(5))
    yield Result("inspect of 100 DiTs of 28.6 GB", best, 1, "s")


def dataset(folder: Path, files: int = 10_000) -> Iterator[Result]:
    """Small pictures, one clip for every nine of them."""
    data = folder / "data"
    film = clip(data / "film.mp4", frames=48, fps=24, size=(96, 64))
    for number in range(files):
        path = data / f"{number:06}"
        path.with_suffix(".txt").write_text(f"number {number}, a pattern of colours", encoding="utf-8")
        if number % 10:
            draw(path.with_suffix(".jpg"), number)
        else:
            shutil.copyfile(film, path.with_suffix(".mp4"))
    check = [*WANWRAP, "check", str(data), "--preset", "t2v-vanilla", "--json"]
    first, second = run(check, folder), run(check, folder)
    print(f"  {files} files the first time: {first[0]:.1f} s", file=sys.stderr)
    yield Result(f"check of {files} files, a second time", second[0], 2, "s")
    yield Result("its memory", max(first[1], second[1]), 300, "MB")


def draw(path: Path, number: int) -> None:
    """A picture of one of 35 sizes, with a pattern of its own."""
    from PIL import Image

    tile = Image.frombytes("RGB", (4, 4), random.Random(number).randbytes(48))
    tile.resize((96 + number % 7 * 16, 96 + number % 5 * 16), Image.Resampling.BICUBIC).save(path)


def overhead(folder: Path) -> Iterator[Result]:
    """wanwrap itself beside a stand-in that takes 0.2 s a step: a minute of it is half an hour of real training."""
    data = folder / "cats"
    clip(data / "a.mp4", frames=73, size=(1280, 720))
    for number in range(10):
        picture(data / f"{number}.png")
    run = ["run", "t2v-vanilla", str(data), "--epochs", "500", "--base_dir", str(folder / "w")]
    argv = [*WANWRAP, *run, *toy_weights(folder / "weights")]
    env = {"WANWRAP_MUSUBI_DIR": str(STANDIN), "STANDIN_PACE": "0.2", "STANDIN_RECORD": str(folder / "record")}
    env |= {"PYTHONPATH": PYTHONPATH, "WANWRAP_PYTHON": sys.executable, "HF_HUB_OFFLINE": ""}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with psutil.Popen(argv, env={**os.environ, **env}, **quiet) as process:
        try:
            while not any(map(trains, process.children(recursive=True))):
                if process.poll() is not None:
                    sys.exit(f"{argv} ended with {process.returncode}")
                time.sleep(0.5)
            time.sleep(5)
            before, began = process.cpu_times(), time.monotonic()
            time.sleep(60)
            now, seconds = process.cpu_times(), time.monotonic() - began
            memory = process.memory_info().rss / 1e6
        finally:
            process.terminate()
    yield Result("CPU beside a training", 100 * (now.user + now.system - before.user - before.system) / seconds, 1, "%")
    yield Result("memory beside a training", memory, 60, "MB")


def trains(process: psutil.Process) -> bool:
    """Whether it is upstream's trainer; those before it come and go."""
    with suppress(psutil.Error):
        return "wan_train_network" in " ".join(process.cmdline())
    return False


def merge(folder: Path, blocks: int = 6) -> Iterator[Result]:
    """Some blocks of the 14B model (6: 4.2 GB) with Lightning's LoRA, against cp, and bit for bit against torch."""
    source, lora, out = (folder / f"{name}.safetensors" for name in ("dit", "lora", "out"))
    fill(source, shapes(blocks), "F16")
    fill(lora, lora_shapes(blocks), "F32")
    best = dict.fromkeys(("cp", "merge"), math.inf)
    most = 0.0
    for _ in range(4):
        for name in best:
            out.unlink(missing_ok=True)
            if sys.platform != "win32":
                os.sync()
            argv = ["sh", "-c", f"cp {source} {out} && sync {out}"]
            if name == "merge":
                argv = [*WANWRAP, "merge", "--dit", str(source), "--lora", str(lora), "--out", str(out)]
            seconds, memory = run(argv, folder)
            best[name], most = min(best[name], seconds), max(most, memory if name == "merge" else 0)
    size = source.stat().st_size / 1e9
    yield Result(f"merge into {size:.1f} GB, as a multiple of cp and sync", best["merge"] / best["cp"], 1.3, "")
    yield Result("its memory", most, 500, "MB")
    yield Result("its tensors that are not those of torch", differences(source, lora, out), 0, "")


def shapes(blocks: int) -> dict[str, list[int]]:
    """The tensors of a DiT without what lies outside its blocks."""
    found = dict[str, list[int]]()
    for block in range(blocks):
        for name in (f"blocks.{block}.{kind}_attn.{each}" for kind in ("self", "cross") for each in "qkvo"):
            found |= {f"{name}.weight": [DIM, DIM], f"{name}.bias": [DIM]}
        found |= {f"blocks.{block}.ffn.0.weight": [FFN, DIM], f"blocks.{block}.ffn.2.weight": [DIM, FFN]}
        found[f"blocks.{block}.modulation"] = [1, 6, DIM]
    return found


def lora_shapes(blocks: int) -> dict[str, list[int]]:
    """Lightning's tensors for them; an empty shape is alpha."""
    found = dict[str, list[int]]()
    for name, shape in shapes(blocks).items():
        if name.endswith(".weight"):
            module = f"diffusion_model.{name.removesuffix('.weight')}"
            found |= {f"{module}.lora_down.weight": [RANK, shape[1]], f"{module}.lora_up.weight": [shape[0], RANK]}
            found[f"{module}.alpha"] = []
    return found


def fill(path: Path, tensors: dict[str, list[int]], dtype: str) -> None:
    """Random numbers, those of one shape alike: 4 GB of them would take longer than the merge."""
    import torch

    kind, made = {"F16": torch.float16, "F32": torch.float32}[dtype], dict[tuple[int, ...], bytes]()
    table, end = dict[str, Any](), 0
    for name, shape in tensors.items():
        number = torch.randn(shape) * 0.02 if shape else torch.tensor(8.0)
        made.setdefault(tuple(shape), number.to(kind).numpy().tobytes())
        begin, end = end, end + len(made[tuple(shape)])
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            file.write(made[tuple(shape)])


def differences(source: Path, lora: Path, out: Path) -> int:
    """Tensors of `out` that are not W + alpha / rank * up @ down, in fp32 and rounded once."""
    from safetensors import safe_open

    count = 0
    with safe_open(source, "pt") as weights, safe_open(lora, "pt") as delta, safe_open(out, "pt") as merged:
        for name in weights.keys():  # noqa: SIM118  it is no dict
            wanted, module = weights.get_tensor(name), f"diffusion_model.{name.removesuffix('.weight')}"
            if name.endswith(".weight"):
                up, down = (delta.get_tensor(f"{module}.lora_{part}.weight") for part in ("up", "down"))
                scale = float(delta.get_tensor(f"{module}.alpha")) / RANK
                wanted = (wanted.float() + (up @ down) * scale).to(wanted.dtype)
            count += not wanted.equal(merged.get_tensor(name))
    return count


BENCHES: dict[str, Callable[[Path], Iterator[Result]]] = {
    bench.__name__: bench for bench in (start, headers, dataset, overhead, merge)
}


def main() -> int:
    """Print a line for each figure; 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--folder", type=Path, help="where files are made (default: the system's for such)")
    arguments, missed = parser.parse_args(), 0
    for name in arguments.names or BENCHES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for result in BENCHES[name](Path(folder)):
                over = result.value > result.limit
                missed += over
                limit = f"limit {result.limit:g}{', MISSED' if over else ''}"
                print(f"{name}: {result.what}: {result.value:.4g} {result.unit}".rstrip(), f"({limit})", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
