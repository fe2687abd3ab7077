"""What a verdict costs: `wanwrap inspect` of 100 DiTs of 28.6 GB, sparse, with the true header of Wan T2V 14B.

    python scripts/bench_inspect.py

Prints seconds of whole processes, and of the verdicts alone; the limit is one second.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from weightfiles import rows, sparse

from wanwrap.weights.identify import look

FILES, ROUNDS, LIMIT = 100, 5, 1.0


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        made = [sparse(Path(name, f"wan2.2_t2v_high_noise_{n}.safetensors"), rows("t2v-14B")) for n in range(FILES)]
        size = made[0].stat().st_size
        argv = [sys.executable, "-m", "wanwrap", "inspect", "--json", *map(str, made)]
        whole = min(timed(lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)) for _ in range(ROUNDS))
        alone = min(timed(lambda: [look(path) for path in made]) for _ in range(ROUNDS))
        print(
            f"{FILES} files of {size:,} bytes: {whole:.2f} s with Python's start, {alone:.2f} s alone (limit {LIMIT:g})"
        )


def timed(work: object) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    assert callable(work)
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
