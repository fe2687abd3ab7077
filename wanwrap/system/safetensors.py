"""A safetensors file, or a set of shards, to be read from its first byte to its last. Standard library only."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from wanwrap.errors import WeightsError
from wanwrap.system.files import opened, patiently

# bytes of one element
WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 1),
}
FLOATS = {"F16", "BF16", "F32"}  # what is cast and added to
SCALARS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"}
SHARD = re.compile(r"(\d+)-of-(\d+)\.safetensors$")  # upstream's own pattern for a set
BLOCK = 16 << 20
LONGEST = 100_000_000  # bytes of a header; safetensors' own limit


class Row(NamedTuple):
    """One tensor where it lies: `begin` and `end` are bytes of the file number `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    begin: int
    end: int


@dataclass(frozen=True)
class Source:
    """The files of one model; `rows` in the order in which they lie there."""

    paths: tuple[Path, ...]
    rows: dict[str, Row]
    metadata: dict[str, str]
    stats: tuple[tuple[int, int], ...]  # bytes and mtime_ns of each file, when its header was read

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(size for size, _ in self.stats)

    def read(self, name: str, begin: int, size: int) -> bytearray:
        """`size` bytes of a tensor from its byte `begin` on. Raises WeightsError: the file has become shorter."""
        row = self.rows[name]
        with opened(self.paths[row.file]) as file:
            file.seek(row.begin + begin)
            content = bytearray(file.read(size))
        if len(content) < size:
            raise WeightsError(f"{self.paths[row.file]} has become shorter while it was read; get it again.")
        return content

    def check_unchanged(self) -> None:
        """Raises WeightsError: a file is no longer what it was when its header was read."""
        for path, before in zip(self.paths, self.stats, strict=True):
            if not path.is_file() or stat(path) != before:
                raise WeightsError(f"{path} has changed while it was read; try again when nothing writes it.")

    def scalar(self, name: str) -> float:
        """A tensor of one number. Raises WeightsError: it is none."""
        row = self.rows[name]
        raw, dtype = bytes(self.read(name, 0, row.end - row.begin)), row.dtype
        if dtype == "BF16":  # the upper half of an F32
            raw, dtype = b"\0\0" + raw, "F32"
        if dtype not in SCALARS or len(raw) != struct.calcsize(SCALARS[dtype]):
            raise WeightsError(f"{self.paths[row.file]}: {name} is no single number; get the file again.")
        return float(struct.unpack(SCALARS[dtype], raw)[0])


def read_header(path: Path) -> dict[str, Any]:
    """The header: `{"blocks.0...": {"dtype": "F16", "shape": [..], "data_offsets": [a, b]}, ...}`.

    Raises:
        WeightsError: not a safetensors file, or shorter than its own header says.
    """
    try:
        size = path.stat().st_size
        with opened(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(LONGEST, size):
                raise ValueError("its header would be larger than the file")
            header: dict[str, Any] = json.loads(file.read(length))
        end = max((row["data_offsets"][1] for key, row in header.items() if key != "__metadata__"), default=0)
        if size >= 8 + length + end and not all(type(text) is str for text in header.get("__metadata__", {}).values()):
            raise ValueError("its metadata are no texts")
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {os.strerror(error.errno or 0)}.") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}); get it again.") from error
    if size < 8 + length + end:
        raise WeightsError(f"{path} is cut off: {size:,} of {8 + length + end:,} bytes are there; get it again.")
    return header


def open_source(path: Path) -> Source:
    """A file, or all shards of the set that it belongs to (`...-00001-of-00006.safetensors`).

    Raises:
        WeightsError: not safetensors, cut off, or not laid out as its header says; a shard is missing.
    """
    paths = tuple(shards(path))
    rows, metadata, stats = dict[str, Row](), dict[str, str](), []
    for number, each in enumerate(paths):
        stats.append(stat(each))
        content = read_header(each)
        metadata |= content.pop("__metadata__", {})
        for row in _rows(each, number, content, stats[-1][0]):
            if row.name in rows:
                raise WeightsError(f"{row.name} is in two shards of {path}; get the set again.")
            rows[row.name] = row
    return Source(paths, rows, metadata, tuple(stats))


def shards(path: Path) -> Iterator[Path]:
    """The files of the set that `path` belongs to. Raises WeightsError: one is missing."""
    found = SHARD.search(path.name)
    count = int(found[2]) if found else 1
    if found and not 1 <= int(found[1]) <= count:
        raise WeightsError(f"{path} is numbered beyond its own set; give one of the shards 1 to {count}.")
    for number in range(1, count + 1):
        name = (
            f"{path.name[: found.start()]}{number:0{len(found[1])}d}-of-{found[2]}.safetensors" if found else path.name
        )
        if not (each := path.with_name(name)).is_file():
            raise WeightsError(f"there is no file {each}; {'all shards are needed.' if found else 'look at its path.'}")
        yield each


def stat(path: Path) -> tuple[int, int]:
    """Bytes and mtime_ns: what changes when a file does."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def digest(*parts: object) -> str:
    """Eight hex digits that change when any of the parts does."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def sha256(path: Path, done: Callable[[int], object] = lambda _: None) -> str:
    """The content's sha256, at about 1.5 GB/s; `done` is told how many more bytes have been read."""
    # for small files the whole buffer would be the work
    mark, buffer = hashlib.sha256(), memoryview(bytearray(max(1, min(BLOCK, path.stat().st_size))))
    with patiently(lambda: path.open("rb", buffering=0)) as file:
        while count := file.readinto(buffer):
            mark.update(buffer[:count])
            done(count)
    return mark.hexdigest()


def header_sha256(path: Path) -> str:
    """The sha256 of the header's bytes, without their length: of files that differ in their numbers alone it is one."""
    size = path.stat().st_size
    with opened(path) as file:  # what is no safetensors file may claim any length
        return hashlib.sha256(file.read(min(int.from_bytes(file.read(8), "little"), size))).hexdigest()


def _rows(path: Path, number: int, content: dict[str, Any], size: int) -> list[Row]:
    """The rows of one header in the order of their bytes, which must follow each other up to the file's end."""
    with opened(path) as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
    rows = []
    try:
        for name, row in content.items():
            begin, end = row["data_offsets"]
            shape = tuple(row["shape"])
            if {*map(type, (begin, end, *shape))} != {int}:  # no bool either
                raise ValueError(f"{name} has a size that is no whole number")
            if row["dtype"] not in WIDTHS:
                raise WeightsError(f"{path} stores {name} as {row['dtype']}, which neither upstream nor wanwrap reads.")
            if begin < 0 or min(shape, default=0) < 0 or end - begin != math.prod(shape) * WIDTHS[row["dtype"]]:
                raise ValueError(f"{name} has another size than its shape says")
            rows.append(Row(name, row["dtype"], shape, number, start + begin, start + end))
        rows.sort(key=itemgetter(4, 5))  # begin, end
        begins, ends = [row.begin for row in rows], [row.end for row in rows]
        if [*begins, size] != [start, *ends]:
            raise ValueError("its tensors overlap or leave gaps")
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} is damaged ({error}); get it again.") from error
    return rows
