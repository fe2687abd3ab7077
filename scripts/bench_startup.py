"""What wanwrap's start costs beyond bare Python: `--help`, and a dry run on 100 pictures.

    python scripts/bench_startup.py

Prints the medians of whole processes, interleaved so that a slow moment of the machine hits all alike; the first
round, which writes bytecode and looks into the pictures, does not count. Ends with 1 if a limit is missed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, PICTURES = 15, 100
LIMITS = {"--help": 100, "dry run": 200}  # ms beyond bare Python


def data_set(folder: Path) -> Path:
    """100 small pictures with captions."""
    for index in range(PICTURES):
        Image.new("RGB", (1024, 768)).save(folder / f"{index}.jpg")
        (folder / f"{index}.txt").write_text("a black picture")
    return folder


def once(argv: list[str], cwd: Path) -> float:
    """Milliseconds of one process, with bytecode whatever the environment says of it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(cwd / "bytecode"), "XDG_CACHE_HOME": str(cwd / "cache")}
    begin = time.perf_counter()
    subprocess.run(argv, cwd=cwd, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1000


def main() -> int:
    """Measure and print; 1 if a limit is missed."""
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)
        (cwd / "data").mkdir()
        wanwrap = [sys.executable, "-m", "wanwrap"]
        commands = {
            "bare Python": [sys.executable, "-c", "pass"],
            "--help": [*wanwrap, "--help"],
            "dry run": [*wanwrap, "run", "t2v-vanilla", str(data_set(cwd / "data")), "--dry_run"],
        }
        rounds = [{what: once(argv, cwd) for what, argv in commands.items()} for _ in range(ROUNDS + 1)][1:]
    median = {what: statistics.median(times[what] for times in rounds) for what in commands}
    bare = median["bare Python"]
    print(f"bare Python: {bare:.0f} ms")
    for what, limit in LIMITS.items():
        print(f"{what}: {median[what] - bare:.0f} ms more (limit {limit})")
    return int(any(median[what] - bare > limit for what, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
