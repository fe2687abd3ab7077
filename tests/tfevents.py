"""TensorBoard's event files, written by hand: protobuf and checksums without any library."""

from __future__ import annotations

import struct
from pathlib import Path

VERSION = b"\x09" + bytes(8) + b"\x1a\x0dbrain.Event:2"


def record(data: bytes) -> bytes:
    """Its checksums are zeros, at which nobody looks."""
    return struct.pack("<Q", len(data)) + bytes(4) + data + bytes(4)


def varint(number: int) -> bytes:
    rows = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes(row | 0x80 for row in rows[:-1]) + bytes(rows[-1:])


def part(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def event(step: int, summary: bytes, wall: float = 1.5e9) -> bytes:
    """As protobuf writes it: wall time, a step that isn't 0, summary."""
    return b"\x09" + struct.pack("<d", wall + step) + (b"\x10" + varint(step) if step else b"") + part(5, summary)


def scalar(tag: str, step: int, value: float, wall: float = 1.5e9) -> bytes:
    """As SummaryWriter.add_scalar writes it."""
    return event(step, part(1, part(1, tag.encode()) + b"\x15" + struct.pack("<f", value)), wall)


def text(tag: str, step: int, words: str) -> bytes:
    return event(step, part(1, part(1, tag.encode()) + part(8, b"\x08\x07" + part(8, words.encode()))))


def epochs(steps: int, an_epoch: int, offset: float = 0.0) -> list[bytes]:
    """What upstream writes in an attempt: the loss of each step, and of each epoch after its last step."""
    rows = [VERSION]
    for step in range(1, steps + 1):
        rows += [scalar("loss/current", step, offset + step), scalar("lr/unet", step, 0.25)]
        if step % an_epoch == 0:
            rows.append(scalar("loss/epoch", step // an_epoch, offset + step))
    return rows


def write(path: Path, rows: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(record, rows)))
    return path
