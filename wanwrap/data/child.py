"""Reads files in a process of its own: what decoders take goes with it, and one that crashes ends nothing else.

    python child.py    (standard input: {"kind": ..., "whole": ..., "threads": ..., "paths": [...]})

Prints JSON lines: [path, null] when it begins with a file, [path, what was found] when it is through.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from wanwrap.data.read import Row, look


def main() -> None:
    """Read each file that is asked for."""
    asked, printing = json.load(sys.stdin), Lock()

    def say(path: str, found: Row | None) -> None:
        with printing:
            print(json.dumps([path, found]), flush=True)

    def read(path: str) -> None:
        say(path, None)
        say(path, look(Path(path), asked["kind"], asked["whole"]))

    with ThreadPoolExecutor(asked["threads"]) as pool:
        list(pool.map(read, asked["paths"]))  # which raises what one of them did


if __name__ == "__main__":
    main()
