"""What a rewrite does to the numbers: add and cast, in fp32 with one rounding. Needs torch: runs in the training Python."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from threading import local
from typing import Any

import torch

from wanwrap.errors import WeightsError
from wanwrap.rewrite.engine import Chunk
from wanwrap.rewrite.job import Job
from wanwrap.system.safetensors import WIDTHS, Row
from wanwrap.weights.lora import LowRank, Patch

TYPES: dict[str, Any] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Worker:
    """Changes the bytes of one chunk after the other; the products run on `device`."""

    def __init__(self, job: Job, device: str = "cpu") -> None:
        self._path, self._patches, self._device = job.source.paths[0], job.patches, device
        self._lora = job.lora or job.source  # without a LoRA nothing is read of it
        self._matrix = lru_cache(4)(self._read)  # for all chunks of a tensor, and of the next
        self._own = local()

    def __call__(self, chunk: Chunk, view: memoryview) -> int:
        """How many bytes the new numbers take, in place of the old ones. Any number of threads may call it.

        Raises:
            WeightsError: NaN or infinity, in the source, in the LoRA or as the result.
        """
        old, new, patches = chunk.tensor.row.dtype, chunk.tensor.dtype, self._patches.get(chunk.tensor.name)
        numbers = torch.frombuffer(view, dtype=TYPES[old])
        if patches or old != new:
            result = self._sum(chunk, numbers, patches or ())
            self._check(result, numbers, chunk)
            numbers = torch.frombuffer(view, dtype=TYPES[new], count=result.numel())
            numbers.copy_(result)
        else:
            self._check(numbers, numbers, chunk)
        return int(numbers.nbytes)

    def _sum(self, chunk: Chunk, numbers: Any, patches: Sequence[Patch]) -> Any:
        """numbers + scale * (up @ down), in this order of operations, in fp32."""
        rows = chunk.stop - chunk.start
        total = self._buffer("total", numbers.numel()).copy_(numbers).view(rows, -1)
        delta = self._buffer("delta", numbers.numel()).view(rows, -1)
        for patch in patches:
            if isinstance(patch, LowRank):
                torch.mm(self._matrix(patch.up)[chunk.start : chunk.stop], self._matrix(patch.down), out=delta)
            else:
                delta.view(-1).copy_(self._piece(patch.name, chunk, numbers.numel()))
            total.add_(delta.mul_(patch.scale))
        return total.view(-1)

    def _buffer(self, name: str, count: int) -> Any:
        """Room for `count` numbers in fp32, of this thread's own: new memory for each chunk would cost a third more."""
        found = getattr(self._own, name, None)
        if found is None or found.numel() < count:
            found = torch.empty(count, device=self._device)
            setattr(self._own, name, found)
        return found[:count]

    def _read(self, name: str) -> Any:
        """A tensor of the LoRA as a matrix in fp32: [out, rank] or [rank, in]."""
        row = self._lora.rows[name]
        return self._numbers(row, 0, row.end - row.begin).reshape(row.shape[0], -1).to(self._device)

    def _piece(self, name: str, chunk: Chunk, count: int) -> Any:
        """The `count` numbers of a tensor of the LoRA that belong to a chunk of one of the same shape."""
        row, changed = self._lora.rows[name], chunk.tensor.row
        first = (chunk.begin - changed.begin) // WIDTHS[changed.dtype]
        return self._numbers(row, first * WIDTHS[row.dtype], count * WIDTHS[row.dtype])

    def _numbers(self, row: Row, begin: int, size: int) -> Any:
        """`size` bytes of a tensor of the LoRA, as fp32."""
        numbers = torch.frombuffer(self._lora.read(row.name, begin, size), dtype=TYPES[row.dtype]).float()
        if not _finite(numbers):
            raise WeightsError(f"{self._lora.paths[0]} holds NaN or infinity in {row.name}; get it again.")
        return numbers

    def _check(self, result: Any, numbers: Any, chunk: Chunk) -> None:
        """Raises WeightsError: NaN or infinity in the source, or only in the result, in its new type."""
        dtype = chunk.tensor.dtype
        if _finite(result, TYPES[dtype]):
            return
        where = f"{self._path}: {chunk.tensor.row.name}"
        if not _finite(numbers):
            raise WeightsError(f"{where} holds NaN or infinity; get the file again.")
        instead = "take --precision bf16" if dtype == "F16" else "take less --strength"
        raise WeightsError(f"{where} does not fit into {dtype}, it would become infinite; {instead}.")


def _finite(numbers: Any, dtype: Any = torch.float32) -> bool:
    """Whether all numbers are, and stay so in another type: rounding keeps their order."""
    return not numbers.numel() or all(bool(each.to(dtype).isfinite()) for each in torch.aminmax(numbers))
