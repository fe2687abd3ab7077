"""Upstream musubi-tuner: where it is, and whether it is the one that wanwrap is checked against."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from wanwrap.errors import UpstreamError
from wanwrap.paths import absolute

VERSION = "0.3.4"
COMMIT = "30c658c4f4b0bf05038b3346eff9670259b10fc7"
PYTHONS = ("3.10", "3.11", "3.12")  # its requires-python
URL = "https://github.com/kohya-ss/musubi-tuner"
# What `wanwrap setup` installs of what a training imports, by module: how pip is told.
PIP = {
    "torch": "torch torchvision",
    "accelerate": "accelerate==1.6.0",
    "bitsandbytes": "bitsandbytes",
    "transformers": "transformers==4.57.6",
    "tensorboard": "tensorboard",
    "xformers": "xformers",
    "flash_attn": "flash-attn --no-build-isolation",
}
# What its Wan scripts import at their start, and comes with it (read from its code and its pyproject.toml).
NEEDS = ("accelerate", "av", "cv2", "diffusers", "easydict", "einops", "ftfy", "toml", "transformers", "voluptuous")
BROUGHT = {*NEEDS, "bitsandbytes"}  # with upstream, of which the second is imported only where options want it
BRINGS = {*PIP, *NEEDS, "torchvision"}  # all modules that `wanwrap setup` brings
# Upstream prints Japanese, whatever the terminal speaks; its progress is to be seen at once.
SETTINGS = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
MARK = Path("src", "musubi_tuner", "wan_train_network.py")


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A checkout, or with `folder` None the package that is installed in the training Python.

    `child` is a rehearsal's script around upstream's own.
    """

    folder: Path | None = None
    version: str | None = None
    commit: str | None = None
    child: str = ""

    @property
    def env(self) -> dict[str, str]:
        """What makes `-m musubi_tuner.wan_...` find a checkout."""
        return {"PYTHONPATH": str(self.folder / "src")} if self.folder else {}

    def start(self, script: str) -> tuple[str, ...]:
        """How python, or accelerate, is told to run one of upstream's scripts."""
        return (self.child, script) if self.child else ("-m", f"musubi_tuner.{script}")

    def remarks(self) -> list[str]:
        """What is to be said of it when it runs."""
        if complaint := self.complaint():
            return [f"warning: {complaint}"]
        unknown = f"note: musubi-tuner's commit is not known; its version, {self.version}, is the right one."
        return [] if self.commit else [unknown]

    def complaint(self) -> str | None:
        """How this one differs from the pinned one, with a way out; None where it does not."""
        if self.commit == COMMIT or (self.commit is None and self.version == VERSION):
            return None
        where = f"in {self.folder}" if self.folder else "in the training Python"
        return (
            f"musubi-tuner {where} is {self.commit or self.version or 'of no known version'}; wanwrap is checked against "
            f"{VERSION} ({COMMIT[:7]}). Check that one out (git checkout {COMMIT[:7]}), or take the risk with --any_upstream."
        )


def find(given: Path | None, workspace: Path, recorded: Path | None = None) -> Upstream:
    """The checkout that was given, else the one that setup recorded, the workspace's, or the installed package.

    Raises:
        UpstreamError: the folder that was given is no musubi-tuner.
    """
    if given is not None:
        given = absolute(given)
        if not is_checkout(given):
            raise UpstreamError(
                f"{given} is no checkout of musubi-tuner: it has no {MARK.as_posix()}; give the folder that `git clone {URL}` made."
            )
        return _checkout(given)
    there = (folder for folder in (recorded, workspace / "musubi-tuner") if folder and is_checkout(folder))
    return next((_checkout(folder) for folder in there), Upstream())


def is_checkout(folder: Path) -> bool:
    """Whether a folder holds musubi-tuner."""
    return (folder / MARK).is_file()


def _checkout(folder: Path) -> Upstream:
    project = folder / "pyproject.toml"
    found = re.search(r'^version = "(.+)"', project.read_text(encoding="utf-8"), re.M) if project.is_file() else None
    return Upstream(folder=folder, version=found[1] if found else None, commit=_commit(folder / ".git"))


def _commit(git: Path) -> str | None:
    """The commit that is checked out, read from git's own files."""
    try:
        head = (git / "HEAD").read_text().strip()
        branch = head.removeprefix("ref: ")
        if branch == head:
            return head
        if (git / branch).is_file():
            return (git / branch).read_text().strip()
        found = re.search(rf"^(\w+) {re.escape(branch)}$", (git / "packed-refs").read_text(), re.M)
    except OSError:
        return None
    return found[1] if found else None
