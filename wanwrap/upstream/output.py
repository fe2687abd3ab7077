"""What upstream tells while it trains, read as it comes: its lines on the screen, and the points of its curves.

Those are in TensorBoard event files. A record is its length, a checksum of that, an `Event` of protobuf and its checksum
(tensorflow's record_writer.cc, event.proto, summary.proto). Checksums are not looked at: a record that is half there is
told by its length.
"""

from __future__ import annotations

import math
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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


# ---- curves

STEP, SUMMARY, VALUE, TAG, NUMBER = 2, 5, 1, 1, 2  # fields of Event, Summary and Value
LOSS = "loss/current"  # of each step; loss/epoch alone goes over epochs

Point = tuple[int, str, float]  # step of this start, tag, value


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


def points(file: IO[bytes]) -> Iterator[Point]:
    """The points from the file's place on, up to a record that is half there; there the place stays."""
    size = os.fstat(file.fileno()).st_size
    while len(head := file.read(12)) == 12:
        length = int.from_bytes(head[:8], "little") + 4
        if file.tell() + length > size:
            break
        data = file.read(length)
        # what is no protobuf TensorBoard could not read either
        with suppress(LookupError, ValueError, TypeError, struct.error):
            yield from _points(data[:-4])
    file.seek(-len(head), os.SEEK_CUR)


def _points(event: bytes) -> list[Point]:
    fields = [*_fields(event)]
    step = next((value for number, value in fields if number == STEP), 0)
    rows = [dict(_fields(row)) for n, summary in fields if n == SUMMARY for m, row in _fields(summary) if m == VALUE]
    return [(step, row[TAG].decode(), struct.unpack("<f", row[NUMBER])[0]) for row in rows if {TAG, NUMBER} <= {*row}]


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Each field's number and content: an int, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            content, at = _varint(data, at)
            yield key >> 3, content
            continue
        length, at = _varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    number = shift = 0
    while data[at] & 0x80:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1
