"""`taskfs.cache.readahead`: how far it fetches ahead, in requests and bytes."""

import itertools
import random
import time

import pytest

from taskfs.cache.block import BLOCK
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.memory_cache import ExtentCache
from taskfs.cache.readahead import TOTAL_WINDOW, ReadAheadBudget, ReadAheadReader
from taskfs.core import BLOCK_MEMORY
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.private_memory import UnlimitedMemory
from taskfs.support.stats import Stats
from tests.archive_harness import (
    DaemonPool,
    FakeObject,
    SlowResponses,
    read_in_turns,
)
from tests.zips import cheap_bytes

READ = 128 << 10
BODY = cheap_bytes(24 << 20)


class Reading:
    """Readers of one object; nothing is evicted unless a test does it."""

    def __init__(
        self, body: bytes = BODY, window_bytes: int = 16 << 20, cache_bytes: int = 1 << 30
    ) -> None:
        self.remote = FakeObject(body)
        self.pool = DaemonPool(16)
        self.budget = ReadAheadBudget(window_bytes)
        self.blocks = BlockReader(
            self.remote,
            self.remote.version,
            cache=ExtentCache(cache_bytes),
            pool=self.pool,
            waiter=Waiter(),
            stats=Stats(),
            disk=None,
        )

    def reader(self, start: int = 0, limit: int | None = None) -> ReadAheadReader:
        stop = self.remote.version.size if limit is None else limit
        return ReadAheadReader(self.blocks, self.budget, start, stop)

    @property
    def requests(self) -> list[tuple[int, int]]:
        assert self.pool.is_quiet()
        return list(self.remote.requests)

    @property
    def fetched(self) -> int:
        return sum(stop - start for start, stop in self.requests)


def blocks_around(offset: int, size: int) -> int:
    """How many bytes the blocks of [offset, offset + size) have."""
    return ((offset + size - 1) // BLOCK - offset // BLOCK + 1) * BLOCK


def test_sequential_reads_get_growing_ranges_and_nothing_twice() -> None:
    """R-4, R-2: A sequential reader gets growing, parallel ranges, and nothing twice."""
    reading = Reading()
    reader = reading.reader()
    for offset in range(0, len(BODY), READ):
        assert reader.read_at(offset, READ) == BODY[offset : offset + READ]
    lengths = [stop - start for start, stop in reading.requests]
    assert sum(lengths) == len(BODY)
    assert lengths[0] == READ
    assert max(lengths) >= 8 * READ
    assert max(lengths) <= 4 << 20
    assert len(lengths) < len(BODY) / READ / 4


@pytest.mark.parametrize("size", [100_000, READ, 3 * READ + 1])
def test_read_ahead_comes_in_whole_requests(size: int) -> None:
    """R-4: Read-ahead comes in whole requests, whatever the lengths of the reads."""
    reading = Reading()
    reader = reading.reader(start=1000)
    for offset in range(1000, len(BODY), size):
        reader.read_at(offset, size)
    *lengths, _ = [stop - start for start, stop in sorted(reading.requests) if start > 4 * size]
    assert min(lengths) >= 3 * BLOCK  # of four, one of which may be cached


@pytest.mark.parametrize("count", [1, 3])
def test_prefetched_blocks_are_not_evicted_before_they_are_read(count: int) -> None:
    """R-2: With the bounds of a mount, prefetched blocks are not evicted before they are read."""
    part = (96 << 20) // count
    reading = Reading(bytes(part * count), TOTAL_WINDOW, BLOCK_MEMORY)
    readers = [reading.reader(number * part, (number + 1) * part) for number in range(count)]
    for offset in range(0, part, READ):
        for number, reader in enumerate(readers):
            reader.read_at(number * part + offset, READ)
    assert reading.fetched == part * count


def test_ranges_are_fetched_in_parallel() -> None:
    """R-4: With a cap per connection, a cold `cat` runs at three times one connection."""
    reading = Reading()
    reading.remote.on_range = slow = SlowResponses(lambda length: length / (20 << 20))
    reader = reading.reader()
    for offset in range(0, len(BODY), READ):
        reader.read_at(offset, READ)
    assert reading.fetched == len(BODY)
    assert slow.most >= 3


@pytest.mark.parametrize("offset", [0, 1, BLOCK - 1, 10 * BLOCK, len(BODY) - 4096])
def test_one_read_alone_fetches_its_blocks_only(offset: int) -> None:
    """R-5: A single read fetches only its blocks."""
    reading = Reading()
    reader = reading.reader()
    assert reader.read_at(offset, 4096) == BODY[offset : offset + 4096]
    assert reading.fetched == blocks_around(offset, 4096)


def test_random_reads_fetch_their_blocks_only() -> None:
    """R-5: Random reads fetch only their blocks."""
    reading = Reading()
    reader = reading.reader()
    rng = random.Random(1)
    offsets: list[int] = []
    last = -3 << 20
    while len(offsets) < 12:
        offset = rng.randrange(len(BODY) - 4096)
        if abs(offset - last) > 2 << 20:
            offsets.append(offset)
            last = offset
    for offset in offsets:
        assert reader.read_at(offset, 4096) == BODY[offset : offset + 4096]
    assert reading.fetched <= sum(blocks_around(offset, 4096) for offset in offsets)


def test_random_reads_in_one_place_fetch_little_around_it() -> None:
    """R-5: Random reads within a few hundred KB are not sequential."""
    reading = Reading()
    reader = reading.reader()
    rng = random.Random(2)
    for _ in range(60):
        offset = (4 << 20) + rng.randrange(512 << 10)
        reader.read_at(offset, 4096)
    assert reading.fetched <= 2 << 20


def test_reading_the_same_bytes_again_fetches_nothing_more() -> None:
    """R-2: Reading the same 4 KiB twice fetches nothing more."""
    reading = Reading()
    reader = reading.reader()
    reader.read_at(0, 4096)
    before = reading.fetched
    for _ in range(30):
        reader.read_at(0, 4096)
    assert reading.fetched - before <= 2 * READ


def test_a_jump_closes_the_window_and_later_reads_open_it_again() -> None:
    """R-4, R-5: A window doubles while reads are sequential, and closes at a jump."""
    reading = Reading()
    reader = reading.reader(limit=len(BODY))
    for offset in range(0, 2 << 20, READ):
        reader.read_at(offset, READ)
    before = reading.fetched
    far = 20 << 20
    reader.read_at(far, 4096)
    assert reading.fetched - before <= BLOCK
    for offset in range(far, far + (2 << 20), READ):
        assert reader.read_at(offset, READ) == BODY[offset : offset + READ]
    assert max(stop - start for start, stop in reading.requests if start > far) > READ


def test_backward_reads_fetch_no_more_than_their_blocks() -> None:
    """R-5: Backward reads in long steps are jumps."""
    reading = Reading()
    reader = reading.reader()
    offsets = range(len(BODY) - READ, 0, -3 << 20)
    for offset in offsets:
        reader.read_at(offset, READ)
    assert reading.fetched <= len(offsets) * (READ + BLOCK)


def test_reads_out_of_order_as_the_kernel_sends_them_count_as_sequential() -> None:
    """R-4: Reads that the kernel sends out of order count as sequential."""
    reading = Reading()
    reader = reading.reader()
    numbers = list(range(len(BODY) // READ))
    for first in range(1, len(numbers) - 4, 4):
        numbers[first], numbers[first + 3] = numbers[first + 3], numbers[first]
    for number in numbers:
        offset = number * READ
        assert reader.read_at(offset, READ) == BODY[offset : offset + READ]
    assert reading.fetched == len(BODY)
    assert len(reading.requests) < len(numbers) / 3


def test_nothing_is_fetched_past_the_limit() -> None:
    """R-5: Read-ahead of a member stays within [start, limit)."""
    reading = Reading()
    start, limit = 3 * BLOCK + 100, 50 * BLOCK + 200
    reader = reading.reader(start, limit)
    body = b"".join(reader.read_at(offset, READ) for offset in range(start, limit, READ))
    assert body == BODY[start:limit]
    assert reader.read_at(limit, 10) == b""
    assert max(stop for _, stop in reading.requests) <= 51 * BLOCK


def test_read_ahead_stays_near_its_reader() -> None:
    """R-20: A window is bounded."""
    reading = Reading(window_bytes=1 << 20)
    reader = reading.reader()
    for offset in range(0, 16 << 20, READ):
        reader.read_at(offset, READ)
        assert reading.fetched <= offset + READ + (1 << 20) + BLOCK


@pytest.mark.parametrize("count", [1, 2, 8, 60, 200])
def test_the_windows_of_all_readers_share_the_budget(count: int) -> None:
    """R-20: The windows of 200 open files stay within one budget."""
    total = 16 << 20
    budget = ReadAheadBudget(total)
    readers = [object() for _ in range(count)]
    for reader in readers:
        budget.register(reader)
    assert sum(budget.allowance(reader) for reader in readers) <= total


def test_read_ahead_shrinks_while_the_process_takes_too_much_memory() -> None:
    """R-52: The budget is a quarter while memory is tight."""
    memory = UnlimitedMemory()
    budget = ReadAheadBudget(16 << 20, memory)
    assert budget.allowance(object()) == 16 << 20
    memory.is_tight = True
    assert budget.allowance(object()) == 4 << 20


def test_a_reader_that_closes_or_idles_returns_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R-20: The budget is shared by the readers that are active."""
    budget = ReadAheadBudget(16 << 20)
    one, other = object(), object()
    budget.register(one)
    assert budget.allowance(one) == 16 << 20
    assert budget.allowance(other) == 8 << 20
    assert budget.allowance(one) == 16 << 20  # a question registers no reader
    budget.register(other)
    assert budget.allowance(one) == 8 << 20
    budget.unregister(other)
    assert budget.allowance(one) == 16 << 20
    budget.register(other)
    monkeypatch.setattr("taskfs.cache.readahead.IDLE_S", 0.02)
    time.sleep(0.05)
    assert budget.allowance(one) == budget.allowance(object()) == 16 << 20
    budget.unregister(object())  # a reader that never registered


def test_each_reader_has_its_own_state() -> None:
    """R-4: Two sequential readers of one file do not look random."""
    reading = Reading()
    one, other = reading.reader(), reading.reader()
    half = len(BODY) // 2
    for offset in range(0, half, READ):
        assert one.read_at(offset, READ) == BODY[offset : offset + READ]
        there = half + offset
        assert other.read_at(there, READ) == BODY[there : there + READ]
    assert reading.fetched == len(BODY)
    assert len(reading.requests) < len(BODY) / READ / 2


def test_one_reader_used_by_many_threads() -> None:
    """R-19: A `ReadAheadReader` is safe for concurrent use."""
    reading = Reading()
    reader = reading.reader()

    def read(offset: int) -> None:
        assert reader.read_at(offset, READ) == BODY[offset : offset + READ]

    read_in_turns(range(0, 8 << 20, READ), read, readers=6)
    requests = sorted(reading.requests)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(requests))
