"""The points of upstream's curves, read from its TensorBoard event files while it writes them.

A record is its length, a checksum of it, an `Event` of protobuf and its checksum (tensorflow's record_writer.cc,
event.proto, summary.proto). Checksums are not looked at: a record that is half there is told by its length.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

STEP, SUMMARY, VALUE, TAG, SIMPLE, TENSOR, FLOATS = 2, 5, 1, 1, 2, 8, 5  # numbers of fields
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
        with suppress(ValueError):  # nothing that TensorBoard could read either
            yield from _event(data[:-4])
    file.seek(-len(head), os.SEEK_CUR)


def _event(data: bytes) -> list[Point]:
    fields = [*_fields(data)]
    step = next((int(value) for number, value in fields if number == STEP and isinstance(value, int)), 0)
    values = [
        each for n, summary in fields if n == SUMMARY for number, each in _fields(_bytes(summary)) if number == VALUE
    ]
    return [(step, tag, number) for tag, number in map(_value, map(_bytes, values)) if number is not None]


def _value(data: bytes) -> tuple[str, float | None]:
    """Tag and number of one summary value; None: it is more than a number."""
    tag, number = "", None
    for name, content in _fields(data):
        if name == TAG:
            tag = _bytes(content).decode("utf-8", "replace")
        elif name == SIMPLE:
            number = _float(content)
        elif name == TENSOR:
            number = next((_float(floats) for n, floats in _fields(_bytes(content)) if n == FLOATS), None)
    return tag, number


def _float(content: bytes | int) -> float | None:
    return struct.unpack("<f", content)[0] if isinstance(content, bytes) and len(content) == 4 else None


def _bytes(content: bytes | int) -> bytes:
    if isinstance(content, int):
        raise ValueError("a number where a text should be")
    return content


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Each field's number and content. Raises ValueError: this is no protobuf."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            number, at = _varint(data, at)
            yield key >> 3, number
            continue
        length, at = _varint(data, at) if key & 7 == 2 else ({1: 8, 5: 4}.get(key & 7, -1), at)
        if length < 0 or at + length > len(data):
            raise ValueError("a field that has no end")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    number = 0
    for shift, byte in zip(range(0, 70, 7), data[at : at + 10], strict=False):
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at + shift // 7 + 1
    raise ValueError("a number that has no end")
