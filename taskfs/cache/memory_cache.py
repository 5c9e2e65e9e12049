"""`ExtentCache`: bytes in memory, in extents of adjacent blocks (or spans)."""

import itertools
import threading
from collections import OrderedDict

from taskfs.cache.block import BLOCK
from taskfs.support.buffers import Buffer
from taskfs.support.private_memory import MemoryLimit, UnlimitedMemory

_owners = itertools.count()


def next_owner() -> int:
    """Return a number that identifies one owner of extents."""
    return next(_owners)


class Extent:
    """Adjacent bytes: *count* blocks (or spans) of one owner from *first* on.

    They share one buffer, so they are evicted together.
    """

    __slots__ = ("body", "count", "first", "owner")

    def __init__(self, owner: int, first: int, count: int, body: Buffer) -> None:
        self.owner = owner
        self.first = first
        self.count = count
        self.body = body

    @property
    def indices(self) -> range:
        """The numbers of its blocks."""
        return range(self.first, self.first + self.count)

    @property
    def keys(self) -> list[tuple[int, int]]:
        """The keys of its blocks in the cache."""
        return [(self.owner, index) for index in self.indices]

    @property
    def stop(self) -> int:
        """The offset in the object after its last byte; for blocks only."""
        return self.first * BLOCK + len(self.body)

    def view(self, start: int, stop: int) -> memoryview:
        """Return the bytes [start, stop) of the object, which lie in it; for blocks only."""
        begin = self.first * BLOCK
        return memoryview(self.body)[start - begin : stop - begin]


class ExtentCache:
    """Extents of all owners, at most *max_bytes*; the least recently used is evicted first.

    While *memory* has an excess, the cache shrinks, down to *min_bytes*. Safe for concurrent use:
    one lock guards the tables.
    """

    def __init__(
        self, max_bytes: int, min_bytes: int = 0, memory: MemoryLimit | None = None
    ) -> None:
        self._max_bytes = max_bytes
        self._min_bytes = min_bytes
        self._memory = memory or UnlimitedMemory()
        self._lock = threading.Lock()
        self._used: OrderedDict[Extent, None] = OrderedDict()  # in the order of use
        self._extent_of_block: dict[tuple[int, int], Extent] = {}
        self._bytes = 0

    def find(self, owner: int, index: int) -> Extent | None:
        """Return the extent that holds the block, or None."""
        with self._lock:
            extent = self._extent_of_block.get((owner, index))
            if extent is not None:
                self._used.move_to_end(extent)
            return extent

    def has(self, owner: int, index: int) -> bool:
        """Whether the block is cached; this does not count as a use."""
        return (owner, index) in self._extent_of_block

    def put(self, extent: Extent) -> None:
        """Cache the extent; evict others to make room."""
        if len(extent.body) > self._max_bytes:
            return
        with self._lock:
            self._used[extent] = None
            self._bytes += len(extent.body)
            for key in extent.keys:
                self._extent_of_block[key] = extent
            excess = self._memory.take_excess()
            limit = min(self._max_bytes, max(self._min_bytes, self._bytes - excess))
            while self._bytes > limit:
                self._remove(next(iter(self._used)))

    def demote(self, owner: int, index: int) -> None:
        """Make the extent of block *index* the next to be evicted, if it has no later block."""
        with self._lock:
            extent = self._extent_of_block.get((owner, index))
            if extent is not None and extent.first + extent.count - 1 <= index:
                self._used.move_to_end(extent, last=False)

    def drop(self, owner: int, first: int, last: int) -> None:
        """Forget the blocks [first, last] of one owner."""
        with self._lock:
            if last - first < len(self._extent_of_block):
                keys = [(owner, index) for index in range(first, last + 1)]
            else:
                keys = [
                    key
                    for key in self._extent_of_block
                    if key[0] == owner and first <= key[1] <= last
                ]
            for extent in {
                self._extent_of_block.pop(key) for key in keys if key in self._extent_of_block
            }:
                if not any(self._extent_of_block.get(key) is extent for key in extent.keys):
                    self._remove(extent)

    def _remove(self, extent: Extent) -> None:
        del self._used[extent]
        self._bytes -= len(extent.body)
        for key in extent.keys:
            if self._extent_of_block.get(key) is extent:
                del self._extent_of_block[key]
