"""pip with the index and the versions that upstream's checkout names for a build of torch.

Run by its path, this module is that pip: before the checkout is there, nobody knows the index.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from wanwrap.errors import UpstreamError, WanwrapError
from wanwrap.paths import PACKAGE
from wanwrap.system import process
from wanwrap.system.shell import joined


def command(python: str, checkout: Path, build: str, *words: str) -> tuple[str, ...]:
    """`pip install` of `words` from that build's index; by way of this module where there is no checkout yet."""
    if (checkout / "pyproject.toml").is_file():
        return from_checkout(python, checkout, build, *words)
    return (sys.executable, str(PACKAGE / "machine" / "torch_index.py"), python, str(checkout), build, *words)


def from_checkout(python: str, checkout: Path, build: str, *words: str) -> tuple[str, ...]:
    """The same of the checkout that is there; a bare `torch` gets the bounds of its extra, "cpu" those of cu130.

    Raises:
        UpstreamError: the checkout has no such extra.
    """
    import tomlkit

    try:
        project: Any = tomlkit.parse((checkout / "pyproject.toml").read_text(encoding="utf-8")).unwrap()
        extra = project["project"]["optional-dependencies"]["cu130" if build == "cpu" else build]
        urls = {index["name"]: index["url"] for index in project["tool"]["uv"]["index"]} if build != "cpu" else {}
        index = [] if build == "cpu" else ["--index-url", urls[f"pytorch-{build}"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UpstreamError(
            f"the pyproject.toml in {checkout} names no PyTorch for {build}; give another --torch, "
            f"or install torch and torchvision into {python} yourself."
        ) from error
    bounds = {re.split(r"[^\w.-]", each)[0]: each for each in extra} if "torch" in words else {}
    return (python, "-m", "pip", "install", *(bounds.get(word, word) for word in words), *index)


def main(python: str, checkout: str, build: str, *words: str) -> None:
    """Be pip."""
    argv = from_checkout(python, Path(checkout), build, *words)
    print("+", joined(argv), flush=True)
    if os.name == "posix":
        os.execvp(argv[0], argv)
    sys.exit(process.run(process.Command(argv, Path.cwd()), sys.stdout.buffer.write))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except WanwrapError as error:
        sys.exit(f"Error: {error}")
