"""What wanwrap's start costs beyond bare Python: `--help`, and a dry run on 100 pictures.

    python scripts/bench_startup.py

Prints the medians of whole processes, interleaved so that a slow moment of the machine hits all alike.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROUNDS, PICTURES = 15, 100
LIMITS = {"--help": 100, "dry run": 200}  # ms beyond bare Python


def data_set(folder: Path) -> Path:
    """100 small pictures with captions."""
    for index in range(PICTURES):
        Image.new("RGB", (1024, 768)).save(folder / f"{index}.jpg")
        (folder / f"{index}.txt").write_text("a black picture")
    return folder


def once(argv: list[str], cwd: Path) -> float:
    """Milliseconds of one process."""
    begin = time.perf_counter()
    subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1000


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)
        (cwd / "data").mkdir()
        wanwrap = [sys.executable, "-m", "wanwrap"]
        commands = {
            "bare Python": [sys.executable, "-c", "pass"],
            "--help": [*wanwrap, "--help"],
            "dry run": [*wanwrap, "run", "t2v-vanilla", "--dataset", str(data_set(cwd / "data")), "--dry_run"],
        }
        times: dict[str, list[float]] = {what: [] for what in commands}
        for _ in range(ROUNDS):
            for what, argv in commands.items():
                times[what].append(once(argv, cwd))
    bare = statistics.median(times["bare Python"])
    print(f"bare Python: {bare:.0f} ms")
    for what, limit in LIMITS.items():
        print(f"{what}: {statistics.median(times[what]) - bare:.0f} ms more (limit {limit})")


if __name__ == "__main__":
    main()
