"""`BlockReader`: random access to one version of a remote object through aligned, cached blocks.

It knows no HTTP and no ZIP. A block is `BLOCK` bytes at a multiple of `BLOCK`; the last one is
shorter. What is missing side by side is fetched in one range.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from typing import Final

from taskfs.cache.memory_cache import BLOCK, Extent, ExtentCache, next_owner
from taskfs.cache.range_locks import StoredBlocks, fetch_missing
from taskfs.model import ObjectVersion, RemoteObject
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats

MAX_RUN: Final = 4 << 20  # the longest range of one request
_Awaited = dict[int, "Future[Extent]"]  # by identity


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
        cache: ExtentCache,
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
        self._id = next_owner()
        self._lock = threading.Lock()
        self._disk = disk
        self._under_way: dict[int, Future[Extent]] = {}
        self._drops = 0
        self._unused: set[int] = set()  # fetched ahead, and not read since

    def prime(self, start: int, body: bytes) -> None:
        """Keep the whole blocks of *body*, the bytes from *start* on, that came by other means."""
        first = -(-start // BLOCK)
        stop = start + len(body)
        last = -(-stop // BLOCK) if stop == self.size else stop // BLOCK
        if first < last:
            run = body[first * BLOCK - start : last * BLOCK - start]
            self._cache.put(self._extent(first, run))
            if self._disk is not None:
                self._disk.put(first, run)

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size), fewer only at the end of the object.

        Raises:
            StaleObject, NotFound, Unavailable, …: as `RemoteObject.fetch_range`.
        """
        stop = min(offset + size, self.size)
        if offset >= stop:
            return b""
        first, last = offset // BLOCK, (stop - 1) // BLOCK
        ready, awaited, _ = self._collect(first, last)
        for future in awaited:
            extent = self._waiter.result(future)
            for index in extent.indices:
                ready.setdefault(index, extent)
        pieces = []
        while offset < stop:
            extent = ready[offset // BLOCK]
            end = min(stop, extent.stop)
            pieces.append(extent.view(offset, end))
            offset = end
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_some(self, offset: int, size: int) -> Buffer:
        """Return the bytes from *offset* on, at most *size*, as far as they lie in memory side by
        side: a view. Where the first of them is not there, all of them, as `read_at` does.
        """
        first = offset // BLOCK
        extent = self._cache.find(self._id, first)
        if extent is None:
            return self.read_at(offset, size)
        piece = extent.view(offset, min(offset + size, extent.stop))
        last = (offset + len(piece) - 1) // BLOCK
        self._note_read(first, last, last + 1 - first)
        return piece

    def prefetch(self, start: int, stop: int, run_bytes: int = MAX_RUN) -> bool:
        """Have the blocks of [start, stop) fetched in ranges of *run_bytes*, without waiting.

        Return whether any of them was neither here nor on its way.
        """
        stop = min(stop, self.size)
        if start >= stop:
            return False
        first, last = start // BLOCK, (stop - 1) // BLOCK
        return self._collect(first, last, run_bytes, ahead=True)[2] > 0

    def is_cached(self, start: int, stop: int) -> bool:
        """Whether the bytes [start, stop) are in memory."""
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        return all(self._cache.has(self._id, index) for index in blocks)

    def drop(self, start: int, stop: int) -> None:
        """Forget the cached blocks of [start, stop): their bytes proved wrong."""
        # What says where they end may be a lie: an exabyte is not walked through.
        first, last = start // BLOCK, (min(max(stop, start + 1), self.size) - 1) // BLOCK
        self._drops += 1
        self._cache.drop(self._id, first, last)
        if self._disk is not None and first <= last:
            self._disk.drop(first, last)

    def _extent(self, first: int, body: Buffer) -> Extent:
        return Extent(self._id, first, -(-len(body) // BLOCK), body)

    def _collect(
        self, first: int, last: int, run_bytes: int = MAX_RUN, *, ahead: bool = False
    ) -> tuple[dict[int, Extent], list["Future[Extent]"], int]:
        """Return where the blocks [first, last] are that are here, the runs on their way with the
        rest, and how many blocks nobody had asked for before.

        With *ahead* nobody waits for them, so what is here already is left where it is.
        """
        ready: dict[int, Extent] = {}
        awaited: _Awaited = {}
        missing: list[int] = []
        indices = [
            index
            for index in range(first, last + 1)
            if not self._look_in_memory(index, ready, awaited, ahead)
        ]
        recalled = 0
        if indices and self._disk is not None:
            there = self._disk.present(indices[0], indices[-1] + 1)
            stored = set(there).intersection(indices)
            if ahead:
                for begin, end in _runs(stored, max(1, run_bytes // BLOCK)):
                    self._pool.submit(self._recall_ahead, begin, end)
                recalled = len(stored)
            else:
                for extent in self._recall(stored):
                    self._cache.put(extent)
                    ready.update(dict.fromkeys(extent.indices, extent))
                stored.intersection_update(ready)
            indices = [index for index in indices if index not in stored]
        if indices:
            with self._lock:
                # Between the look and the lock another reader may have been here.
                missing = [i for i in indices if not self._look_in_memory(i, ready, awaited, ahead)]
                for begin, end in _runs(missing, max(1, run_bytes // BLOCK)):
                    future: Future[Extent] = Future()
                    self._pool.submit(self._fetch_run, future, begin, end)
                    awaited[id(future)] = future
                    self._under_way.update(dict.fromkeys(range(begin, end), future))
            if ahead and missing:
                self._stats.add("read_ahead_bytes", len(missing) * BLOCK)
                self._unused.update(missing)
        if not ahead:
            self._note_read(first, last, len(ready))
        return ready, list(awaited.values()), len(missing) + recalled

    def _note_read(self, first: int, last: int, hits: int) -> None:
        if hits:
            self._stats.add("block_hits", hits)
        if hits <= last - first:
            self._stats.add("block_misses", last + 1 - first - hits)
        if self._unused:
            used = self._unused.intersection(range(first, last + 1))
            if used:
                self._unused -= used
                self._stats.add("read_ahead_used_bytes", len(used) * BLOCK)

    def _look_in_memory(
        self,
        index: int,
        ready: dict[int, Extent],
        awaited: _Awaited,
        ahead: bool,
    ) -> bool:
        future = self._under_way.get(index)
        if future is not None:
            awaited[id(future)] = future
            return True
        if ahead:
            return self._cache.has(self._id, index)
        extent = self._cache.find(self._id, index)
        if extent is not None:
            ready[index] = extent
        return extent is not None

    def _recall(self, indices: Iterable[int]) -> Iterator[Extent]:
        """Yield, in order, what is on disk of these blocks, and right."""
        for begin, stop in _runs(indices, MAX_RUN // BLOCK):
            while begin < stop:
                run = self._stored(begin, stop)
                if run:
                    extent = self._extent(begin, run)
                    self._stats.add("disk_hits", extent.count)
                    yield extent
                begin += extent.count if run else 1

    def _recall_ahead(self, first: int, stop: int) -> None:
        """Have in memory what is on disk of the blocks [first, stop). Nobody waits for that: who
        comes before it, or while the store holds up all threads, reads them there itself."""
        drops = self._drops
        for extent in self._recall(
            i for i in range(first, stop) if not self._cache.has(self._id, i)
        ):
            if self._drops == drops:
                self._cache.put(extent)

    def _fetch_run(self, future: "Future[Extent]", first: int, stop: int) -> None:
        """Fetch the blocks [first, stop), which no other process with the same disk fetches too."""
        with self._disk.lock_range(first, stop - 1) if self._disk is not None else nullcontext():
            self._fetch_claimed(future, first, stop)

    def _fetch_range(self, first: int, stop: int) -> Buffer:
        return self._remote.fetch_range(first * BLOCK, min(stop * BLOCK, self.size), self.version)

    def _stored(self, first: int, stop: int) -> Buffer:
        """Return what is on disk of the blocks from *first* on, up to *stop*, of the right length;
        empty if the first is not."""
        run = (self._disk.get(first, stop - first) if self._disk is not None else None) or b""
        whole = min(stop * BLOCK, self.size) - first * BLOCK
        return run if len(run) == whole else run[: min(len(run), whole) // BLOCK * BLOCK]

    def _fetch_claimed(self, future: "Future[Extent]", first: int, stop: int) -> None:
        """Fetch what nobody has kept by now of the blocks [first, stop); hand all of them out
        first, then keep it."""
        failure: BaseException | None = None
        fetched: list[tuple[int, Buffer]] = []

        def fetch(begin: int, end: int) -> Buffer:
            run = self._fetch_range(begin, end)
            fetched.append((begin, run))
            return run

        try:
            there = self._disk.present(first, stop) if self._disk is not None else []
            stored = ((e.first, e.first + e.count, e.body) for e in self._recall(there))
            extent = self._extent(first, fetch_missing(stored, fetch, first, stop))
            self._cache.put(extent)
        except BaseException as exc:
            failure = exc
        with self._lock:
            for index in range(first, stop):
                self._under_way.pop(index, None)
        if failure is not None:
            future.set_exception(failure)
            return
        future.set_result(extent)
        # Where bytes proved wrong, others on their way may be: they must not outlive this reader,
        # or the next one would meet them when the store is well again.
        for begin, run in fetched:
            if self._disk is not None and not self._drops:
                self._disk.put(begin, run)
                if self._drops:
                    self._disk.drop(begin, stop - 1)


def _runs(indices: Iterable[int], longest: int) -> Iterator[tuple[int, int]]:
    """Yield the half-open runs of neighbours among the *indices*, at most *longest* each."""
    begin = stop = -1
    for index in sorted(indices):
        if index == stop and stop - begin < longest:
            stop += 1
            continue
        if begin < stop:
            yield begin, stop
        begin, stop = index, index + 1
    if begin < stop:
        yield begin, stop
