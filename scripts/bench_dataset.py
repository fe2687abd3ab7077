"""How long `wanwrap check` takes over many pictures and clips, a first and a second time, and how much memory.

    python scripts/bench_dataset.py [--files 10000] [--folder KEPT]

Draws small pictures, and one clip for every nine of them, with captions in a temporary folder (or in one that is kept
for the next time), and runs `check` in a process of its own with a cache of its own. Ends with 1 if a limit is missed:
the second time 2 s for 10,000 files (half a second of it to start), memory 300 MB. For Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
START, SECOND, MEMORY = 0.5, 2.0, 300  # seconds, MB


def draw(folder: Path, number: int) -> None:
    """Pictures of a few sizes, each of another colour and pattern, and clips."""
    folder.mkdir(parents=True, exist_ok=True)
    film = folder / "000000.mp4"
    for index in range(len(list(folder.glob("*.txt"))), number):
        stem = folder / f"{index:06}"
        stem.with_suffix(".txt").write_text(f"number {index}, a pattern of colours", encoding="utf-8")
        if index == 0:
            write_clip(film)
        elif index % 10 == 0:
            shutil.copyfile(film, stem.with_suffix(".mp4"))
        else:
            tile = Image.frombytes("RGB", (4, 4), random.Random(index).randbytes(48))
            size = 96 + index % 7 * 16, 96 + index % 5 * 16
            tile.resize(size, Image.Resampling.BICUBIC).save(stem.with_suffix(".jpg"))


def write_clip(path: Path) -> None:
    """Two seconds at 24 fps."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(48):
            frame = av.VideoFrame.from_image(Image.new("RGB", (96, 64), (index * 5, 90, 160)))  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def check(folder: Path, env: dict[str, str]) -> tuple[float, float]:
    """Seconds, and MB at most."""
    began = time.perf_counter()
    argv = [sys.executable, "-m", "wanwrap", "check", str(folder), "--preset", "t2v-vanilla", "--json"]
    with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, cwd=ROOT) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> int:
    """Print both; 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "pictures"
        draw(folder, args.files)
        env = {**os.environ, "XDG_CACHE_HOME": f"{temporary}/cache", "PYTHONPATH": str(ROOT)}
        first, first_memory = check(folder, env)
        second, memory = check(folder, env)
    limit = START + (SECOND - START) * args.files / 10_000
    print(
        f"{args.files} files: first {first:.1f} s, {first_memory:.0f} MB at most; again {second:.2f} s, {memory:.0f} MB"
    )
    print(f"limits: {limit:.2f} s the second time, {MEMORY} MB")
    return int(second > limit or max(first_memory, memory) > MEMORY)


if __name__ == "__main__":
    sys.exit(main())
