"""What torch's caching allocator takes of a GPU for tensors that come and go (c10/cuda/CUDACachingAllocator.cpp)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

MIB = 2**20
Event = tuple[int, int]  # a tensor's number and its bytes; minus them where it is freed


def rounded(size: int, to: int = 512) -> int:
    """Up to a multiple, as the allocator rounds."""
    return -(-size // to) * to


def reserved(events: Iterable[Event], *, expandable: bool) -> int:
    """Bytes at the end, which are those at the peak: nothing is given back on a card with room."""
    small, large = _Pool(expandable, 2 * MIB), _Pool(expandable, 20 * MIB)
    places = dict[int, tuple[_Pool, int, int]]()
    for number, size in events:
        if size > 0:
            pool = small if size <= MIB else large
            places[number] = pool, *pool.take(size)
        elif number in places:
            pool, place, length = places.pop(number)
            pool.give(place, length)
    return small.size + large.size


class _Pool:
    """Free blocks of one pool: the smallest that fits is taken, split where enough is left, and merged when given back.

    It grows by a segment of so many bytes, or of one's own from 10 MiB on; expandable, it is one segment.
    """

    def __init__(self, expandable: bool, segment: int) -> None:
        self.size = self._top = 0
        self._expandable, self._segment = expandable, segment
        self._least = 512 if expandable or segment == 2 * MIB else MIB + 1  # that is split off
        self._free = list[tuple[int, int]]()  # size and address, sorted
        self._starts, self._ends = dict[int, int](), dict[int, int]()  # of the free ones: each's other end

    def take(self, size: int) -> tuple[int, int]:
        """Address and length of a block."""
        at = bisect_left(self._free, (size, 0))
        if at == len(self._free):
            self._grow(size)
            at = bisect_left(self._free, (size, 0))
        length, place = self._free[at]
        self._pop(place)
        if length - size >= self._least:
            self.give(place + size, length - size)
            length = size
        return place, length

    def give(self, place: int, length: int) -> None:
        """A block is free."""
        end = place + length
        if end in self._starts:
            end = self._pop(end)
        if place in self._ends:
            place = self._ends[place]
            self._pop(place)
        self._starts[place], self._ends[end] = end, place
        insort(self._free, (end - place, place))

    def _pop(self, place: int) -> int:
        """The end of a free block, which is none any more."""
        end = self._starts.pop(place)
        del self._ends[end]
        del self._free[bisect_left(self._free, (end - place, place))]
        return end

    def _grow(self, size: int) -> None:
        if self._expandable:
            last = self._top - self._ends.get(self._top, self._top)  # bytes that are free at its end
            more = rounded(size - last, self._segment)
        else:
            more = self._segment if size < 10 * MIB else rounded(size, 2 * MIB)
            self._top += 1  # segments are no neighbours
        self.size += more
        self._top += more
        self.give(self._top - more, more)
