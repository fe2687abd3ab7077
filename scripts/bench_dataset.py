"""How long `wanwrap check` takes over many pictures, a first and a second time, and how much memory.

    python scripts/bench_dataset.py [--files 10000] [--folder KEPT]

Draws small pictures with captions in a temporary folder (or in one that is kept for the next time), with a cache of
its own, and runs `check` in a process of its own. Ends with 1 if a limit is missed: the second time 2 s for 10,000
files, memory 300 MB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SECOND, MEMORY = 2.0, 300  # seconds, MB


def draw(folder: Path, number: int) -> None:
    """Pictures of a few sizes, each of another colour and pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(list(folder.glob("*.jpg"))), number):
        tile = Image.frombytes("RGB", (4, 4), (index * 2654435761).to_bytes(8, "little") * 6)
        tile.resize((96 + index % 7 * 16, 96 + index % 5 * 16), Image.Resampling.BICUBIC).save(
            folder / f"{index:06}.jpg"
        )
        (folder / f"{index:06}.txt").write_text(f"picture number {index}, a pattern of colours", encoding="utf-8")


def check(folder: Path, env: dict[str, str]) -> tuple[float, float]:
    """Seconds, and MB at most."""
    began = time.perf_counter()
    argv = [sys.executable, "-m", "wanwrap", "check", str(folder), "--preset", "t2v-style", "--json"]
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
        time.sleep(2.5)  # a file written a moment ago is not kept
        first, first_memory = check(folder, env)
        second, memory = check(folder, env)
    print(
        f"{args.files} pictures: first {first:.1f} s, {first_memory:.0f} MB at most; again {second:.2f} s, {memory:.0f} MB"
    )
    print(f"limits: {SECOND * args.files / 10_000:.2f} s the second time, {MEMORY} MB")
    return int(second > SECOND * args.files / 10_000 or max(first_memory, memory) > MEMORY)


if __name__ == "__main__":
    sys.exit(main())
