"""TensorBoard's event files: whole records, what is in them, and the step that they stand at.

A record is its length, the length's checksum, an `Event` of protobuf, and its checksum. Only what curves need is
looked at; all else stays byte for byte.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

VERSION = b"\x1a\x0dbrain.Event:2"  # what each event file begins with: file_version
START = b"\x3a\x02\x08\x01"  # session_log: START
STEP = 2  # numbers of fields, as event.proto and summary.proto give them
SUMMARY, VALUE, TAG, SIMPLE, TENSOR, FLOATS = 5, 1, 1, 2, 8, 5
VARINT, WIDE, BYTES, NARROW = 0, 1, 2, 5  # how protobuf writes a field


@dataclass
class Event:
    """One record: the step at which it stands, its tags, and those of their values that are one number."""

    data: bytes
    place: slice  # of the field that holds the step
    step: int = 0
    values: dict[str, float | None] = field(default_factory=dict)

    @property
    def opens(self) -> bool:
        """Whether this is what an event file begins with."""
        return b"\x1a\x0dbrain.Event:" in self.data[:24]

    def at(self, step: int) -> bytes:
        """The same record at another step."""
        return self.data[: self.place.start] + b"\x10" + _varint(step) + self.data[self.place.stop :]


def read(data: bytes) -> Event:
    """What a record says. Raises ValueError: it is no `Event`."""
    event = Event(data, slice(len(data), len(data)))  # protobuf leaves out a 0; order means nothing to it
    for number, content, place in _fields(data):
        if number == STEP and isinstance(content, int):
            event.step, event.place = content, place
        elif number == SUMMARY and isinstance(content, bytes):
            values = (each for number, each, _ in _fields(content) if number == VALUE and isinstance(each, bytes))
            event.values.update(_value(each) for each in values)
    return event


def records(file: IO[bytes]) -> Iterator[bytes]:
    """The whole records from the file's place on, up to one that is half or broken; after each, the place is its end."""
    size = os.fstat(file.fileno()).st_size
    while len(head := file.read(12)) == 12:
        length = int.from_bytes(head[:8], "little")
        if file.tell() + length + 4 > size:  # half there; or a broken length, which could be any
            return
        data = file.read(length)
        if file.read(4) != struct.pack("<I", _checksum(data)):
            return
        yield data


def framed(data: bytes) -> bytes:
    """A record as it stands in a file."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _checksum(length)) + data + struct.pack("<I", _checksum(data))


def beginning(now: float) -> bytes:
    """The first records of a file: its version, and that what other files of the folder hold is void from here on."""
    return framed(b"\x09" + struct.pack("<d", now) + VERSION) + framed(START)


def _checksum(data: bytes) -> int:
    """CRC-32C, masked as TFRecord asks for it."""
    import google_crc32c

    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _value(data: bytes) -> tuple[str, float | None]:
    """Tag and number of one summary value; None: it is more than a number."""
    tag, number = "", None
    for name, content, _ in _fields(data):
        if isinstance(content, bytes):
            if name == TAG:
                tag = content.decode("utf-8", "replace")
            elif name == SIMPLE:
                number = _float(content)
            elif name == TENSOR:
                number = next((_float(floats) for n, floats, _ in _fields(content) if n == FLOATS), None)
    return tag, number


def _float(content: bytes | int) -> float | None:
    if not isinstance(content, bytes) or len(content) != 4:
        return None
    number: float = struct.unpack("<f", content)[0]
    return number


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int, slice]]:
    """Each field's number, its content and its place. Raises ValueError: this is no protobuf."""
    at = 0
    while at < len(data):
        begin = at
        key, at = _number(data, at)
        content: bytes | int
        if key & 7 == VARINT:
            content, at = _number(data, at)
        else:
            length, at = _number(data, at) if key & 7 == BYTES else ({WIDE: 8, NARROW: 4}.get(key & 7, -1), at)
            content, at = data[at : at + length], at + length
            if length < 0 or at > len(data):
                raise ValueError("a field that has no end")
        yield key >> 3, content, slice(begin, at)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        number |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return number, at
    raise ValueError("a number that has no end")


def _varint(number: int) -> bytes:
    number &= 0xFFFFFFFFFFFFFFFF
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])
