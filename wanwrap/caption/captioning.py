"""Captions by upstream's own script, each in its place as soon as it is answered."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from wanwrap.caption import captions, prompts
from wanwrap.caption.captions import Outcome, Target
from wanwrap.caption.request import ANSWERS, STAGED, CaptionRequest
from wanwrap.system import console
from wanwrap.system.failures import failure
from wanwrap.system.files import lock
from wanwrap.system.log import run_logged
from wanwrap.system.process import Command

MAX_SIZE = 1280  # upstream's default
ADVICE = {
    "gpu memory": "--fp8 halves the model, and a smaller --max_size each picture",
    "memory": "close other programs",
}


def carry_out(request: CaptionRequest, model: Path, outcome: Outcome) -> None:
    """Show the model what has no caption, and write each answer beside its picture or clip as soon as it is there.

    Raises:
        StepError, or the error of system.failures: upstream failed; what it had answered until then is written.
        OutputError: another wanwrap does the same.
        KeyboardInterrupt: Ctrl-C; the same.
    """
    staging = request.work / STAGED
    request.work.mkdir(parents=True, exist_ok=True)
    with lock(request.work, f"another wanwrap is writing captions for {request.folder.name}; wait until it has ended."):
        shutil.rmtree(staging, ignore_errors=True)  # a power cut may have left it
        try:
            staging.mkdir()
            most = int(str(request.options["max_size"] or MAX_SIZE))
            with console.bar("looking at file") as done:
                staged = captions.stage(request.targets, staging, most, outcome.failed, done)
            if staged:
                if replaced := list({*request.replaced} & {*staged.values()}):
                    console.say(
                        f"{len(replaced)} captions will be replaced; the old ones are in {captions.keep(replaced, request.work)}"
                    )
                _write(request, model, _Answers(request, staged, outcome))
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _write(request: CaptionRequest, model: Path, answers: _Answers) -> None:
    """Upstream's script, followed."""
    try:
        argv = request.argv(model)
        status, tail = run_logged("captioning", Command(argv, request.work, request.env), request.log, answers.look)
    finally:
        answers.look()
    if status:
        why = failure(status, tail, ADVICE)
        raise why.error(f"captioning {why.text}\n{tail}\nThe whole log: {request.log}")
    for target in answers.staged.values():
        answers.outcome.failed[target.path] = "upstream gave no caption for it"


@dataclass
class _Answers:
    """Upstream's answers as they come; `staged` are those that have none yet."""

    request: CaptionRequest
    staged: dict[str, Target]
    outcome: Outcome
    read: int = 0  # bytes

    def look(self) -> bool:
        """Write what has come. Never a reason to end upstream."""
        path = self.request.work / ANSWERS
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
            text = prompts.caption(row["caption"], self.request.trigger)
            self.outcome.write(target, text, overwrite=self.request.overwrite)
