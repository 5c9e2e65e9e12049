"""`BlockReader`: random access to one version of a remote object through aligned, cached blocks.

It knows no HTTP and no ZIP. A block is `BLOCK` bytes at a multiple of `BLOCK`; the last one is
shorter. What is missing side by side is fetched in one range.
"""

import itertools
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Final, Protocol

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

    def has(self, reader: int, index: int) -> bool:
        """Whether the block is cached; asking does not count as a use."""
        return (reader, index) in self._blocks

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


class StoredBlocks(Protocol):
    """The blocks of one object version that outlive the process."""

    def has(self, index: int) -> bool:
        """Whether the block seems to be there."""
        ...

    def get(self, index: int) -> bytes | None:
        """Return the block if it is there and right."""
        ...

    def put(self, first: int, run: bytes | bytearray) -> None:
        """Keep the blocks of *run*, from *first* on."""
        ...

    def drop(self, first: int, last: int) -> None:
        """Forget the blocks [first, last]."""
        ...


Run = tuple[int, bytes | bytearray]  # the index of its first block, and the bytes


class BlockReader:
    """Random access to one immutable version of a remote object.

    A block is looked for in memory, then on disk, then fetched. Memory is the cache's plus what
    is in flight. Safe for concurrent use: the lock guards the table of runs under way only, so two
    readers of one block cost one request and different blocks never wait for each other. A failure
    is never kept: the next reader tries again.
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
        disk: StoredBlocks | None = None,
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
        self._disk = disk
        self._under_way: dict[int, Future[Run]] = {}
        self._drops = 0
        self._unused: set[int] = set()  # fetched ahead, and not read since

    def seed(self, start: int, body: bytes) -> None:
        """Keep the whole blocks of *body*, the bytes from *start* on, that came by other means."""
        first = -(-start // BLOCK)
        stop = start + len(body)
        last = -(-stop // BLOCK) if stop == self.size else stop // BLOCK
        if first < last:
            self._keep(first, body[first * BLOCK - start : last * BLOCK - start])

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
                    ready[index] = bytes(memoryview(run)[begin : begin + BLOCK])
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
        first, last = start // BLOCK, (max(stop, start + 1) - 1) // BLOCK
        self._drops += 1
        self._cache.drop(self._id, first, last)
        if self._disk is not None:
            self._disk.drop(first, last)

    def forget(self) -> None:
        """Give up the memory of all blocks; what is on disk stays."""
        self._cache.drop(self._id, 0, self.size // BLOCK)

    def _collect(
        self, first: int, last: int, run_bytes: int = MAX_RUN, *, ahead: bool = False
    ) -> tuple[dict[int, bytes], list["Future[Run]"]]:
        """Return the blocks [first, last] that are here and the runs on their way with the rest.

        With *ahead* nobody waits for them, so what is here already is left where it is.
        """
        ready: dict[int, bytes] = {}
        awaited: dict[int, Future[Run]] = {}
        indices: Iterable[int] = range(first, last + 1)
        for look in (self._look_in_memory, self._look_on_disk):
            indices = [index for index in indices if not look(index, ready, awaited, ahead)]
        if indices:
            with self._lock:
                # Between the look and the lock another reader may have been here.
                missing = [i for i in indices if not self._look_in_memory(i, ready, awaited, ahead)]
                for begin, end in _runs(missing, max(1, run_bytes // BLOCK)):
                    future: Future[Run] = Future()
                    self._pool.submit(self._fetch_run, future, begin, end)
                    awaited[id(future)] = future
                    self._under_way.update(dict.fromkeys(range(begin, end), future))
            if ahead and missing:
                self._stats.add("read_ahead_bytes", len(missing) * BLOCK)
                self._unused.update(missing)
        if not ahead:
            self._stats.add("block_hits", len(ready))
            self._stats.add("block_misses", last + 1 - first - len(ready))
            used = [index for index in range(first, last + 1) if index in self._unused]
            if used:
                self._unused.difference_update(used)
                self._stats.add("read_ahead_used_bytes", len(used) * BLOCK)
        return ready, list(awaited.values())

    def _look_in_memory(
        self, index: int, ready: dict[int, bytes], awaited: dict[int, "Future[Run]"], ahead: bool
    ) -> bool:
        future = self._under_way.get(index)
        if future is not None:
            awaited[id(future)] = future
            return True
        block = self._cache.get(self._id, index)
        if block is not None and not ahead:
            ready[index] = block
        return block is not None

    def _look_on_disk(
        self, index: int, ready: dict[int, bytes], awaited: dict[int, "Future[Run]"], ahead: bool
    ) -> bool:
        if self._disk is None:
            return False
        if ahead:
            return self._disk.has(index)
        block = self._disk.get(index)
        if block is None or len(block) != min(BLOCK, self.size - index * BLOCK):
            return False
        self._stats.add("disk_hits")
        self._cache.put(self._id, index, block)
        ready[index] = block
        return True

    def _fetch_run(self, future: "Future[Run]", first: int, stop: int) -> None:
        """Fetch the blocks [first, stop) in one range; hand them out first, then keep them."""
        run: bytes | bytearray = b""
        failure: BaseException | None = None
        try:
            begin = first * BLOCK
            run = self._remote.fetch_range(begin, min(stop * BLOCK, self.size), self.version)
            self._keep_in_memory(first, run)
        except BaseException as exc:
            failure = exc
        with self._lock:
            for index in range(first, stop):
                self._under_way.pop(index, None)
        if failure is not None:
            future.set_exception(failure)
            return
        future.set_result((first, run))
        # Where bytes proved wrong, others on their way may be: they must not outlive this reader,
        # or the next one would meet them when the store is well again.
        if self._disk is not None and not self._drops:
            self._disk.put(first, run)
            if self._drops:
                self._disk.drop(first, stop - 1)

    def _keep_in_memory(self, first: int, run: bytes | bytearray) -> None:
        view = memoryview(run)
        for at in range(0, len(run), BLOCK):
            self._cache.put(self._id, first + at // BLOCK, bytes(view[at : at + BLOCK]))

    def _keep(self, first: int, run: bytes) -> None:
        self._keep_in_memory(first, run)
        if self._disk is not None:
            self._disk.put(first, run)


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
