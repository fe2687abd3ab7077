"""Both experts side by side: each is a `wanwrap run` of its own, on a GPU of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from wanwrap.plan.plan import Plan
from wanwrap.plan.preflight import Machine
from wanwrap.system import console
from wanwrap.system.process import Child, Command, check_interrupted, interruptible

PATIENCE = 60  # seconds that a run gets after Ctrl-C, to hand it on and to record where it stands
POLL = 0.2  # seconds


class _Lines:
    """What one of the runs says, line by line with its name."""

    def __init__(self, expert: str) -> None:
        self.expert, self.rest = expert, b""

    def listen(self, chunk: bytes) -> None:
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for line in lines:
            if text := line.decode("utf-8", "replace").rpartition("\r")[2].strip():
                console.say(text if text.startswith(f"{self.expert}:") else f"{self.expert}: {text}")


def run_each(plan: Plan, machine: Machine, words: Sequence[str]) -> int:
    """Run all experts to their ends: the exit code of the first that failed, else 0.

    `words` are those of this command line; each run gets them with its own --noise_level.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpus = visible if visible != [""] else [str(number) for number in range(len(machine.gpus))]
    with interruptible(), ExitStack() as running:
        children = []
        for train, gpu in zip(plan.trainings, gpus, strict=False):
            argv = (*plan.request.wanwrap, *_of_expert(words, train.expert))
            command = Command(argv, Path.cwd(), {"CUDA_VISIBLE_DEVICES": gpu})
            children.append(running.enter_context(Child(command, _Lines(train.expert).listen, PATIENCE)))
        try:
            while not all(child.over(POLL) for child in children):
                check_interrupted()
        except KeyboardInterrupt:
            for child in children:  # all of them at once; then each is waited for
                child.interrupt()
            raise
    return next((code for child in children if (code := child.status())), 0)


def _of_expert(words: Sequence[str], expert: str) -> list[str]:
    """The command line of one expert's run, upstream's options last."""
    at = words.index("--") if "--" in words else len(words)
    return [*words[:at], "--noise_level", expert, "--no_sample", *words[at:]]
