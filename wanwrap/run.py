"""Carry a plan out: write its files, run its steps, keep log and ledger."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from wanwrap.caching import forget, missing, stamps, strangers
from wanwrap.errors import StepError, listing
from wanwrap.ledger import Ledger, now
from wanwrap.plan import Plan, Step
from wanwrap.process import Listener, stream
from wanwrap.report import heading
from wanwrap.script import native, script
from wanwrap.weights import header
from wanwrap.whole import write_whole
from wanwrap.words import DIED, ended

ANNOUNCED = re.compile(rb"total optimization steps[^:\n]*: (\d+)\s*\n")
PROGRESS = re.compile(rb"steps:[^\r\n]*?\|\s*(\d+)/\d+ \[[^\r\n]*?(?:avr_loss=([^\],\r\n]+))?\]")

KEEP = 60  # seconds

Say = Callable[[str], object]


@dataclass
class Watch:
    """What upstream says while it trains: the steps it announces, those done, the mean loss."""

    planned: int | None
    announced: int | None = None
    done: int = 0
    loss: str | None = None
    rest: bytes = b""

    def read(self, chunk: bytes) -> None:
        """Look at what has come, with the end of what came before."""
        text = self.rest + chunk
        if found := ANNOUNCED.search(text):
            self.announced = int(found[1])
        for found in PROGRESS.finditer(text):
            self.done, self.loss = int(found[1]), (found[2] or b"").decode() or self.loss
        self.rest = text[-1000:]

    def disagrees(self) -> bool:
        """Whether upstream is about to train another number of steps than was planned."""
        return None not in (self.planned, self.announced) and self.planned != self.announced


@dataclass
class Log:
    """What a step prints, as lines: of a progress bar, drawn many times a minute, one state a minute is kept."""

    file: IO[bytes]
    rest: bytes = b""
    kept: float = 0.0

    def write(self, chunk: bytes) -> None:
        """Keep the lines that are whole, and now and then one that is still being drawn."""
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for line in lines:
            self.file.write(_last_state(line) + b"\n")
        if b"\r" in self.rest and time.monotonic() - self.kept > KEEP:
            self.file.write(_last_state(self.rest) + b"\n")
            self.kept = time.monotonic()
        self.rest = self.rest[-2000:]  # a bar that is drawn all night without a new line
        self.file.flush()

    def end(self) -> None:
        """Keep what came last."""
        self.write(b"\n" if self.rest else b"")


def _last_state(line: bytes) -> bytes:
    """A line as it stood on the screen at the end."""
    return next((state for state in reversed(line.split(b"\r")) if state.strip()), b"")


def write_files(plan: Plan) -> None:
    """The plan's folder and files, and the script that does by hand what `run` does."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    shell = native()
    suffix, encoding = (".sh", "utf-8") if shell == "bash" else (".ps1", "utf-8-sig")
    (plan.folder / f"{plan.record}{suffix}").write_text(script(plan, shell, heading(plan)), encoding=encoding)
    for path, text in plan.files.items():
        write_whole(path, text)


def run(plan: Plan, ledger: Ledger, screen: Listener, say: Say) -> None:
    """All steps in order.

    Raises:
        StepError: one failed; the ledger says which.
        KeyboardInterrupt: the user stopped it; nothing is left running.
    """
    before = stamps(plan.dataset.entries)
    try:
        with (plan.folder / f"{plan.record}.log").open("ab") as log:
            for index, step in enumerate(plan.steps):
                say(f"\n{step.name} ({index + 1} of {len(plan.steps)})")
                if step.fills and not missing(plan.dataset.entries, plan.caches, step.fills):
                    say("all of it is cached: nothing to encode")
                    ledger.step(index, state="not needed")
                    continue
                ledger.step(index, state="running", started=now())
                _step(plan, index, ledger, log, screen, say)
                if step.fills:
                    _check_cached(plan, step, before)
                ledger.step(index, state="done", ended=now())
    except BaseException as error:
        ledger.ended("interrupted" if isinstance(error, KeyboardInterrupt) else "failed", str(error))
        raise
    ledger.ended("done")


def _step(plan: Plan, index: int, ledger: Ledger, log: IO[bytes], screen: Listener, say: Say) -> None:
    """One step; what it prints goes to the screen and to the log."""
    step = plan.steps[index]
    watch = Watch(planned=step.recipe.steps if step.recipe else None)

    def listen(chunk: bytes) -> None:
        watch.read(chunk)
        screen(chunk)

    try:
        log.write(f"\n{step.name}".encode())
        status, tail = logged(step.argv, plan.folder, plan.env, log, listen, watch.disagrees, say)
    finally:
        if step.recipe:
            ledger.step(index, optimizer_steps_done=watch.done, loss=watch.loss)
    ledger.step(index, exit=status)
    if watch.disagrees():
        raise StepError(
            f"{step.name} was stopped before it began: upstream announced {watch.announced} steps and wanwrap planned "
            f"{watch.planned}, so the learning rate would have been wrong. Please report this with {plan.folder}."
        )
    if status:
        raise StepError(f"{step.name} {ended(status, tail)}\n{tail}\nThe whole log: {log.name}")
    if step.makes:
        header.read(step.makes)  # it is there, and as long as it says
        ledger.step(index, bytes=step.makes.stat().st_size)


def logged(
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    log: IO[bytes],
    listen: Listener,
    unwanted: Callable[[], bool],
    say: Say,
) -> tuple[int, str]:
    """`process.stream`, with all that is printed in the log too: the exit status, and where it is not 0 the last lines."""
    log.write(f"\n+ {shlex.join(argv)}\n".encode("utf-8", "surrogateescape"))
    begin, lines = log.tell(), Log(log)

    def both(chunk: bytes) -> None:
        lines.write(chunk)
        listen(chunk)

    try:
        status = stream(argv, cwd, env, both, unwanted, say)
    finally:
        lines.end()
    return status, last_lines(Path(log.name), begin) if status else ""


def _check_cached(plan: Plan, step: Step, before: Mapping[Path, list[int]]) -> None:
    """Raises StepError: something else was cached than what was planned, which would be trained."""
    assert step.fills
    entries, caches = plan.dataset.entries, plan.caches
    again = "start again, and only that is cached anew"
    if changed := forget(entries, caches, before):
        raise StepError(f"{listing(sorted(changed))}: changed while the data set was cached; {again}.")
    if extra := strangers(entries, caches):
        raise StepError(f"{listing(extra)}: cached of files that came while the data set was cached; {again}.")
    if lacking := missing(entries, caches, step.fills):
        names = listing(path.name for path in lacking)
        raise StepError(
            f"{step.name} ended well, and {len(lacking)} file(s) that it should have made are not there ({names}): "
            f"please report this with {plan.folder}."
        )


def last_lines(log: Path, begin: int, most: int = 15) -> str:
    """The end of a step's output, without the traceback that accelerate adds to its child's."""
    text = log.read_bytes()[begin:].decode("utf-8", "replace")
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    launcher = next((i for i, line in enumerate(lines) if re.search(r"File .*accelerate.commands.launch", line)), 0)
    traceback = max((i for i in range(launcher) if lines[i].startswith("Traceback")), default=len(lines))
    died = [f"... {found[0]}" for line in lines[traceback:] if (found := DIED.search(line))]
    return "\n".join([*lines[:traceback], *died][-most:])
