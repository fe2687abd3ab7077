"""Stream safetensors files into a new one: any size, constant memory, whole or not there at all.

Reading, working and writing overlap, since several threads do all three. What becomes of a tensor's bytes is the
caller's; this module knows where they lie. Standard library only: it runs in the training Python.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from wanwrap.errors import OutputError, WeightsError
from wanwrap.rewrite.job import Job, Tensor
from wanwrap.system.files import atomic_file, patiently
from wanwrap.system.process import cores
from wanwrap.system.safetensors import WIDTHS

CHUNK = 1 << 20  # bytes worked on at a time: in fp32 and twice they still fit a processor's cache
FLUSH = 256 << 20  # bytes after which the system is asked to begin writing them
MOST_CORES = 8  # by then the disk is the slower one
ALIGNED = 16  # rows at least, and a multiple: products of very few rows are rounded otherwise than those of many
OFTEN = 0.2  # seconds between two reports


@dataclass(frozen=True)
class Chunk:
    """Some rows of a tensor, [start, stop) of its first dimension (or of its elements).

    They are `bytes` from `begin` in the source, and stand at `place` in the new file.
    """

    tensor: Tensor
    start: int
    stop: int
    begin: int
    bytes: int
    place: int


Work = Callable[[Chunk, memoryview], int]  # changes the bytes in place; how many they are then


def rewrite(
    job: Job, out: Path, *, work: Work, hashes: Mapping[Path, Future[str]], done: Callable[[int], object]
) -> None:
    """Write `out`; `done` is told how many bytes are done. `hashes` of `job.hashed` may come in the meantime.

    Raises:
        WeightsError: a source is cut off, changes while it is read, or is not what it must be; whatever `work` raises.
        OutputError: another process is writing the same file.
        OSError: the disk is full, the folder can't be written.
    """
    # wide types first, so that all are aligned; else as in the source
    tensors = sorted(job.tensors, key=lambda tensor: -WIDTHS[tensor.dtype])
    with atomic_file(out) as file:
        head = _head(tensors, job.metadata(dict.fromkeys(hashes, "0" * 64)))  # as long as the one that is true
        file.write(head)
        file.flush()
        _pump(job, Path(file.name), [*_chunks(tensors, len(head))], work, done)
        job.source.check_unchanged()
        marks = {path: future.result() for path, future in hashes.items()}
        job.check(marks)
        if out.exists():
            raise OutputError(f"{out} has been made by another process meanwhile; look at it, or give another name.")
        file.seek(0)
        file.write(_head(tensors, job.metadata(marks)))


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


def _chunks(tensors: Sequence[Tensor], place: int) -> Iterator[Chunk]:
    """All that is kept of the source, in the order of its bytes; `place` is where the first tensor begins."""
    places = dict[str, int]()
    for tensor in tensors:
        places[tensor.name], place = place, place + tensor.bytes
    for tensor in sorted(tensors, key=lambda tensor: (tensor.row.file, tensor.row.begin)):
        row, rows, place = tensor.row, tensor.count, places[tensor.name]
        if row.begin == row.end:
            continue
        old, new = (row.end - row.begin) // rows, tensor.bytes // rows  # bytes of one row
        step = max(CHUNK // old // ALIGNED, 1) * ALIGNED
        stops = [*range(step, rows - ALIGNED + 1, step), rows]
        for start, stop in zip([0, *stops], stops, strict=False):
            yield Chunk(tensor, start, stop, row.begin + start * old, (stop - start) * old, place + start * new)


def _pump(job: Job, part: Path, chunks: Sequence[Chunk], work: Work, done: Callable[[int], object]) -> None:
    """All chunks, in about their order, by as many threads as there are cores and one that waits for the disk."""
    threads = min(cores(), MOST_CORES) + 1
    queue = deque[Chunk | None]([*chunks, *[None] * threads])
    all_of_it, largest = len(queue), max((chunk.bytes for chunk in chunks), default=0)

    def serve() -> None:
        """Read a chunk, work on it and write it, all in one thread: it stays in one core's cache."""
        buffer = memoryview(bytearray(largest))
        with ExitStack() as stack:
            stack.callback(queue.appendleft, None)  # where this thread has failed the others end as well
            sources = [stack.enter_context(patiently(partial(FileIO, path))) for path in job.source.paths]
            file = stack.enter_context(patiently(partial(FileIO, part, "r+")))
            while chunk := queue.popleft():
                view = buffer[: chunk.bytes]
                _read(sources[chunk.tensor.row.file], chunk.begin, view)
                _write(file, chunk.place, view[: work(chunk, view)])

    with ThreadPoolExecutor(threads) as pool:
        tasks = [pool.submit(serve) for _ in range(threads)]
        try:
            while wait(tasks, OFTEN).not_done:
                done(job.source.bytes * (all_of_it - len(queue)) // all_of_it)
        finally:
            queue.extendleft([None] * threads)
    for task in tasks:
        task.result()


def _read(file: FileIO, begin: int, view: memoryview) -> None:
    file.seek(begin)
    while view:
        count = file.readinto(view)
        if not count:
            raise WeightsError(f"{file.name} has become shorter while it was read; get it again.")
        view = view[count:]


def _write(file: FileIO, place: int, view: memoryview) -> None:
    """Also have the system begin to put each finished stretch on the disk: little is left to wait for at the end.

    Against one wait at the end 0.5 s faster for 4 GB; against shorter stretches, 1 to 2 s.
    """
    file.seek(place)
    stretch, over = place // FLUSH, (place + len(view)) // FLUSH
    while view:
        view = view[file.write(view) :]
    if sys.platform == "linux" and stretch < over:
        os.posix_fadvise(file.fileno(), stretch * FLUSH, FLUSH, os.POSIX_FADV_DONTNEED)
