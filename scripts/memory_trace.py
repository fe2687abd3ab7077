"""What tensors take of a GPU's memory, followed while they come and go. They may be fake ones, on a CPU."""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from caching_allocator import Event, rounded
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"  # what fake tensors on "cpu" take; all others have a formula


class Trace(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
    """While it is on: the bytes of all tensors at each moment's peak by kind, each allocation and release, and `flops`."""

    def __init__(self) -> None:
        super().__init__()
        self.events = list[Event]()
        self.now, self.moment = Counter[str](), ""
        self.peaks = defaultdict[str, Counter[str]](Counter)  # by moment
        self.flops = 0
        self._in_ram = False  # new tensors are none of the GPU's
        self._living = dict[int, tuple[int, int, str]]()  # number, bytes and kind by the storage's address
        self._ends = dict[int, Any]()  # what tells a storage's end, by its number

    def hold(self, tensors: Iterable[Any], kind: str, *, in_ram: bool = False) -> None:
        """Count these: their storages are of this kind from now on."""
        self._in_ram = in_ram
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._add(storage)
            number, size, before = self._living[storage._cdata]
            self._living[storage._cdata] = number, size, kind
            self.now[before] -= size
            self.now[kind] += size
        self._in_ram = False

    def is_in_ram(self, tensor: Any) -> bool:
        """Whether it is none of the GPU's."""
        return not self._living[tensor.untyped_storage()._cdata][1]

    def copy(self, tensor: Any, *, in_ram: bool) -> Any:
        """One in RAM, or on the GPU."""
        self._in_ram = in_ram
        copied = tensor.clone()
        self._in_ram = False
        return copied

    def _add(self, storage: Any) -> None:
        place = storage._cdata
        if place in self._living:
            return
        number, size = len(self._ends), 0 if self._in_ram else rounded(storage.nbytes())
        self._ends[number] = weakref.ref(storage, partial(self._remove, place))
        self._living[place] = number, size, "rest"
        self.events.append((number, size))
        self.now["rest"] += size
        self._look()

    def _remove(self, place: int, _: Any) -> None:
        number, size, kind = self._living.pop(place)
        self.now[kind] -= size
        self.events.append((number, -size))

    def _look(self, more: int = 0) -> None:
        """`more` than there is at the moment is needed for a kernel alone."""
        if self.now.total() + more > self.peaks[self.moment].total():
            self.peaks[self.moment] = self.now + Counter(rest=more)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":  # which stands for RAM
                self._add(leaf.untyped_storage())
        packet = func._overloadpacket
        if packet.__name__.startswith(ATTENTION):
            backward = packet.__name__.endswith("backward")
            self._attend(*args[backward : backward + 2], backward=backward)
        elif packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out

    def _attend(self, query: Any, key: Any, *, backward: bool) -> None:
        """CUDA's kernel computes the scores anew in the backward pass, and adds up a gradient in float32."""
        self.flops += (10 if backward else 4) * query.numel() * key.shape[-2]
        if backward:
            size = 4 * query.numel()
            self._look(size)
            self.events += [(-1, size), (-1, -size)]
