"""`taskfs.cache.block_reader`: cached blocks of one version, without a network."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import pytest

from taskfs.cache.block import BLOCK
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.memory_cache import Extent, ExtentCache
from taskfs.cache.persistent_blocks import PersistentBlocks
from taskfs.errors import Closed, Interrupted, StaleObject, Unavailable
from taskfs.support import thread_pool
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.private_memory import UnlimitedMemory
from taskfs.support.stats import Stats
from tests.archive_harness import DaemonPool, FakeObject, run_threads
from tests.mounts import eventually

BODY = random.Random(1).randbytes(10 * BLOCK + 1234)
LAST = len(BODY) // BLOCK


class Reading:
    """A reader of *body* with the object that it reads."""

    def __init__(
        self,
        body: bytes = BODY,
        cache_bytes: int = 64 << 20,
        disk: PersistentBlocks | None = None,
        threads: int = 16,
    ) -> None:
        self.remote = FakeObject(body)
        self.cache = ExtentCache(cache_bytes)
        self.pool = DaemonPool(threads)
        self.stats = Stats()
        self.interrupted = threading.Event()
        self.blocks = BlockReader(
            self.remote,
            self.remote.version,
            cache=self.cache,
            pool=self.pool,
            waiter=Waiter(self.interrupted.is_set),
            stats=self.stats,
            disk=disk,
        )

    @property
    def requests(self) -> list[tuple[int, int]]:
        assert self.pool.is_quiet()
        return sorted(self.remote.requests)


@pytest.fixture
def reading() -> Iterator[Reading]:
    made = Reading()
    yield made
    made.interrupted.set()


def hold_answers(reading: Reading) -> threading.Event:
    """Have the store answer no range until the returned event is set."""
    go = threading.Event()

    def hold(start: int, stop: int, answer: bytes) -> bytes:
        assert go.wait(60)
        return answer

    reading.remote.on_range = hold
    return go


def test_random_reads_are_the_object_s_bytes(reading: Reading) -> None:
    """R-2: Random reads return the object's bytes, fewer only at its end."""
    rng = random.Random(2)
    for _ in range(300):
        offset, size = rng.randrange(len(BODY) + 10), rng.choice([0, 1, 100, BLOCK, 3 * BLOCK])
        assert reading.blocks.read_at(offset, size) == BODY[offset : offset + size]


@pytest.mark.parametrize("edge", [0, 1, 4, LAST])
def test_reads_around_the_edges_of_blocks(reading: Reading, edge: int) -> None:
    """R-2: Reads are exact around the edges of blocks."""
    for offset in range(max(0, edge * BLOCK - 2), edge * BLOCK + 3):
        for size in (0, 1, 2, 5, BLOCK - 1, BLOCK, BLOCK + 1):
            assert reading.blocks.read_at(offset, size) == BODY[offset : offset + size]


def test_reads_at_and_past_the_end_are_empty_and_free(reading: Reading) -> None:
    """R-2: A read past the end is empty and sends nothing."""
    for offset in (len(BODY), len(BODY) + 1, 1 << 40):
        assert reading.blocks.read_at(offset, 10) == b""
    assert reading.requests == []
    assert reading.blocks.read_at(len(BODY) - 3, 100) == BODY[-3:]
    assert reading.requests == [(LAST * BLOCK, len(BODY))]


@pytest.mark.parametrize("size", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1])
def test_objects_about_as_small_as_a_block(size: int) -> None:
    """R-2: An object may be shorter than one block."""
    body = BODY[:size]
    reading = Reading(body)
    assert reading.blocks.read_at(0, 10 * BLOCK) == body
    assert reading.blocks.read_at(size - 1, 10) == body[-1:]
    assert reading.requests == [(0, size)]


def test_neighbours_are_fetched_in_one_range(reading: Reading) -> None:
    """R-2: Missing neighbours come in one range, and cached blocks are not fetched again."""
    reading.blocks.read_at(4 * BLOCK, 1)
    reading.blocks.read_at(10, 8 * BLOCK)
    edges = [(4, 5), (0, 4), (5, 9)]
    assert reading.requests == sorted((first * BLOCK, stop * BLOCK) for first, stop in edges)


def test_nothing_is_fetched_twice_while_it_fits(reading: Reading) -> None:
    """R-2: Nothing is fetched twice while it fits."""
    rng = random.Random(3)
    for _ in range(200):
        reading.blocks.read_at(rng.randrange(len(BODY)), rng.randrange(2 * BLOCK))
    reading.blocks.read_at(0, len(BODY))
    assert reading.remote.fetched == len(BODY)


def test_long_reads_are_cut_into_bounded_ranges() -> None:
    """R-2, R-4: No single request is longer than 4 MiB."""
    reading = Reading(bytes(12 << 20))
    assert reading.blocks.read_at(0, 12 << 20) == bytes(12 << 20)
    assert reading.requests == [(at, at + (4 << 20)) for at in range(0, 12 << 20, 4 << 20)]


def test_concurrent_readers_of_a_block_cost_one_request(reading: Reading) -> None:
    """R-3: Concurrent readers of a block cost one request."""
    go = hold_answers(reading)
    started = threading.Barrier(9)

    def read(number: int) -> None:
        started.wait(60)
        assert reading.blocks.read_at(number * 100, 50) == BODY[number * 100 : number * 100 + 50]

    def release() -> None:
        started.wait(60)
        time.sleep(0.1)  # all of them wait by now, or come later and find the block
        go.set()

    calls: list[Callable[[], None]] = [lambda n=n: read(n) for n in range(8)]  # type: ignore[misc]
    run_threads([*calls, release])
    assert reading.requests == [(0, BLOCK)]


def test_different_blocks_do_not_wait_for_each_other(reading: Reading) -> None:
    """R-18: Readers of different blocks do not wait for each other."""
    together = threading.Barrier(4)

    def meet(start: int, stop: int, answer: bytes) -> bytes:
        together.wait(60)  # passes only once four requests are under way at once
        return answer

    reading.remote.on_range = meet

    def read(number: int) -> None:
        offset = 2 * number * BLOCK
        assert reading.blocks.read_at(offset, 10) == BODY[offset : offset + 10]

    run_threads([lambda n=n: read(n) for n in range(4)])  # type: ignore[misc]


def test_a_cached_block_is_read_while_another_is_on_its_way(reading: Reading) -> None:
    """R-18: A cached block is read while another is in flight."""
    reading.blocks.read_at(0, 1)
    asked, go = threading.Event(), threading.Event()

    def held(start: int, stop: int, answer: bytes) -> bytes:
        asked.set()
        assert go.wait(60)
        return answer

    reading.remote.on_range = held

    def slow() -> None:
        assert reading.blocks.read_at(5 * BLOCK, 1) == BODY[5 * BLOCK : 5 * BLOCK + 1]

    def quick() -> None:
        assert asked.wait(60)
        assert reading.blocks.read_at(0, 1) == BODY[:1]
        go.set()

    run_threads([slow, quick])


def test_a_failure_reaches_all_waiting_readers_and_is_not_cached(reading: Reading) -> None:
    """F-15: A transient failure is never cached: the next reader tries again."""
    go = threading.Event()

    def fail(start: int, stop: int, answer: bytes) -> bytes:
        assert go.wait(60)
        raise Unavailable("no answer")

    reading.remote.on_range = fail

    def read() -> None:
        with pytest.raises(Unavailable):
            reading.blocks.read_at(BLOCK, 10)

    def release() -> None:
        time.sleep(0.05)
        go.set()

    run_threads([read, read, read, release])
    reading.remote.on_range = None
    assert reading.blocks.read_at(BLOCK, 10) == BODY[BLOCK : BLOCK + 10]


def test_a_failed_range_leaves_its_neighbours_readable(reading: Reading) -> None:
    """F-15: A failed range leaves its neighbours readable."""

    def fail(start: int, stop: int, answer: bytes) -> bytes:
        if start <= 2 * BLOCK < stop:
            raise StaleObject("replaced")
        return answer

    reading.blocks.read_at(0, 1)
    reading.remote.on_range = fail
    with pytest.raises(StaleObject):
        reading.blocks.read_at(0, 3 * BLOCK)
    assert reading.blocks.read_at(0, 10) == BODY[:10]
    assert reading.blocks.read_at(6 * BLOCK, 10) == BODY[6 * BLOCK : 6 * BLOCK + 10]


def test_read_ahead_that_fails_fails_no_reader(reading: Reading) -> None:
    """R-18, F-15: A failed prefetch fails no reader; a read tries again."""

    def fail(start: int, stop: int, answer: bytes) -> bytes:
        raise Unavailable("no answer")

    reading.remote.on_range = fail
    reading.blocks.prefetch(0, 4 * BLOCK)
    assert reading.pool.is_quiet()
    reading.remote.on_range = None
    assert reading.blocks.read_at(0, 10) == BODY[:10]


def test_memory_is_bounded_in_bytes_and_the_oldest_goes_first() -> None:
    """style, 9: caches are bounded; least recently used goes first."""
    reading = Reading(cache_bytes=3 * BLOCK + 100)
    for number in (0, 1, 2):
        reading.blocks.read_at(number * BLOCK, 1)
    reading.blocks.read_at(0, 1)
    reading.blocks.read_at(3 * BLOCK, 1)
    before = len(reading.requests)
    for number in (0, 2, 3):
        reading.blocks.read_at(number * BLOCK, 1)
    assert len(reading.requests) == before
    reading.blocks.read_at(1 * BLOCK, 1)
    assert len(reading.requests) == before + 1


def test_the_cache_counts_bytes_not_extents() -> None:
    """R-20: At most *max_bytes* are kept; an extent larger than that is not kept."""
    cache = ExtentCache(1000)
    for index in range(10):
        cache.put(Extent(1, index, 1, bytes(300)))
    assert [index for index in range(10) if cache.has(1, index)] == [7, 8, 9]
    cache.put(Extent(1, 20, 1, bytes(1001)))
    assert cache.find(1, 20) is None
    assert cache.find(1, 9) is not None
    cache.put(Extent(1, 9, 2, bytes(900)))  # lies over the one before
    assert [index for index in range(12) if cache.has(1, index)] == [9, 10]


def test_the_cache_shrinks_while_the_process_takes_too_much_memory() -> None:
    """R-52: The least recently used extents give up what is too much, but not the last ones."""

    class Memory(UnlimitedMemory):
        excess = iter((0, 0, 0, 350, 0, 10_000))

        def take_excess(self) -> int:
            return next(self.excess)

    cache = ExtentCache(1000, 250, Memory())
    for index in range(3):
        cache.put(Extent(1, index, 1, bytes(200)))
    cache.put(Extent(1, 3, 1, bytes(200)))
    assert [index for index in range(6) if cache.has(1, index)] == [2, 3]
    cache.put(Extent(1, 4, 1, bytes(200)))
    assert [index for index in range(6) if cache.has(1, index)] == [2, 3, 4]
    cache.put(Extent(1, 5, 1, bytes(100)))
    assert [index for index in range(6) if cache.has(1, index)] == [5]


def test_blocks_of_one_buffer_are_evicted_together() -> None:
    """R-20: No block keeps the buffer of an evicted run in memory."""
    cache = ExtentCache(1000)
    cache.put(Extent(1, 0, 4, bytes(400)))
    cache.put(Extent(1, 4, 4, bytes(400)))
    assert cache.find(1, 1) is cache.find(1, 3)
    cache.put(Extent(1, 8, 1, bytes(300)))
    assert [index for index in range(9) if cache.has(1, index)] == [0, 1, 2, 3, 8]
    cache.drop(1, 2, 2)
    assert [index for index in range(9) if cache.has(1, index)] == [0, 1, 3, 8]
    cache.drop(1, 0, 3)
    cache.put(Extent(1, 20, 1, bytes(700)))
    assert cache.has(1, 8)


def test_the_cache_keeps_readers_apart() -> None:
    """style, 9: caches are keyed by version and block."""
    cache = ExtentCache(1000)
    cache.put(Extent(1, 0, 1, b"one"))
    cache.put(Extent(2, 0, 1, b"two"))
    cache.drop(1, 0, 1 << 30)
    assert cache.find(1, 0) is None
    found = cache.find(2, 0)
    assert found is not None
    assert found.body == b"two"


@pytest.mark.parametrize("cache_bytes", [0, BLOCK - 1, BLOCK, 200_000])
def test_reads_larger_than_the_cache(cache_bytes: int) -> None:
    """R-14, R-20: A member may be larger than the caches."""
    reading = Reading(cache_bytes=cache_bytes)
    assert reading.blocks.read_at(0, len(BODY)) == BODY
    assert reading.blocks.read_at(5, len(BODY)) == BODY[5:]


def test_primed_blocks_are_not_fetched(reading: Reading) -> None:
    """R-2: Blocks that the suffix range brought are not fetched again."""
    start = 7 * BLOCK + 10
    reading.blocks.put_fetched(start, BODY[start:])
    assert reading.blocks.read_at(8 * BLOCK, 10 * BLOCK) == BODY[8 * BLOCK :]
    assert reading.requests == []
    assert reading.blocks.read_at(7 * BLOCK, BLOCK) == BODY[7 * BLOCK : 8 * BLOCK]
    assert reading.requests == [(7 * BLOCK, 8 * BLOCK)]


@pytest.mark.parametrize("start", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 1])
def test_priming_with_any_range_is_never_wrong(start: int, length: int) -> None:
    """`BlockReader.put_fetched` keeps whole blocks only."""
    reading = Reading()
    reading.blocks.put_fetched(start, BODY[start : start + length])
    assert reading.blocks.read_at(0, len(BODY)) == BODY


def test_dropped_blocks_are_fetched_again(reading: Reading) -> None:
    """I-3: A mismatch drops its blocks and leaves the others."""
    reading.blocks.read_at(0, 6 * BLOCK)
    reading.blocks.drop(2 * BLOCK + 5, 3 * BLOCK + 1)
    reading.blocks.read_at(0, 6 * BLOCK)
    assert reading.requests == [(0, 6 * BLOCK), (2 * BLOCK, 4 * BLOCK)]
    reading.blocks.drop(5 * BLOCK, 5 * BLOCK)
    reading.blocks.read_at(5 * BLOCK, 1)
    assert reading.requests[-1] == (5 * BLOCK, 6 * BLOCK)


class SlowDisk:
    """Blocks on disk whose writes take their time."""

    def __init__(self, *indices: int) -> None:
        self.kept = {index: BODY[index * BLOCK : (index + 1) * BLOCK] for index in indices}
        self.put_at: list[int] = []
        self.go = threading.Event()

    def files(self, first: int, stop: int) -> list[str]:
        return []

    def present(self, first: int, stop: int) -> list[int]:
        return [index for index in range(first, stop) if index in self.kept]

    def get(self, first: int, count: int = 1) -> bytes | None:
        run = b""
        for index in range(first, first + count):
            run += self.kept.get(index, b"")
            if len(run) < (index + 1 - first) * BLOCK:
                break
        return run or None

    def lock_range(self, first: int, last: int) -> AbstractContextManager[None]:
        return nullcontext()

    def put(self, first: int, run: Buffer) -> None:
        assert self.go.wait(60)
        self.put_at.append(first)
        for at in range(0, len(run), BLOCK):
            self.kept[first + at // BLOCK] = bytes(run[at : at + BLOCK])

    def drop(self, first: int, last: int) -> None:
        for index in range(first, last + 1):
            self.kept.pop(index, None)


def test_some_bytes_are_those_that_lie_in_one_piece(reading: Reading) -> None:
    """R-2: `read_some` returns a view of the first bytes in memory, and counts them."""
    reading.blocks.read_at(0, 3 * BLOCK)
    reading.blocks.read_at(3 * BLOCK, 2 * BLOCK)
    piece = reading.blocks.read_some(BLOCK + 10, 4 * BLOCK)
    assert piece == BODY[BLOCK + 10 : 3 * BLOCK]
    assert isinstance(piece, memoryview)
    again = reading.blocks.read_some(BLOCK, 10)
    assert isinstance(again, memoryview) and piece.obj is again.obj
    assert reading.blocks.read_some(3 * BLOCK + 1, 5) == BODY[3 * BLOCK + 1 : 3 * BLOCK + 6]
    assert len(reading.requests) == 2
    assert reading.stats.snapshot()["block_hits"] == 4


def test_some_bytes_that_are_not_in_memory_are_fetched(reading: Reading) -> None:
    """R-2: `read_some` fetches bytes that are not in memory."""
    assert reading.blocks.read_some(5, 2 * BLOCK) == BODY[5 : 2 * BLOCK + 5]
    for offset in (len(BODY) - 1, len(BODY), len(BODY) + 1):
        for _ in range(2):
            assert reading.blocks.read_some(offset, 7) == BODY[offset:]
        assert reading.blocks.read_some(offset, 0) == b""


def test_blocks_dropped_before_they_were_written_are_not_kept_on_disk() -> None:
    """I-3: Blocks dropped on their way to disk are not kept there."""
    disk = SlowDisk()
    reading = Reading(disk=disk)
    assert reading.blocks.read_at(0, 10) == BODY[:10]
    reading.blocks.drop(0, BLOCK)
    disk.go.set()
    assert reading.pool.is_quiet()
    assert not disk.kept
    assert reading.blocks.read_at(0, 10) == BODY[:10]
    assert reading.requests == [(0, BLOCK)] * 2


def test_blocks_dropped_in_flight_are_not_kept() -> None:
    """I-3, O-1: A run in flight when a block proves wrong is kept nowhere; later ones are kept."""
    disk = SlowDisk()
    disk.go.set()
    reading = Reading(disk=disk)
    go = hold_answers(reading)
    with ThreadPoolExecutor(1) as threads:
        early = threads.submit(reading.blocks.read_at, 2 * BLOCK, 10)
        eventually(lambda: bool(reading.remote.requests))
        reading.blocks.drop(0, BLOCK)
        go.set()
        assert early.result(60) == BODY[2 * BLOCK :][:10]
    assert reading.pool.is_quiet()
    assert not disk.kept and not reading.blocks.is_cached(2 * BLOCK, 3 * BLOCK)
    for offset in (2 * BLOCK, 4 * BLOCK):
        assert reading.blocks.read_at(offset, 10) == BODY[offset:][:10]
    assert reading.pool.is_quiet()
    assert sorted(disk.kept) == [2, 4] and reading.blocks.is_cached(2 * BLOCK, 3 * BLOCK)


@pytest.mark.parametrize("is_ahead", [False, True], ids=["read", "read-ahead"])
@pytest.mark.parametrize("is_on_disk", [False, True], ids=["store", "disk"])
def test_blocks_dropped_as_they_are_cached_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, is_on_disk: bool, is_ahead: bool
) -> None:
    """I-3: Blocks that prove wrong while they are put into memory are not kept there."""
    disk = SlowDisk(*[0, 1] if is_on_disk else [])
    disk.go.set()
    reading = Reading(disk=disk)
    put = reading.cache.put

    def put_late(extent: Extent) -> None:
        monkeypatch.undo()
        reading.blocks.drop(0, 2 * BLOCK)
        put(extent)

    monkeypatch.setattr(reading.cache, "put", put_late)
    if is_ahead:
        reading.blocks.prefetch(0, 2 * BLOCK)
    else:
        assert reading.blocks.read_at(0, 2 * BLOCK) == BODY[: 2 * BLOCK]
    assert reading.pool.is_quiet()
    assert not disk.kept and not reading.blocks.is_cached(0, BLOCK)
    assert not reading.blocks.is_cached(BLOCK, 2 * BLOCK)


def test_a_fetch_that_is_cancelled_in_the_queue_ends_its_reader() -> None:
    """P-15: When the pool ends, a reader that waits for a fetch in its queue fails at once."""
    reading = Reading()
    go = hold_answers(reading)
    pool = thread_pool.DaemonPool(1, "test-cancel")
    blocks = BlockReader(
        reading.remote,
        reading.remote.version,
        cache=reading.cache,
        pool=pool,
        waiter=Waiter(reading.interrupted.is_set),
        stats=reading.stats,
        disk=None,
    )
    with ThreadPoolExecutor(2) as threads:
        blocks.prefetch(0, BLOCK)
        eventually(lambda: bool(reading.remote.requests))
        assert blocks.prefetch(2 * BLOCK, 3 * BLOCK)
        queued = threads.submit(blocks.read_at, 2 * BLOCK, 10)
        pool.shutdown(cancel_futures=True)
        try:
            with pytest.raises(Closed):
                queued.result(10)
        finally:
            reading.interrupted.set()
            go.set()
        eventually(lambda: blocks.is_cached(0, BLOCK))


def test_blocks_on_disk_are_read_from_there() -> None:
    """R-2, I-7: Blocks on disk are read from there; one of another length is a miss."""
    disk = SlowDisk()
    disk.go.set()
    reading = Reading(disk=disk, cache_bytes=0)
    assert reading.blocks.read_at(0, 3 * BLOCK) == BODY[: 3 * BLOCK]
    assert reading.requests == [(0, 3 * BLOCK)]
    assert reading.blocks.read_at(BLOCK, BLOCK + 5) == BODY[BLOCK : 2 * BLOCK + 5]
    assert reading.requests == [(0, 3 * BLOCK)]
    disk.kept[0] = b"short"
    assert reading.blocks.read_at(0, 10) == BODY[:10]
    assert len(reading.requests) == 2


def test_read_ahead_reads_the_disk_in_advance() -> None:
    """R-4: Blocks on disk are read into memory ahead of their reader, only missing ones are
    fetched, and nothing is written again."""
    disk = SlowDisk(0, 1, 2, 5, 6)
    disk.go.set()
    reading = Reading(disk=disk)
    assert reading.blocks.prefetch(0, 8 * BLOCK)
    assert reading.requests == [(3 * BLOCK, 5 * BLOCK), (7 * BLOCK, 8 * BLOCK)]
    assert sorted(disk.put_at) == [3, 7]
    assert reading.stats.snapshot()["disk_hits"] == 5
    assert reading.stats.snapshot()["read_ahead_bytes"] == 3 * BLOCK
    disk.kept.clear()
    assert reading.blocks.is_cached(0, 8 * BLOCK)
    assert reading.blocks.read_at(0, 8 * BLOCK) == BODY[: 8 * BLOCK]
    assert len(reading.requests) == 2


def test_damaged_blocks_on_disk_are_fetched_by_read_ahead() -> None:
    """I-7: A damaged block met by read-ahead is fetched, and its neighbours are not."""
    disk = SlowDisk(*range(6))
    disk.go.set()
    disk.kept[2] = b"short"
    reading = Reading(disk=disk)
    reading.blocks.prefetch(0, 6 * BLOCK)
    assert reading.blocks.read_at(0, 6 * BLOCK) == BODY[: 6 * BLOCK]
    assert reading.requests == [(2 * BLOCK, 3 * BLOCK)]


def test_blocks_on_disk_do_not_wait_for_the_store() -> None:
    """O-12, R-18: Read-ahead from disk does not wait for blocks that the store holds up."""
    disk = SlowDisk(4, 5)
    reading = Reading(disk=disk, threads=1)
    go = hold_answers(reading)
    reading.blocks.prefetch(0, BLOCK)
    assert reading.blocks.prefetch(4 * BLOCK, 6 * BLOCK)
    began = time.monotonic()
    assert reading.blocks.read_at(4 * BLOCK, 2 * BLOCK) == BODY[4 * BLOCK : 6 * BLOCK]
    assert time.monotonic() - began < 20
    go.set()
    disk.go.set()


def test_a_wrong_block_on_disk_fails_no_neighbour() -> None:
    """I-7: A damaged block is a miss of that block only, while the store is away."""
    disk = SlowDisk(*range(6))
    disk.go.set()
    disk.kept[2] = b"short"
    reading = Reading(disk=disk)

    def away(start: int, stop: int, answer: bytes) -> bytes:
        raise Unavailable("no answer")

    reading.remote.on_range = away
    reading.blocks.prefetch(0, 6 * BLOCK)
    for index in (0, 1, 3, 4, 5):
        assert reading.blocks.read_at(index * BLOCK, BLOCK) == BODY[index * BLOCK :][:BLOCK]
    with pytest.raises(Unavailable):
        reading.blocks.read_at(2 * BLOCK, 1)


def test_damaged_blocks_on_disk_are_fetched_with_their_neighbours() -> None:
    """I-7: Damaged blocks on disk are fetched in one range with their missing neighbours."""
    disk = SlowDisk()
    disk.go.set()
    disk.kept = {2: b"short"}
    reading = Reading(disk=disk)
    assert reading.blocks.read_at(0, 6 * BLOCK) == BODY[: 6 * BLOCK]
    assert reading.requests == [(0, 6 * BLOCK)]


def test_a_failure_leaves_the_table_before_readers_see_it(reading: Reading) -> None:
    """F-15: The next read after a failure tries again at once."""
    for number in range(100):
        errors = [Unavailable("no answer")]

        def fail(start: int, stop: int, answer: bytes, left: list[Unavailable] = errors) -> bytes:
            if left:
                raise left.pop()
            return answer

        reading.remote.on_range = fail
        with pytest.raises(Unavailable):
            reading.blocks.read_at(number * 7, 1)
        assert reading.blocks.read_at(number * 7, 1)
        reading.blocks.drop(0, BLOCK)


def test_prefetch_does_not_wait_and_fetches_missing_blocks_only(reading: Reading) -> None:
    """R-4: A prefetch does not wait, and fetches each missing block once."""
    go = hold_answers(reading)
    reading.blocks.prefetch(BLOCK + 1, 7 * BLOCK, 2 * BLOCK)
    reading.blocks.prefetch(0, 8 * BLOCK, 2 * BLOCK)
    go.set()
    edges = [(0, 1), (1, 3), (3, 5), (5, 7), (7, 8)]
    assert reading.requests == [(first * BLOCK, stop * BLOCK) for first, stop in edges]
    assert reading.blocks.read_at(0, 8 * BLOCK) == BODY[: 8 * BLOCK]
    assert len(reading.requests) == len(edges)


def test_schedule_past_the_end_is_cut_there(reading: Reading) -> None:
    """R-4: A prefetch stops at the object's end."""
    reading.blocks.prefetch(len(BODY) - 1, len(BODY) + 100 * BLOCK)
    reading.blocks.prefetch(len(BODY), len(BODY) + 1)
    reading.blocks.prefetch(5, 5)
    assert reading.requests == [(LAST * BLOCK, len(BODY))]


def test_an_interrupted_reader_is_freed_and_the_fetch_goes_on(reading: Reading) -> None:
    """K-13: Ctrl+C ends a blocked operation within 1 s."""
    go = hold_answers(reading)
    threading.Timer(0.1, reading.interrupted.set).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        reading.blocks.read_at(0, 10)
    assert time.monotonic() - began < 20
    reading.interrupted.clear()
    go.set()
    assert reading.blocks.read_at(0, 10) == BODY[:10]
    assert reading.requests == [(0, BLOCK)]


@pytest.mark.parametrize("error", [TimeoutError("a foreign one"), ValueError("another")])
def test_an_unknown_failure_reaches_the_reader_and_blocks_no_other(error: Exception) -> None:
    """X-10: An exception of an unknown type, a TimeoutError included, reaches the reader."""
    future: Future[bytes] = Future()
    future.set_exception(error)
    over = threading.Event()
    raised: list[BaseException] = []

    class Polled(Waiter):
        """Ends the thread of a wait that never blocks, after the test has seen it."""

        def check(self) -> None:
            if over.is_set():
                raise Interrupted("the test is over")

    def wait() -> None:
        try:
            Polled().result(future)
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(20)
    seen = list(raised)
    over.set()
    thread.join(20)
    assert seen == [error]


def test_waiting_gives_the_result_however_long_it_takes() -> None:
    """K-13: A wait that is not interrupted lasts longer than its polls."""
    future: Future[int] = Future()
    threading.Timer(0.5, future.set_result, [7]).start()
    assert Waiter().result(future) == 7


def test_a_cancelled_wait_is_a_failure_of_the_file_system() -> None:
    """X-3: Work that is cancelled because a mount ends is ETIMEDOUT, no unexpected error."""
    future: Future[int] = Future()
    future.cancel()
    with pytest.raises(Unavailable, match="closed"):
        Waiter().result(future)


def test_hits_and_misses_are_counted(reading: Reading) -> None:
    """N-22: Hits, misses and read-ahead are counted."""
    reading.blocks.read_at(0, 2 * BLOCK)
    reading.blocks.read_at(0, 3 * BLOCK)
    reading.blocks.prefetch(5 * BLOCK, 7 * BLOCK)
    counts = reading.stats.snapshot()
    assert (counts["block_misses"], counts["block_hits"]) == (3, 2)
    assert counts["read_ahead_bytes"] == 2 * BLOCK


def test_many_threads_with_a_tiny_cache_read_the_right_bytes() -> None:
    """R-19: Many threads with a tiny cache read the right bytes."""
    reading = Reading(cache_bytes=2 * BLOCK)
    rng = random.Random(5)

    def slow(start: int, stop: int, answer: bytes) -> bytes:
        time.sleep(0.0002)
        return answer

    reading.remote.on_range = slow

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(60):
            offset, size = rng.randrange(len(BODY)), rng.randrange(3 * BLOCK)
            if rng.random() < 0.2:
                reading.blocks.drop(offset, offset + size)
            if rng.random() < 0.2:
                reading.blocks.prefetch(offset, offset + size, BLOCK)
            assert reading.blocks.read_at(offset, size) == BODY[offset : offset + size]

    run_threads([lambda s=s: read(s) for s in rng.sample(range(1000), 8)])  # type: ignore[misc]
