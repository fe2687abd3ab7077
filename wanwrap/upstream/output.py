"""What upstream tells while it trains, read as it comes: its lines on the screen, and the points of its curves, which are
in TensorBoard's event files.
"""

from __future__ import annotations

import math
import platform
import re
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import IO

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
    drawn: float | None = None  # when the newest step was seen; the first one takes long for reasons of its own
    seconds: list[float] = field(default_factory=list)  # of each step after the first

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
            now = time.monotonic()
            if self.drawn is not None:
                self.seconds += [(now - self.drawn) / (done - self.done)] * (done - self.done)
            self.done, self.drawn = done, now

    @property
    def pace(self) -> float | None:
        """Seconds a step, without the first one; None before there are two."""
        return fmean(self.seconds) if self.seconds else None


# ---- curves

Point = tuple[int, str, float]  # step of this start, tag, value
Curve = list[tuple[int, float]]  # step of this start, value
LOSS, RATE = "loss/current", "lr/"  # of each step; loss/epoch alone goes over epochs
# What torch's SummaryWriter.add_scalar makes of one point: an `Event` of protobuf with the time, the step where it isn't
# 0, and a `Summary` of a single value with its tag (tensorflow's event.proto, summary.proto).
POINT = rb"(?s)\x09.{8}(?:\x10([\x80-\xff]*[\x00-\x7f]))?\x2a.\x0a.\x0a.(%b)\x15(.{4})"


def curves_file() -> str:
    """Where below `logging_dir` this machine's event files lie, as long as any is: time, host and process."""
    return f"20260101000000/network_train/events.out.tfevents.1700000000.{platform.node()}.12345.0"


class Curves:
    """Follows the event files below one `logging_dir`: `losses` in the order of the steps."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._places = folder, dict[Path, int]()
        self.losses = list[float]()

    def follow(self) -> None:
        """Read what has come since the last call. A folder that is away for a moment is no reason to end a training."""
        with suppress(OSError):
            for path in sorted(self._folder.rglob("*tfevents*")):
                with path.open("rb") as file:
                    file.seek(self._places.get(path, 0))
                    self.losses += [value for _, tag, value in points(file) if tag == LOSS]
                    self._places[path] = file.tell()

    @property
    def broken_for(self) -> int:
        """How many losses in a row, up to the newest, are no number."""
        return next((n for n, loss in enumerate(reversed(self.losses)) if math.isfinite(loss)), len(self.losses))


def curves(folder: Path) -> tuple[Curve, Curve]:
    """The losses and the learning rates of one start, whose event files are below that folder. Raises OSError."""
    found = defaultdict[str, Curve](list)
    for path in sorted(folder.rglob("*tfevents*")):
        with path.open("rb") as file:
            for step, tag, value in points(file, f"{LOSS}|{RATE}[ -~]+".encode()):
                found[tag].append((step, value))
    # of several groups the first; where the optimizer finds its own rate that one, lr/d*lr/unet, not lr/unet
    rate = min((tag for tag in found if tag != LOSS), default="")
    return found[LOSS], found[rate]


def last_point(folder: Path) -> float:
    """When the newest point of one start was made, in seconds since 1970; 0 where there is none. Raises OSError."""
    files = (path.read_bytes() for path in folder.rglob("*tfevents*"))
    times = (struct.unpack("<d", found[0][1:9])[0] for text in files for found in re.finditer(POINT % b"[ -~]+", text))
    return max(times, default=0.0)


def points(file: IO[bytes], tags: bytes = b"[ -~]+") -> Iterator[Point]:
    """The points from the file's place on, of these tags alone; at one that is half there the place stays."""
    start, end = file.tell(), 0
    for found in re.finditer(POINT % tags, file.read()):
        step = sum((byte & 0x7F) << 7 * n for n, byte in enumerate(found[1] or b""))  # seven bits a byte
        yield step, found[2].decode("ascii"), struct.unpack("<f", found[3])[0]
        end = found.end()
    file.seek(start + end)
