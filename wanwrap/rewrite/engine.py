"""Stream safetensors files into a new one: any size, constant memory, whole or not there at all.

Reading, working and writing overlap, since several threads do all three. What becomes of a tensor's bytes is the
caller's; this module knows where they lie. Standard library only: it runs in the training Python.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import local
from typing import Any, Literal

from wanwrap.errors import OutputError, WeightsError
from wanwrap.system.files import atomic_file
from wanwrap.system.safetensors import WIDTHS, Row, Source

CHUNK = 1 << 20  # bytes worked on at a time: in fp32 and twice they still fit a processor's cache
FLUSH = 256 << 20  # bytes after which the system is asked to begin writing them
AHEAD = 4  # chunks that wait for a thread
MOST_CORES = 8  # by then the disk is the slower one
ALIGNED = 16  # rows at least, and a multiple: products of very few rows are rounded otherwise than those of many


@dataclass(frozen=True)
class Tensor:
    """What becomes of one row: its name and type in the new file; `by_rows` keeps its first dimension together."""

    row: Row
    name: str
    dtype: str
    by_rows: bool = False

    @property
    def count(self) -> int:
        """Its rows, or else its elements."""
        return self.row.shape[0] if self.by_rows else math.prod(self.row.shape)

    @property
    def bytes(self) -> int:
        """Its size in the new file."""
        return math.prod(self.row.shape) * WIDTHS[self.dtype]


@dataclass(frozen=True)
class Chunk:
    """Some rows of a tensor, [start, stop) of its first dimension (or of its elements): `bytes` from `begin`."""

    tensor: Tensor
    start: int
    stop: int
    begin: int
    bytes: int


Map = Callable[[Row], "Tensor | None"]  # None: left out
Work = Callable[[Chunk, memoryview], int]  # changes the bytes in place; how many they are then


def layout(source: Source, change: Map) -> list[Tensor]:
    """The new file's tensors in its order: wide types first, so that all are aligned; else as in the source."""
    kept = [tensor for row in source.rows.values() if (tensor := change(row)) is not None]
    return sorted(kept, key=lambda tensor: -WIDTHS[tensor.dtype])


def rewrite(
    source: Source,
    tensors: Sequence[Tensor],
    out: Path,
    *,
    work: Work,
    metadata: Callable[[], dict[str, str]],
    check: Callable[[], None],
    done: Callable[[int], object],
) -> None:
    """Write `out`; `done` is told of the bytes read, and `check` asked before `out` gets its name.

    `metadata` is called before and after, and must be of one length.

    Raises:
        WeightsError: a source is cut off, or changes while it is read; whatever `work` and `check` raise.
        OutputError: another process is writing the same file.
        OSError: the disk is full, the folder can't be written.
    """
    with atomic_file(out) as file:
        _check_free(out)
        head = _head(tensors, metadata())
        file.write(head)
        file.flush()
        with _Hand(source, tensors, Path(file.name), len(head), work) as hand:
            _pump(hand, list(_chunks(tensors)), done)
        source.check_unchanged()
        check()
        _check_free(out)
        file.seek(0)
        file.write(_head(tensors, metadata()))


def _check_free(out: Path) -> None:
    """Raises OutputError: another process has made the file since it was looked for."""
    if out.exists():
        raise OutputError(f"{out} has been made by another process meanwhile; look at it, or give another name.")


def _head(tensors: Sequence[Tensor], metadata: dict[str, str]) -> bytes:
    """The length and the JSON that a safetensors file begins with, padded to 8 bytes."""
    rows: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.bytes
        rows[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.row.shape), "data_offsets": [begin, end]}
    text = json.dumps(rows, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _chunks(tensors: Sequence[Tensor]) -> Iterator[Chunk]:
    """All that is kept of the source, in the order of its bytes, in pieces of about equal size."""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.row.file, tensor.row.begin)):
        row, rows = tensor.row, tensor.count
        if row.begin == row.end:
            continue
        size = (row.end - row.begin) // rows
        step = math.ceil(rows / math.ceil((row.end - row.begin) / CHUNK))
        step = math.ceil(step / ALIGNED) * ALIGNED
        stops = [*range(step, rows - ALIGNED + 1, step), rows]
        for start, stop in zip([0, *stops], stops, strict=False):
            yield Chunk(tensor, start, stop, row.begin + start * size, (stop - start) * size)


def _pump(hand: _Hand, chunks: Sequence[Chunk], done: Callable[[int], object]) -> None:
    """All chunks, in about their order, by as many threads as there are cores and one that waits for the disk."""
    threads = min(os.cpu_count() or 1, MOST_CORES) + 1
    tasks = deque[tuple[Chunk, Future[None]]]()
    with ThreadPoolExecutor(threads) as pool:
        for chunk in chunks:
            tasks.append((chunk, pool.submit(hand, chunk)))
            if len(tasks) > AHEAD * threads:
                _end_oldest(tasks, done)
        while tasks:
            _end_oldest(tasks, done)


def _end_oldest(tasks: deque[tuple[Chunk, Future[None]]], done: Callable[[int], object]) -> None:
    chunk, future = tasks.popleft()
    future.result()
    done(chunk.bytes)


def _flush(file: FileIO, place: int) -> None:
    """Have the system begin to put a finished stretch on the disk: little is left to wait for at the end.

    Against one wait at the end 0.5 s faster for 4 GB; against shorter stretches, 1 to 2 s (scripts/bench_rewrite.py).
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), place, FLUSH, os.POSIX_FADV_DONTNEED)


class _Hand:
    """Reads a chunk, works on it and writes it, all in the thread that calls: it stays in one core's cache."""

    def __init__(self, source: Source, tensors: Sequence[Tensor], part: Path, start: int, work: Work) -> None:
        self.source, self.part, self.work = source, part, work
        self.places, self.own, self.opened = dict[str, int](), local(), list[FileIO]()
        for tensor in tensors:
            self.places[tensor.name], start = start, start + tensor.bytes

    def __enter__(self) -> _Hand:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.opened:
            file.close()

    def __call__(self, chunk: Chunk) -> None:
        view = self._buffer(chunk.bytes)
        self._read(chunk, view)
        view = view[: self.work(chunk, view)]
        assert len(view) * chunk.tensor.count == chunk.tensor.bytes * (chunk.stop - chunk.start), chunk.tensor.name
        self._write(view, self.places[chunk.tensor.name] + chunk.start * (len(view) // (chunk.stop - chunk.start)))

    def _read(self, chunk: Chunk, view: memoryview) -> None:
        file = self._file(path := self.source.paths[chunk.tensor.row.file], "rb")
        file.seek(chunk.begin)
        while view:
            count = file.readinto(view)
            if not count:
                raise WeightsError(f"{path} has become shorter while it was read; get it again.")
            view = view[count:]

    def _write(self, view: memoryview, place: int) -> None:
        file = self._file(self.part, "r+b")
        file.seek(place)
        end = place + len(view)
        while view:
            view = view[file.write(view) :]
        if place // FLUSH < end // FLUSH:
            _flush(file, place // FLUSH * FLUSH)

    def _buffer(self, size: int) -> memoryview:
        if len(getattr(self.own, "buffer", b"")) < size:
            self.own.buffer = bytearray(max(size, CHUNK))
        return memoryview(self.own.buffer)[:size]

    def _file(self, path: Path, mode: Literal["rb", "r+b"]) -> FileIO:
        """This thread's own handle."""
        files = self.own.__dict__.setdefault("files", {})
        if path not in files:
            files[path] = path.open(mode, buffering=0)
            self.opened.append(files[path])
        return files[path]  # type: ignore[no-any-return]
