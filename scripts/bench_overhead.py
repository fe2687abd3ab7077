"""What wanwrap costs while upstream trains: its own CPU time and memory, with the stand-in for upstream.

python scripts/bench_overhead.py [--seconds 60] [--pace 0.2]

Limits: 1 % of a core, 60 MB. A step takes `pace` seconds, a state is saved every few of them: real steps take
5 to 40 s, so that what is printed and saved here in a minute comes in half an hour there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from helpers import PYTHONPATH, STANDIN, clip, dit, picture, safetensors  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pace", type=float, default=0.2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(*command(Path(folder), args.pace)) as process:
        mine = psutil.Process(process.pid)
        while not any(trains(each) for each in mine.children(recursive=True)):
            time.sleep(0.2)
        time.sleep(5)
        before, began = cpu(mine), time.monotonic()
        time.sleep(args.seconds)
        share, memory = (cpu(mine) - before) / (time.monotonic() - began), mine.memory_info().rss
        watchdog = next(each for each in mine.children() if "watchdog.py" in " ".join(each.cmdline())).memory_info().rss
        mine.terminate()
    print(f"wanwrap: {100 * share:.2f} % of a core (limit 1), {memory / 1e6:.0f} MB (limit 60)")
    print(f"its watchdog: {watchdog / 1e6:.0f} MB")


def trains(process: psutil.Process) -> bool:
    """Whether it is upstream's trainer; those before it come and go."""
    with suppress(psutil.Error):
        return "wan_train_network" in " ".join(process.cmdline())
    return False


def cpu(process: psutil.Process) -> float:
    """Seconds of CPU time of the process itself."""
    times = process.cpu_times()
    return float(times.user + times.system)


def command(folder: Path, pace: float) -> tuple[list[str]]:
    """A run of two experts that takes longer than anyone looks."""
    clip(folder / "cats" / "a.mp4", frames=73, size=(1280, 720))
    for number in range(10):
        picture(folder / "cats" / f"{number}.png")
    weights = {"dit_high": dit(folder / "high.safetensors"), "dit_low": dit(folder / "low.safetensors")}
    tensors = {"decoder.conv1.weight": ("F16", [1]), "conv2.weight": ("F16", [16])}
    weights |= {"vae": safetensors(folder / "vae.safetensors", tensors), "t5": folder / "t5.pth"}
    weights["t5"].write_bytes(b"PK\x03\x04")
    os.environ.pop("WANWRAP_PYTHON", None)
    os.environ |= {"PYTHONPATH": PYTHONPATH, "WANWRAP_MUSUBI_DIR": str(STANDIN), "STANDIN_PACE": str(pace)}
    os.environ |= {"STANDIN_RECORD": str(folder / "record.jsonl"), "HF_HUB_OFFLINE": ""}
    given = [word for name, path in weights.items() for word in (f"--{name}", str(path))]
    run = ["run", "t2v-vanilla", str(folder / "cats"), "--epochs", "500", "--base_dir", str(folder / "w")]
    return ([sys.executable, "-m", "wanwrap", *run, *given],)


if __name__ == "__main__":
    main()
