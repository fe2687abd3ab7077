"""What upstream says while it trains, read as it comes."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

ANNOUNCED = re.compile(rb"total optimization steps[^:\n]*: (\d+)\s*\n")
PROGRESS = re.compile(rb"steps:[^\r\n]*?\|\s*(\d+)/\d+ \[[^\r\n]*?(?:avr_loss=([^\],\r\n]+))?\]")


@dataclass
class Watch:
    """The steps that upstream announces and those done, the mean loss, the pace; all of one attempt."""

    planned: int | None
    announced: int | None = None
    done: int = 0
    loss: str | None = None
    broken: int | None = None  # the first step whose mean loss is no number
    rest: bytes = b""
    first: tuple[float, int] | None = None  # when, and how many steps had been done
    last: tuple[float, int] = (0.0, 0)

    def read(self, chunk: bytes) -> None:
        """Look at what has come, with the end of what came before."""
        text = self.rest + chunk
        if found := ANNOUNCED.search(text):
            self.announced = int(found[1])
        for found in PROGRESS.finditer(text):
            self._step(int(found[1]), (found[2] or b"").decode("ascii", "replace") or None)
        self.rest = text[-1000:]

    def _step(self, done: int, loss: str | None) -> None:
        self.loss = loss or self.loss
        if loss:
            self.broken = None if loss not in ("nan", "inf", "-inf") else self.broken or done
        if done > self.done:
            self.done, self.last = done, (time.monotonic(), done)
            self.first = self.first or self.last  # the first step takes long for reasons of its own

    @property
    def pace(self) -> float | None:
        """Seconds a step, without the first one."""
        if not self.first or self.last[1] == self.first[1]:
            return None
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])

    @property
    def broken_for(self) -> int:
        """How many steps the mean loss has been no number for; it stays none once it was."""
        return self.done - self.broken + 1 if self.broken else 0

    def disagrees(self) -> bool:
        """Whether upstream is about to train another number of steps than was planned."""
        return None not in (self.planned, self.announced) and self.planned != self.announced
