"""One start of one of torture.py's runs: the wanwrap that is killed.

    python torture_child.py CASE     (CASE is JSON)

It stages the plan as a rehearsal does, in a folder that is kept, and does with it what `wanwrap run` does.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from wanwrap.cli import train
from wanwrap.cli.main import Group
from wanwrap.plan import expert_options, preflight
from wanwrap.plan.build import build
from wanwrap.plan.plan import Plan, Sample
from wanwrap.plan.preflight import Machine
from wanwrap.plan.request import read
from wanwrap.rehearsal.stage import stage
from wanwrap.run.run import bytes_to_save

DIE = "TORTURE_DIE"  # in the environment: which change is the last, and the signal
CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run as its child process is told it; `machine` is what the training Python has said of itself."""

    preset: str
    folder: str
    media: str
    musubi_dir: str
    python: str
    machine: dict[str, Any] = field(hash=False)
    epochs: int = 3
    save_every: int = 1
    keep_last: int | None = None
    state_steps: int = expert_options.STATE_STEPS
    noise_level: str | None = None

    def staged(self) -> Plan:
        """The small plan, whose first step would make the toy weights."""
        names: dict[str, Any] = {"noise_level": self.noise_level, "python": self.python, "dataset": self.media}
        folder = Path(self.folder)
        request = read(preset=self.preset, base_dir=folder, musubi_dir=Path(self.musubi_dir), **names)
        length = {"max_train_epochs": self.epochs, "save_every_n_epochs": self.save_every}
        keep = {"save_last_n_epochs": self.keep_last} if self.keep_last else {}
        real = build(request, whole=True)
        return stage(real, folder, gpu=bool(self.machine["gpus"]), length={**length, **keep})[0]


def die_at(folder: str, number: int, signal_number: int) -> None:
    """Have this process killed just before it changes a file or folder for the nth time, below `folder`."""
    changes = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        path = Path(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | Path) else "")
        if (path.is_relative_to(folder) or not path.is_absolute()) and next(changes) == number:
            os.write(2, f"\ntorture: killed before {event} {path.name}\n".encode())
            os.kill(os.getpid(), signal_number)

    sys.addaudithook(hook)


@click.command()
@click.argument("text")
def go(text: str) -> None:
    """What `wanwrap run` does, but to ask the training Python, which takes seconds: the process that is killed."""
    case = Case(**json.loads(text))
    expert_options.STATE_STEPS = case.state_steps  # an epoch has two
    plan = case.staged()
    machine = Machine(upstream=plan.request.upstream, **case.machine)
    if os.environ.get(DIE):
        die_at(case.folder, *map(int, os.environ[DIE].split()))

    def check(plan: Plan, *, together: bool, restart: bool) -> tuple[Plan, Machine]:
        assert not together
        preflight.check_disk(plan, bytes_to_save(plan, restart=restart))
        return plan, machine

    train._preflight = check
    steps = tuple(step for step in plan.steps[1:] if not isinstance(step, Sample))  # `wanwrap sample` needs a GPU
    train.train(replace(plan, steps=steps), restart=False, retry=True, parallel=False, as_json=False)


class Child(Group):
    """With the one command, whatever it is called; its errors end as all of wanwrap's do."""

    def get_command(self, *_: object) -> click.Command:
        return go


if __name__ == "__main__":
    Child().main(["run", sys.argv[1]])
