"""One start of one of torture.py's runs: the wanwrap that is killed.

    python torture_child.py CASE     (CASE is JSON)

It stages the plan as a rehearsal does, in a folder that is kept, and carries it out as `wanwrap run` does.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from wanwrap.cli import run
from wanwrap.cli.main import Group
from wanwrap.cli.terminal import board
from wanwrap.plan import preflight, recipe
from wanwrap.plan.plan import Plan
from wanwrap.plan.request import Order, order
from wanwrap.rehearsal.stage import stage
from wanwrap.run.run import How

DIE = "TORTURE_DIE"  # in the environment: which change is the last, and the signal
CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run as its child process is told it."""

    preset: str
    folder: str
    media: str
    musubi_dir: str
    python: str
    epochs: int
    save_every: int
    state_steps: int = recipe.STATE_STEPS
    noise_level: str | None = None

    def staged(self) -> tuple[Order, Plan]:
        """The plan in small, whose first step would make the toy weights."""
        asked = order(
            preset=self.preset,
            dataset=self.media,
            base_dir=Path(self.folder),
            musubi_dir=Path(self.musubi_dir),
            python=self.python,
            noise_level=self.noise_level,
        )
        length = {"max_train_epochs": self.epochs, "save_every_n_epochs": self.save_every}
        gpu = bool(self.answer()["gpus"])
        data = asked.data(whole=True)
        weights, places = asked.weights(), asked.places
        plan, _ = stage(asked.preset, data, weights, places, asked.choices, gpu=gpu, length=length)
        return asked, plan

    def answer(self) -> dict[str, Any]:
        """What the training Python has said of itself: asking it takes seconds, and no part in this."""
        found: dict[str, Any] = json.loads(Path(self.media).with_name("answer.json").read_text())
        return found


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
    """What `wanwrap run` does, once it has checked all: the process that is killed."""
    case = Case(**json.loads(text))
    recipe.STATE_STEPS = case.state_steps  # an epoch has two
    asked, plan = case.staged()
    plan = replace(plan, steps=plan.steps[1:])
    if os.environ.get(DIE):
        die_at(case.folder, *map(int, os.environ[DIE].split()))
    preflight.check_plan(plan)
    preflight.check_room(plan)
    with board() as show:
        run.carry_out(plan, asked.places.upstream, case.answer(), False, How(show=show))


if __name__ == "__main__":
    Group(commands=[go]).main(["go", sys.argv[1]])  # its errors end as all of wanwrap's do
