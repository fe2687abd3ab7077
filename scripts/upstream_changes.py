"""What has changed upstream, between the pinned commit and another one, in everything that wanwrap knows of it.

    python scripts/upstream_changes.py MUSUBI_TUNER_CLONE [COMMIT]     (default: HEAD)

Prints Markdown: options that came, went or changed, and the differences of each file that wanwrap/upstream/ or
wanwrap/rehearsal/ names as its source. Ends with 1 where there is any, else with 0.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from upstream_flags import PARSERS, TABLE, read

from wanwrap.upstream.pin import COMMIT

HOUSE = Path(__file__).resolve().parent.parent / "wanwrap"
ROOMS = ("upstream", "rehearsal")
PACKAGE = "src/musubi_tuner"
LONGEST = 400  # lines of one file's differences


def git(clone: Path, *words: str) -> bytes:
    """What git prints. Raises CalledProcessError."""
    return subprocess.run(["git", "-C", str(clone), *words], check=True, capture_output=True).stdout


def sources(clone: Path) -> list[str]:
    """The files of the pinned commit that wanwrap names, by their paths in it."""
    texts = (path.read_text(encoding="utf-8") for room in ROOMS for path in (HOUSE / room).rglob("*.py"))
    named = {name for text in texts for name in re.findall(r"[\w/]+\.py", text)}
    named |= {f"{PACKAGE}/{file}" for parts in PARSERS.values() for file, _ in parts}
    there = git(clone, "ls-tree", "-r", "--name-only", COMMIT, PACKAGE, "pyproject.toml").decode().splitlines()
    return [path for path in there if any(f"/{path}".endswith(f"/{name}") for name in (*named, "pyproject.toml"))]


def options(clone: Path, commit: str) -> Iterator[str]:
    """A line for each option that differs from those that wanwrap checks against."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(git(clone, "archive", commit))) as archive:
            archive.extractall(folder)
        try:
            new = read(Path(folder))["scripts"]
        except Exception as error:  # a file or a function is where it was no more
            yield f"- they can't be read any more, see scripts/upstream_flags.py: {error!r}"
            return
    old: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))["scripts"]
    for script in old:
        for name in sorted({*old[script], *new[script]}):
            before, after = old[script].get(name), new[script].get(name)
            if before != after:
                yield f"- `{script} {name}`: {before or 'not there'} -> {after or 'gone'}"


def differences(clone: Path, commit: str) -> Iterator[str]:
    """What has changed in each source, as a diff."""
    for path in sources(clone):
        lines = git(clone, "diff", COMMIT, commit, "--", path).decode("utf-8", "replace").splitlines()
        if lines:
            more = [f"... and {len(lines) - LONGEST} lines more"] if len(lines) > LONGEST else []
            yield "\n".join([f"## {path}\n", "```diff", *lines[:LONGEST], *more, "```\n"])


def main() -> int:
    """Print it all."""
    clone, commit = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "HEAD"
    found = [*options(clone, commit)]
    changed = [*differences(clone, commit)]
    print(f"# musubi-tuner: {COMMIT[:7]} -> {commit}\n")
    print(f"{len(found)} options and {len(changed)} files that wanwrap knows have changed.\n")
    print("\n".join([*found, "", *changed]))
    return int(bool(found or changed))


if __name__ == "__main__":
    sys.exit(main())
