"""Captions by upstream's own script, each in its place as soon as it is answered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from wanwrap.caption import captions, prompts
from wanwrap.caption.captions import Outcome, Target
from wanwrap.caption.request import ANSWERS, STAGED, Order
from wanwrap.run.run import logged
from wanwrap.system.failures import failure
from wanwrap.system.files import held
from wanwrap.system.process import Listener

MAX_SIZE = 1280  # upstream's default
ADVICE = {
    "gpu memory": "--fp8 halves the model, and a smaller --max_size each picture",
    "memory": "close other programs",
}
Say = Callable[[str], object]
Counter = AbstractContextManager[Callable[[], object]]


def carry_out(
    order: Order, model: Path, outcome: Outcome, screen: Listener, say: Say, counter: Callable[[], Counter]
) -> None:
    """Show the model what has no caption, and write each answer beside its picture or clip as soon as it is there.

    Raises:
        StepError, or the error of words.failure: upstream failed; what it had answered until then is written.
        OutputError: another wanwrap does the same.
        KeyboardInterrupt: Ctrl-C; the same.
    """
    staging = order.work / STAGED
    order.work.mkdir(parents=True, exist_ok=True)
    with held(order.work, f"another wanwrap is writing captions for {order.folder.name}"):
        shutil.rmtree(staging, ignore_errors=True)  # a power cut may have left it
        try:
            staging.mkdir()
            most = int(str(order.options["max_size"] or MAX_SIZE))
            with counter() as done:
                staged = captions.stage(order.targets, staging, most, outcome.failed, done)
            if staged:
                if replaced := list({*order.replaced} & {*staged.values()}):
                    say(
                        f"{len(replaced)} captions will be replaced; the old ones are in {captions.keep(replaced, order.work)}"
                    )
                _write(order, model, _Answers(order, staged, outcome), screen, say)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _write(order: Order, model: Path, answers: _Answers, screen: Listener, say: Say) -> None:
    """Upstream's script, followed."""
    try:
        argv = order.argv(model)
        status, tail = logged("captioning", argv, order.work, order.env, order.log, screen, answers.look, say)
    finally:
        answers.look()
    if status:
        why = failure(status, tail, ADVICE)
        raise why.error(f"captioning {why.text}\n{tail}\nThe whole log: {order.log}")
    for target in answers.staged.values():
        answers.outcome.failed[target.path] = "upstream gave no caption for it"


@dataclass
class _Answers:
    """Upstream's answers as they come; `staged` are those that have none yet."""

    order: Order
    staged: dict[str, Target]
    outcome: Outcome
    read: int = 0  # bytes

    def look(self) -> bool:
        """Write what has come. Never a reason to end upstream."""
        path = self.order.work / ANSWERS
        if path.is_file():
            with path.open("rb") as file:
                file.seek(self.read)
                lines = file.read().split(b"\n")[:-1]  # the last one is still being written
            for line in lines:
                self.read += len(line) + 1
                self._answer(json.loads(line))
        return False

    def _answer(self, row: dict[str, str]) -> None:
        if target := self.staged.pop(Path(row["image_path"]).name, None):
            text = prompts.caption(row["caption"], self.order.trigger)
            self.outcome.write(target, text, overwrite=self.order.overwrite)
