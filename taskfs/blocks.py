"""`BlockReader`: random access to one version of a remote object through aligned, cached blocks.

It knows no HTTP and no ZIP. A block is `BLOCK` bytes at a multiple of `BLOCK`; the last one is
shorter. What is missing side by side is fetched in one range.
"""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from typing import Final

from cachetools import LRUCache

from taskfs.model import ObjectVersion, RemoteObject
from taskfs.stats import Stats
from taskfs.waiting import Waiter

BLOCK: Final = 64 << 10
MAX_RUN: Final = 4 << 20  # the longest range of one request
_reader_ids = itertools.count()


class BlockCache:
    """The blocks of all objects in memory, at most *max_bytes*; least recently used goes first.

    Safe for concurrent use: one lock, held for the table only.
    """

    def __init__(self, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self._blocks: LRUCache[tuple[int, int], bytes] = LRUCache(max_bytes, getsizeof=len)

    def get(self, reader: int, index: int) -> bytes | None:
        """Return the block, or None where it is not cached."""
        with self._lock:
            return self._blocks.get((reader, index))

    def put(self, reader: int, index: int, block: bytes) -> None:
        """Keep the block for a while."""
        with self._lock:
            if len(block) <= self._blocks.maxsize:
                self._blocks[reader, index] = block

    def drop(self, reader: int, first: int, last: int) -> None:
        """Forget the blocks [first, last] of one reader."""
        with self._lock:
            for key in [k for k in self._blocks if k[0] == reader and first <= k[1] <= last]:
                del self._blocks[key]


class BlockReader:
    """Random access to one immutable version of a remote object.

    Memory is the cache's plus what is in flight. Safe for concurrent use: the lock guards the
    table of runs under way only, so two readers of one block cost one request and different
    blocks never wait for each other. A failure is never kept: the next reader tries again.
    """

    def __init__(
        self,
        remote: RemoteObject,
        version: ObjectVersion,
        *,
        cache: BlockCache,
        pool: Executor,
        waiter: Waiter,
        stats: Stats,
    ) -> None:
        self.version = version
        self.size = version.size
        self._remote = remote
        self._cache = cache
        self._pool = pool
        self._waiter = waiter
        self._stats = stats
        self._id = next(_reader_ids)
        self._lock = threading.Lock()
        self._under_way: dict[int, Future[tuple[int, bytes]]] = {}

    def seed(self, start: int, body: bytes) -> None:
        """Keep the whole blocks of *body*, the bytes from *start* on, that came by other means."""
        stop = start + len(body)
        for index in range(-(-start // BLOCK), -(-stop // BLOCK)):
            begin = index * BLOCK
            if min(begin + BLOCK, self.size) <= stop:
                self._cache.put(self._id, index, body[begin - start : begin - start + BLOCK])

    def read_at(self, offset: int, size: int) -> bytes:
        """Return the bytes [offset, offset + size), fewer only at the end of the object.

        Raises:
            StaleObject, NotFound, Unavailable, …: as `RemoteObject.fetch_range`.
        """
        stop = min(offset + size, self.size)
        if offset >= stop:
            return b""
        first, last = offset // BLOCK, (stop - 1) // BLOCK
        ready, awaited = self._collect(first, last)
        for future in awaited:
            at, run = self._waiter.result(future)
            for index in range(at, at + -(-len(run) // BLOCK)):
                if first <= index <= last and index not in ready:
                    begin = (index - at) * BLOCK
                    ready[index] = run[begin : begin + BLOCK]
        skip = offset - first * BLOCK
        if first == last:
            return ready[first][skip : skip + stop - offset]
        body = b"".join(ready[index] for index in range(first, last + 1))
        return body[skip : skip + stop - offset] if skip or len(body) > stop - offset else body

    def schedule(self, start: int, stop: int, run_bytes: int = MAX_RUN) -> None:
        """Have the blocks of [start, stop) fetched in ranges of *run_bytes*, without waiting."""
        stop = min(stop, self.size)
        if start < stop:
            self._collect(start // BLOCK, (stop - 1) // BLOCK, run_bytes, ahead=True)

    def drop(self, start: int, stop: int) -> None:
        """Forget the cached blocks of [start, stop): their bytes proved wrong."""
        self._cache.drop(self._id, start // BLOCK, (max(stop, start + 1) - 1) // BLOCK)

    def _collect(
        self, first: int, last: int, run_bytes: int = MAX_RUN, *, ahead: bool = False
    ) -> tuple[dict[int, bytes], list["Future[tuple[int, bytes]]"]]:
        """Return the blocks [first, last] that are here and the runs on their way with the rest."""
        ready: dict[int, bytes] = {}
        awaited: dict[int, Future[tuple[int, bytes]]] = {}
        with self._lock:
            missing = []
            for index in range(first, last + 1):
                future = self._under_way.get(index)
                if future is not None:
                    awaited[id(future)] = future
                    continue
                block = self._cache.get(self._id, index)
                if block is None:
                    missing.append(index)
                elif not ahead:
                    ready[index] = block
            for begin, end in _runs(missing, max(1, run_bytes // BLOCK)):
                future = self._pool.submit(self._fetch_run, begin, end)
                awaited[id(future)] = future
                for index in range(begin, end):
                    self._under_way[index] = future
        if not ahead:
            self._stats.add("block_hits", len(ready))
            self._stats.add("block_misses", last + 1 - first - len(ready))
        elif missing:
            self._stats.add("read_ahead_bytes", len(missing) * BLOCK)
        return ready, list(awaited.values())

    def _fetch_run(self, first: int, stop: int) -> tuple[int, bytes]:
        """Fetch the blocks [first, stop) in one range and keep them."""
        try:
            begin = first * BLOCK
            run = self._remote.fetch_range(begin, min(stop * BLOCK, self.size), self.version)
            for index in range(first, stop):
                at = (index - first) * BLOCK
                self._cache.put(self._id, index, run[at : at + BLOCK])
            return first, run
        finally:
            with self._lock:
                for index in range(first, stop):
                    self._under_way.pop(index, None)


def _runs(indices: list[int], longest: int) -> Iterator[tuple[int, int]]:
    """Yield the half-open runs of neighbours among the sorted *indices*, at most *longest* each."""
    at = 0
    while at < len(indices):
        stop = at + 1
        while (
            stop < len(indices) and stop - at < longest and indices[stop] == indices[stop - 1] + 1
        ):
            stop += 1
        yield indices[at], indices[stop - 1] + 1
        at = stop
