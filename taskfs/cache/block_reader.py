"""`BlockReader`: random access to one version of a remote object through aligned, cached blocks.

It knows no HTTP and no ZIP. A block is `BLOCK` bytes at a multiple of `BLOCK`; the last one is
shorter. Missing blocks that are adjacent are fetched in one range.
"""

import logging
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from functools import partial
from typing import Final

from taskfs.cache.block import BLOCK
from taskfs.cache.memory_cache import Extent, ExtentCache, next_owner
from taskfs.cache.persistent_blocks import PersistentBlocks, fetch_missing
from taskfs.model import ObjectVersion, RemoteObject
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.support.wait_hook import announce_wait

log = logging.getLogger(__name__)

MAX_RUN: Final = 4 << 20  # bytes of the longest range of one request
MAX_KEPT_TAIL: Final = 1 << 20  # bytes of an archive's tail that are kept in memory


class Plan:
    """The blocks of one range, grouped by where their bytes come from."""

    def __init__(self) -> None:
        self.ready: dict[int, Extent] = {}  # in memory; empty for a prefetch
        self.in_flight: dict[int, Future[Extent]] = {}  # by the id() of the future
        self.on_disk: list[int] = []
        self.missing: list[int] = []


class BlockReader:
    """Random access to one immutable version of a remote object.

    A block is looked up in memory, then on disk, then fetched. Safe for concurrent use: the lock
    guards the table of runs in flight only, so two readers of one block cost one request, and
    readers of different blocks never wait for each other. A failure is never cached: the next
    reader tries again.
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
        disk: PersistentBlocks | None,
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
        self._in_flight: dict[int, Future[Extent]] = {}
        self._drop_count = 0  # blocks that were read before a drop are not cached
        self._unused: set[int] = set()  # blocks that were prefetched and not read since

    def put_fetched(self, start: int, body: bytes) -> None:
        """Cache the whole blocks of *body*, the bytes from *start* on that the caller fetched.

        The blocks of a long *body* go to the disk only. Most hold the central directory, which is
        parsed once and then not read again.
        """
        first = -(-start // BLOCK)
        stop = start + len(body)
        last = -(-stop // BLOCK) if stop == self.size else stop // BLOCK
        if first < last:
            run = body[first * BLOCK - start : last * BLOCK - start]
            if len(run) <= MAX_KEPT_TAIL:
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
        plan = self._plan(first, last)
        ready = plan.ready
        if plan.on_disk:
            announce_wait()
        drops = self._drop_count
        for extent in self._read_disk(plan.on_disk):
            self._put(extent, drops)
            ready.update(dict.fromkeys(extent.indices, extent))
        damaged = [index for index in plan.on_disk if index not in ready]
        self._start_fetches(plan, plan.missing + damaged, MAX_RUN)
        self._note_read(first, last, len(ready))
        in_flight = list(plan.in_flight.values())
        plan.in_flight.clear()  # the traceback of a failure refers to this frame
        while in_flight:
            extent = self._waiter.result(in_flight.pop())
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
        """Return a view of at most *size* bytes from *offset* on that lie side by side in memory.

        Where the first of them is not in memory, return all of them, as `read_at` does.
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
        """Start to fetch the blocks of [start, stop) in ranges of *run_bytes*; do not wait.

        Return whether any of them was neither in memory nor in flight.
        """
        stop = min(stop, self.size)
        if start >= stop:
            return False
        plan = self._plan(start // BLOCK, (stop - 1) // BLOCK, ahead=True)
        for begin, end in _runs(plan.on_disk, max(1, run_bytes // BLOCK)):
            self._pool.submit(self._prefetch_from_disk, begin, end)
        started = self._start_fetches(plan, plan.missing, run_bytes, ahead=True)
        if started:
            self._stats.add("read_ahead_bytes", len(started) * BLOCK)
            self._unused.update(started)
        return bool(started or plan.on_disk)

    def disk_files(self, start: int, stop: int) -> list[str]:
        """Return the files of the disk cache for the bytes [start, stop)."""
        return self._disk.files(start // BLOCK, -(-stop // BLOCK)) if self._disk else []

    def is_on_disk(self, start: int, stop: int) -> bool:
        """Whether the disk has all blocks of [start, stop)."""
        first, last = start // BLOCK, -(-stop // BLOCK)
        return self._disk is not None and len(self._disk.present(first, last)) == last - first

    def is_cached(self, start: int, stop: int) -> bool:
        """Whether the bytes [start, stop) are in memory."""
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        return all(self._cache.has(self._id, index) for index in blocks)

    def demote(self, start: int, stop: int) -> None:
        """Let the whole blocks of [start, stop) be evicted before all others."""
        for index in range(max(0, -(-start // BLOCK)), stop // BLOCK):
            self._cache.demote(self._id, index)

    def drop(self, start: int, stop: int) -> None:
        """Forget the cached blocks of [start, stop): their bytes proved wrong."""
        # A damaged directory may give any *stop*: never walk through an exabyte of blocks.
        first, last = start // BLOCK, (min(max(stop, start + 1), self.size) - 1) // BLOCK
        self._drop_count += 1
        self._cache.drop(self._id, first, last)
        if self._disk is not None and first <= last:
            self._disk.drop(first, last)

    def _extent(self, first: int, body: Buffer) -> Extent:
        return Extent(self._id, first, -(-len(body) // BLOCK), body)

    def _put(self, extent: Extent, drops: int) -> None:
        """Keep *extent* in memory, but not if there was a drop after the first *drops*.

        Its bytes, which were read before that drop, may be wrong too.
        """
        if self._drop_count == drops:
            self._cache.put(extent)
            if self._drop_count != drops:
                self._cache.drop(self._id, extent.first, extent.first + extent.count - 1)

    def _plan(self, first: int, last: int, *, ahead: bool = False) -> Plan:
        """Return where the blocks [first, last] are; a look *ahead* does not count as a use."""
        plan = Plan()
        indices = range(first, last + 1)
        plan.missing = [i for i in indices if not self._look_in_memory(i, plan, ahead)]
        if plan.missing and self._disk is not None:
            present = self._disk.present(plan.missing[0], plan.missing[-1] + 1)
            on_disk = set(present).intersection(plan.missing)
            plan.on_disk = sorted(on_disk)
            plan.missing = [index for index in plan.missing if index not in on_disk]
        return plan

    def _look_in_memory(self, index: int, plan: Plan, ahead: bool) -> bool:
        """Whether the block is in flight or in memory; if so, note it in *plan*."""
        future = self._in_flight.get(index)
        if future is not None:
            plan.in_flight[id(future)] = future
            return True
        if ahead:
            return self._cache.has(self._id, index)
        extent = self._cache.find(self._id, index)
        if extent is not None:
            plan.ready[index] = extent
        return extent is not None

    def _start_fetches(
        self, plan: Plan, indices: list[int], run_bytes: int, *, ahead: bool = False
    ) -> list[int]:
        """Fetch these blocks; return those that no other reader has started to fetch meanwhile."""
        if not indices:
            return []
        with self._lock:
            started = [i for i in indices if not self._look_in_memory(i, plan, ahead)]
            for begin, end in _runs(started, max(1, run_bytes // BLOCK)):
                future: Future[Extent] = Future()
                job = self._pool.submit(self._fetch_run, future, begin, end)
                job.add_done_callback(partial(_cancel_with, future))
                plan.in_flight[id(future)] = future
                self._in_flight.update(dict.fromkeys(range(begin, end), future))
        return started

    def _note_read(self, first: int, last: int, hits: int) -> None:
        if log.isEnabledFor(logging.DEBUG):
            path = getattr(self._remote, "path", "object")
            log.debug("%s: blocks %d to %d: %d cached", path, first, last, hits)
        if hits:
            self._stats.add("block_hits", hits)
        if hits <= last - first:
            self._stats.add("block_misses", last + 1 - first - hits)
        if self._unused:
            used = self._unused.intersection(range(first, last + 1))
            if used:
                self._unused -= used
                self._stats.add("read_ahead_used_bytes", len(used) * BLOCK)

    def _read_disk(self, indices: Iterable[int]) -> Iterator[Extent]:
        """Yield in order the runs of these blocks that the disk has undamaged."""
        for begin, stop in _runs(indices, MAX_RUN // BLOCK):
            while begin < stop:
                run = self._read_disk_run(begin, stop)
                if run:
                    extent = self._extent(begin, run)
                    self._stats.add("disk_hits", extent.count)
                    yield extent
                begin += extent.count if run else 1

    def _prefetch_from_disk(self, first: int, stop: int) -> None:
        """Read the blocks [first, stop) from the disk into memory.

        Readers never wait for read-ahead: one that comes earlier reads the disk itself.
        """
        drops = self._drop_count
        indices = (i for i in range(first, stop) if not self._cache.has(self._id, i))
        for extent in self._read_disk(indices):
            self._put(extent, drops)

    def _fetch_run(self, future: "Future[Extent]", first: int, stop: int) -> None:
        """Fetch the blocks [first, stop); one of the processes that share a disk cache does it."""
        lock = self._disk.lock_range(first, stop - 1) if self._disk is not None else nullcontext()
        with lock:
            self._fetch_locked(future, first, stop)

    def _fetch_range(self, first: int, stop: int) -> Buffer:
        return self._remote.fetch_range(first * BLOCK, min(stop * BLOCK, self.size), self.version)

    def _read_disk_run(self, first: int, stop: int) -> Buffer:
        """Return what the disk has of the blocks [first, stop), from *first* on, in whole blocks.

        Empty if the first block is missing or damaged.
        """
        run = (self._disk.get(first, stop - first) if self._disk is not None else None) or b""
        whole = min(stop * BLOCK, self.size) - first * BLOCK
        return run if len(run) == whole else run[: min(len(run), whole) // BLOCK * BLOCK]

    def _fetch_locked(self, future: "Future[Extent]", first: int, stop: int) -> None:
        """Fetch those of the blocks [first, stop) that are not on disk by now.

        Readers get them first; then they are written to the disk.
        """
        drops = self._drop_count
        failure: BaseException | None = None
        fetched: list[tuple[int, Buffer]] = []

        def fetch(begin: int, end: int) -> Buffer:
            run = self._fetch_range(begin, end)
            fetched.append((begin, run))
            return run

        try:
            present = self._disk.present(first, stop) if self._disk is not None else []
            on_disk = ((e.first, e.first + e.count, e.body) for e in self._read_disk(present))
            extent = self._extent(first, fetch_missing(on_disk, fetch, first, stop))
            self._put(extent, drops)
        except BaseException as exc:
            failure = exc
        with self._lock:
            for index in range(first, stop):
                self._in_flight.pop(index, None)
        if failure is not None:
            future.set_exception(failure)
            return
        future.set_result(extent)
        # If bytes of this version proved wrong meanwhile, these may be wrong too. A later reader
        # would find them on the disk when the store has recovered.
        for begin, run in fetched:
            if self._disk is not None and self._drop_count == drops:
                self._disk.put(begin, run)
                if self._drop_count != drops:
                    self._disk.drop(begin, stop - 1)


def _cancel_with(future: "Future[Extent]", job: "Future[None]") -> None:
    """End the waits for *future* if its fetch was cancelled in the queue: the mount is ending."""
    if job.cancelled():
        future.cancel()


def _runs(indices: Iterable[int], longest: int) -> Iterator[tuple[int, int]]:
    """Yield the half-open runs of adjacent *indices*, at most *longest* blocks each."""
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
