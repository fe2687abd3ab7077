"""A Slurm of the tests' own on this machine, what is submitted to it, and a wanwrap that only tells of itself."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import ROOT

from wanwrap.launch.job import Rendered
from wanwrap.launch.send import with_ids

MINI = ROOT / "tests" / "launch" / "mini_slurm.sh"

# the Python of a wanwrap that writes down where and with which words it was started, and ends with CODE, or at SIGTERM
STUB = """#!/bin/bash
trap 'exit "${CODE_TERM:-130}"' TERM
told=$TOLD.${SLURM_JOB_NAME##*-}
printf '%s\\0' "$PWD" "$HF_HUB_OFFLINE" "$CUDA_VISIBLE_DEVICES" "$@" > "$told.part" && mv "$told.part" "$told"
[ "$3" = setup ] && exit
until [ "$CODE" ]; do sleep 0.05; done
exit "$CODE"
"""


def stub(folder: Path) -> str:
    """A program in that folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    path.write_text(STUB)
    path.chmod(0o755)
    return str(path)


@contextmanager
def cluster(folder: Path, gpus: int) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands ask one that runs meanwhile."""
    try:
        subprocess.run(["bash", str(MINI), "start", str(folder), str(gpus)], check=True, timeout=120)
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run(["bash", str(MINI), "stop", str(folder)], check=True, timeout=120)


class Submitted:
    """What was rendered, in a folder; `before` and `start` have been run there."""

    def __init__(self, made: Rendered, folder: Path, **env: str) -> None:
        self.made, self.folder, self.env = made, folder, {**os.environ, **env}
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        for words in made.before:
            self.call(*words)
        found = [re.search(made.id_pattern, self.call(*words)) for words in made.start]
        self.ids = [each[1] for each in found if each]
        self.id = self.ids[0]

    def call(self, *words: str) -> str:
        """What a command prints, which must go well."""
        done = subprocess.run(words, cwd=self.folder, env=self.env, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def later(self, what: str) -> str:
        return "".join(self.call(*words) for words in with_ids(self.made.later[what], self.ids))

    def fields(self, number: int = 0) -> dict[str, Any]:
        """What Slurm says of a job: JobState, ExitCode, Restarts ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", self.ids[number])))

    def state(self, number: int = 0) -> str:
        return str(self.fields(number)["JobState"])

    def goes_on(self) -> bool:
        """Without the two minutes that Slurm leaves a requeued job waiting: whether it runs. Asked again and again, for Slurm
        may begin to count later.
        """
        words = ("scontrol", "update", f"JobId={self.id}", "StartTime=now")
        subprocess.run(words, env=self.env, capture_output=True)
        return self.state() == "RUNNING"

    def log(self, expert: str = "both") -> str:
        path = self.folder / f"{expert}.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""
