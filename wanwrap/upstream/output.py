"""What upstream prints while it trains, read as it comes."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

ANNOUNCED = re.compile(rb"total optimization steps[^:\n]*: (\d+)\s*\n")
PROGRESS = re.compile(rb"steps:[^\r\n]*?\|\s*(\d+)/\d+ \[[^\r\n]*?(?:avr_loss=([^\],\r\n]+))?\]")


@dataclass
class TrainingOutput:
    """Steps announced and done, the mean loss as it is printed, the pace; all of one start of upstream."""

    announced: int | None = None
    done: int = 0
    loss: str | None = None
    broken_for: int = 0  # steps in a row whose mean loss was no number; upstream's mean stays none once it was
    rest: bytes = b""
    first: tuple[float, int] | None = None  # when, and how many steps had been done
    last: tuple[float, int] = (0.0, 0)

    def read(self, chunk: bytes) -> None:
        """Look at what has come, with the end of what came before."""
        text = self.rest + chunk
        if found := ANNOUNCED.search(text):
            self.announced = int(found[1])
        for found in PROGRESS.finditer(text):
            self._step(int(found[1]), (found[2] or b"").decode("ascii", "replace"))
        self.rest = text[-1000:]

    def _step(self, done: int, loss: str) -> None:
        self.loss = loss or self.loss
        if done > self.done:
            self.broken_for = self.broken_for + done - self.done if self.loss in ("nan", "inf", "-inf") else 0
            self.done, self.last = done, (time.monotonic(), done)
            self.first = self.first or self.last  # the first step takes long for reasons of its own

    @property
    def pace(self) -> float | None:
        """Seconds a step, without the first one; None before there are two."""
        if not self.first or self.last[1] == self.first[1]:
            return None
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])
