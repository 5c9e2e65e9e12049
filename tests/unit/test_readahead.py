"""`taskfs.cache.readahead`: how far it fetches ahead, in requests and bytes."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from taskfs.archive.archive import Archive
from taskfs.archive.bounds import HEADS_AHEAD, MAX_OPEN_BYTES, SAMPLE_EVERY
from taskfs.archive.member_reader import MemberReader
from taskfs.archive.prefetch import AccessPattern, SequentialMembers
from taskfs.cache.block_reader import MAX_RUN, BlockReader
from taskfs.cache.memory_cache import BLOCK, ExtentCache
from taskfs.cache.readahead import FIRST_RUN, SLACK, TOTAL_WINDOW, ReadAheadBudget, ReadAheadReader
from taskfs.core import BLOCK_MEMORY
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from tests.archive_bench import Bench, DaemonPool, FakeObject, bench, member, read_all, run_threads
from tests.zips import DEFLATED, STORED, Entry, build, cheap_bytes, deflate, file

READ = 128 << 10
BODY = cheap_bytes(24 << 20)


class Reading:
    """Streams over one object; nothing is evicted unless a test does it."""

    def __init__(
        self, body: bytes = BODY, window_bytes: int = 16 << 20, cache_bytes: int = 1 << 30
    ) -> None:
        self.remote = FakeObject(body)
        self.pool = DaemonPool(16)
        self.windows = ReadAheadBudget(window_bytes)
        self.blocks = BlockReader(
            self.remote,
            self.remote.version,
            cache=ExtentCache(cache_bytes),
            pool=self.pool,
            waiter=Waiter(),
            stats=Stats(),
        )

    def stream(self, start: int = 0, limit: int | None = None) -> ReadAheadReader:
        stop = self.remote.version.size if limit is None else limit
        return ReadAheadReader(self.blocks, self.windows, start, stop)

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
    stream = reading.stream()
    for offset in range(0, len(BODY), READ):
        assert stream.read_at(offset, READ) == BODY[offset : offset + READ]
    lengths = [stop - start for start, stop in reading.requests]
    assert sum(lengths) == len(BODY)
    assert lengths[0] == READ
    assert max(lengths) >= 8 * READ
    assert max(lengths) <= MAX_RUN
    assert len(lengths) < len(BODY) / READ / 4


@pytest.mark.parametrize("size", [100_000, READ, 3 * READ + 1])
def test_read_ahead_comes_in_whole_requests(size: int) -> None:
    """R-4: Read-ahead comes in whole requests, whatever the lengths of the reads."""
    reading = Reading()
    stream = reading.stream(start=1000)
    for offset in range(1000, len(BODY), size):
        stream.read_at(offset, size)
    *lengths, _ = [stop - start for start, stop in sorted(reading.requests) if start > 4 * size]
    assert min(lengths) >= FIRST_RUN - BLOCK  # of the first one a block may be here


@pytest.mark.parametrize("count", [1, 3])
def test_prefetched_blocks_are_not_evicted_before_they_are_read(count: int) -> None:
    """R-2: With the bounds of a mount, prefetched blocks are not evicted before they are read."""
    part = (96 << 20) // count
    reading = Reading(bytes(part * count), TOTAL_WINDOW, BLOCK_MEMORY)
    streams = [reading.stream(number * part, (number + 1) * part) for number in range(count)]
    for offset in range(0, part, READ):
        for number, stream in enumerate(streams):
            stream.read_at(number * part + offset, READ)
    assert reading.fetched == part * count


class Slow:
    """Answers that take their time, and the most of them that were under way at once."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.most = 0
        self._seconds = seconds  # by the length of a range
        self._lock = threading.Lock()
        self._now = 0

    def __call__(self, start: int, stop: int, answer: bytes) -> bytes:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds(stop - start))
        with self._lock:
            self._now -= 1
        return answer


def test_ranges_are_fetched_in_parallel() -> None:
    """R-4: With a cap per connection, a cold `cat` runs at three times one connection."""
    reading = Reading()
    reading.remote.on_range = slow = Slow(lambda length: length / (200 << 20))
    stream = reading.stream()
    for offset in range(0, len(BODY), READ):
        stream.read_at(offset, READ)
    assert reading.fetched == len(BODY)
    assert slow.most >= 3


@pytest.mark.parametrize("offset", [0, 1, BLOCK - 1, 10 * BLOCK, len(BODY) - 4096])
def test_one_read_alone_fetches_its_blocks_only(offset: int) -> None:
    """R-5: A single read fetches only its blocks."""
    reading = Reading()
    stream = reading.stream()
    assert stream.read_at(offset, 4096) == BODY[offset : offset + 4096]
    assert reading.fetched == blocks_around(offset, 4096)


def test_random_reads_fetch_their_blocks_only() -> None:
    """R-5: Random reads fetch only their blocks."""
    reading = Reading()
    stream = reading.stream()
    rng = random.Random(1)
    offsets: list[int] = []
    last = -SLACK * 3
    while len(offsets) < 12:
        offset = rng.randrange(len(BODY) - 4096)
        if abs(offset - last) > 2 * SLACK:
            offsets.append(offset)
            last = offset
    for offset in offsets:
        assert stream.read_at(offset, 4096) == BODY[offset : offset + 4096]
    assert reading.fetched <= sum(blocks_around(offset, 4096) for offset in offsets)


def test_random_reads_in_one_place_fetch_little_around_it() -> None:
    """R-5: Random reads within a few hundred KB are not sequential."""
    reading = Reading()
    stream = reading.stream()
    rng = random.Random(2)
    for _ in range(60):
        offset = (4 << 20) + rng.randrange(512 << 10)
        stream.read_at(offset, 4096)
    assert reading.fetched <= 2 << 20


def test_reading_the_same_bytes_again_fetches_nothing_more() -> None:
    """R-2: Reading the same 4 KiB twice fetches nothing more."""
    reading = Reading()
    stream = reading.stream()
    stream.read_at(0, 4096)
    before = reading.fetched
    for _ in range(30):
        stream.read_at(0, 4096)
    assert reading.fetched - before <= 2 * READ


def test_a_jump_closes_the_window_and_later_reads_open_it_again() -> None:
    """readahead: a window doubles while reads follow each other, and falls back when they jump."""
    reading = Reading()
    stream = reading.stream(limit=len(BODY))
    for offset in range(0, 2 << 20, READ):
        stream.read_at(offset, READ)
    before = reading.fetched
    far = 20 << 20
    stream.read_at(far, 4096)
    assert reading.fetched - before <= BLOCK
    for offset in range(far, far + (2 << 20), READ):
        assert stream.read_at(offset, READ) == BODY[offset : offset + READ]
    assert max(stop - start for start, stop in reading.requests if start > far) > READ


def test_backward_reads_fetch_no_more_than_their_blocks() -> None:
    """readahead: reads that go backward in long steps are jumps."""
    reading = Reading()
    stream = reading.stream()
    offsets = range(len(BODY) - READ, 0, -3 * SLACK)
    for offset in offsets:
        stream.read_at(offset, READ)
    assert reading.fetched <= len(offsets) * (READ + BLOCK)


def test_reads_out_of_order_as_the_kernel_sends_them_count_as_sequential() -> None:
    """R-4: Reads that the kernel sends out of order count as sequential."""
    reading = Reading()
    stream = reading.stream()
    numbers = list(range(len(BODY) // READ))
    for first in range(1, len(numbers) - 4, 4):
        numbers[first], numbers[first + 3] = numbers[first + 3], numbers[first]
    for number in numbers:
        offset = number * READ
        assert stream.read_at(offset, READ) == BODY[offset : offset + READ]
    assert reading.fetched == len(BODY)
    assert len(reading.requests) < len(numbers) / 3


def test_nothing_is_fetched_past_the_limit() -> None:
    """R-5: Read-ahead of a member stays within [start, limit)."""
    reading = Reading()
    start, limit = 3 * BLOCK + 100, 50 * BLOCK + 200
    stream = reading.stream(start, limit)
    body = b"".join(stream.read_at(offset, READ) for offset in range(start, limit, READ))
    assert body == BODY[start:limit]
    assert stream.read_at(limit, 10) == b""
    assert max(stop for _, stop in reading.requests) <= 51 * BLOCK


def test_read_ahead_stays_near_its_reader() -> None:
    """readahead: windows are bounded, so memory is."""
    reading = Reading(window_bytes=1 << 20)
    stream = reading.stream()
    for offset in range(0, 16 << 20, READ):
        stream.read_at(offset, READ)
        assert reading.fetched <= offset + READ + (1 << 20) + BLOCK


@pytest.mark.parametrize("count", [1, 2, 8, 60, 200])
def test_the_windows_of_all_readers_share_the_budget(count: int) -> None:
    """readahead: the windows of all readers together are bounded, also those of 200 open files."""
    total = 16 << 20
    windows = ReadAheadBudget(total)
    streams = [object() for _ in range(count)]
    for stream in streams:
        windows.register(stream)
    assert sum(windows.allowance(stream) for stream in streams) <= total


def test_a_reader_that_closes_or_idles_returns_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ReadAheadBudget: the bytes are shared by the readers that are active now."""
    windows = ReadAheadBudget(16 << 20)
    one, other = object(), object()
    windows.register(one)
    assert windows.allowance(one) == 16 << 20
    assert windows.allowance(other) == 8 << 20
    assert windows.allowance(one) == 16 << 20  # the other one only asked
    windows.register(other)
    assert windows.allowance(one) == 8 << 20
    windows.unregister(other)
    assert windows.allowance(one) == 16 << 20
    windows.register(other)
    monkeypatch.setattr("taskfs.cache.readahead.IDLE_S", 0.02)
    time.sleep(0.05)
    assert windows.allowance(one) == windows.allowance(object()) == 16 << 20
    windows.unregister(object())  # a reader that never registered


def test_each_reader_has_its_own_state() -> None:
    """R-4: Two sequential readers of one file do not look random."""
    reading = Reading()
    one, other = reading.stream(), reading.stream()
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
    stream = reading.stream()
    todo = iter(range(0, 8 << 20, READ))
    lock = threading.Lock()

    def read() -> None:
        while True:
            with lock:
                offset = next(todo, None)
            if offset is None:
                return
            assert stream.read_at(offset, READ) == BODY[offset : offset + READ]

    run_threads([read] * 6)
    requests = sorted(reading.requests)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(requests))


# Walks over the members of an archive


def many(count: int, size: int, method: int = STORED) -> bytes:
    body = cheap_bytes(size)
    packed = deflate(body, 1) if method == DEFLATED else body
    return build(
        [file(f"f{n:05}", body, packed=packed, method=method) for n in range(count)]
        + [Entry(b"service/log", cheap_bytes(200_000, 2))],  # so that the tail holds no member
        zip64=True,
    )


def test_small_members_read_in_turn_cost_few_requests() -> None:
    """R-6: `grep -r` over many small members costs at most the archive's size over 4 MiB, plus ten
    requests."""
    body = many(2000, 8000)
    with bench() as on:
        remote = FakeObject(body)
        archive = on.open(remote)
        expected = cheap_bytes(8000)
        for number in range(2000):
            assert read_all(archive, f"f{number:05}") == expected
        on.settle()
        assert len(remote.requests) <= len(body) / (4 << 20) + 10
        assert remote.fetched <= 1.05 * len(body)


def test_small_members_read_by_eight_at_once_cost_few_requests() -> None:
    """R-6: Small members read by eight at once, as `xargs -P8` does, are fetched together."""
    body = many(1600, 8000, DEFLATED)
    with bench() as on:
        remote = FakeObject(body)
        archive = on.open(remote)
        expected = cheap_bytes(8000)
        todo = iter(range(1600))
        lock = threading.Lock()

        def read() -> None:
            while True:
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                assert read_all(archive, f"f{number:05}") == expected

        run_threads([read] * 8)
        on.settle()
        assert len(remote.requests) <= len(body) / (4 << 20) + 60
        assert remote.fetched <= 1.1 * len(body)


def half_read(archive: Archive, numbers: Iterable[int], size: int) -> list[MemberReader]:
    """Readers of the members, each of which has read the first half."""
    readers = [archive.open_member(member(archive, f"f{number:05}")) for number in numbers]
    for reader in readers:
        for offset in range(0, size // 2, READ):
            reader.read_at(offset, READ)
    return readers


def finish(reader: MemberReader) -> None:
    for offset in range(reader.size // 2, reader.size, READ):
        reader.read_at(offset, READ)
    reader.close()


def test_a_walk_by_eight_readers_is_recognised_in_any_order() -> None:
    """R-6: A walk by eight readers is recognised in whatever order they finish."""
    size = 8 * READ
    body = many(30, size, DEFLATED)
    assert len(body) / 30 > SLACK / 2
    with bench() as on:
        remote = FakeObject(body)
        archive = on.open(remote)
        readers = half_read(archive, range(8), size)
        for number in (3, 0, 5, 1, 7, 2, 6, 4):
            finish(readers[number])
        on.settle()
        before = len(remote.requests)
        assert read_all(archive, "f00008") == cheap_bytes(size)
        assert all(start >= stop_of(archive, 8) for start, _ in remote.requests[before:])


def stop_of(archive: Archive, number: int) -> int:
    """Where the bytes of the member end in the archive."""
    one = member(archive, f"f{number:05}")
    return one.header_offset + one.compressed_size


def test_files_in_random_order_beside_open_ones_fetch_nothing_ahead() -> None:
    """R-5: Files read here and there while others are open prefetch nothing."""
    size = 4 * READ
    numbers = list(range(40, 400, 60))
    random.Random(5).shuffle(numbers)
    with bench() as on:
        remote = FakeObject(many(400, size, DEFLATED))
        archive = on.open(remote)
        half_read(archive, range(40), size)
        on.settle()
        for number in numbers:
            before = remote.fetched
            read_all(archive, f"f{number:05}")
            on.settle()
            one = member(archive, f"f{number:05}")
            assert remote.fetched - before <= one.compressed_size + 4 * BLOCK


class RecordedRanges:
    """Stands for the blocks of an object: which ranges a walk has asked for."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def prefetch(self, start: int, stop: int) -> bool:
        self.ranges.append((start, stop))
        return True


@pytest.mark.parametrize("gap", [4 << 20, 12 << 20])
def test_the_tolerance_for_open_files_is_bounded(gap: int) -> None:
    """R-6, R-20: However much other readers hold open, a walk's prefetch stays bounded."""
    asked: Any = RecordedRanges()
    walk = SequentialMembers(asked, ReadAheadBudget(64 << 20))
    size = 16 << 20
    assert not walk.note_read_to_end(0, size, 1 << 30)
    continues = walk.note_read_to_end(size + gap, 2 * size + gap, 1 << 30)
    assert continues == (gap <= MAX_OPEN_BYTES)
    for start, stop in asked.ranges:
        assert start >= 2 * size + gap
        assert stop <= 2 * size + gap + MAX_OPEN_BYTES + (64 << 20)
    assert bool(asked.ranges) == continues


def heads(archive: Archive, numbers: Iterable[int]) -> None:
    for number in numbers:
        reader = archive.open_member(member(archive, f"f{number:05}"))
        assert len(reader.read_at(0, 4096)) == 4096
        reader.close()


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_reading_only_heads_fetches_little(method: int) -> None:
    """R-7: 4 KB of each of 300 files of 2 MB fetch less than a sixth of them."""
    body = many(20, 2 << 20, method)
    with bench() as on:
        remote = FakeObject(body)
        heads(on.open(remote), range(20))
        on.settle()
        assert remote.fetched < len(body) / 6
        assert len(remote.requests) <= 3 * 20


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_heads_read_in_turn_are_fetched_several_at_once(method: int) -> None:
    """R-7: Heads read in turn are fetched several at once."""
    slow = Slow(lambda length: 0.02)
    with bench() as on:
        heads(on.open(FakeObject(many(60, 1 << 20, method), slow)), range(60))
        on.settle()
    assert slow.most >= 8


def test_heads_in_random_order_fetch_nothing_ahead() -> None:
    """R-7, R-5: Heads read here and there prefetch none."""
    numbers = list(range(0, 200, 20))
    random.Random(3).shuffle(numbers)
    with bench() as on:
        remote = FakeObject(many(200, 200_000))
        heads(on.open(remote), numbers)
        on.settle()
        assert remote.fetched <= 2 * BLOCK * len(numbers)


def test_heads_fetched_ahead_are_few() -> None:
    """R-7: At most 16 heads are prefetched."""
    with bench() as on:
        remote = FakeObject(many(200, 200_000))
        archive = on.open(remote)
        for count in (3, 60):
            heads(archive, range(count))
            on.settle()
            assert remote.fetched <= 2 * BLOCK * (count + min(count, HEADS_AHEAD))


def push(reader: MemberReader) -> None:
    """Do what the FUSE boundary does after each read."""
    while ready := reader.take_pushable():
        reader.read_for_push(ready.start, len(ready))


def test_heads_after_a_walk_end_it() -> None:
    """R-7: Heads read after a walk over files end the walk, although cached bytes are pushed."""
    body = many(50, 2 << 20, DEFLATED)
    with bench() as on:
        remote = FakeObject(body)
        archive = on.open(remote)
        for number in range(10):
            read_all(archive, f"f{number:05}")
        assert archive.prefetch.is_sequential
        on.settle()
        before = remote.fetched
        for number in range(10, 50):
            reader = archive.open_member(member(archive, f"f{number:05}"))
            assert len(reader.read_at(0, 16 << 10)) == 16 << 10  # as the kernel asks for 4 KiB
            push(reader)
            reader.close()
            assert not archive.prefetch.is_sequential
        on.settle()
        assert remote.fetched - before < (len(body) - before) / 6


def test_a_walk_is_recognised_by_the_ends_of_its_reads() -> None:
    """R-9: Pushed bytes do not make a file count as read to its end."""
    with bench() as on:
        archive = on.open(FakeObject(many(8, 1 << 20, DEFLATED)))
        for number in range(8):
            reader = archive.open_member(member(archive, f"f{number:05}"))
            for offset in range(0, 1 << 20, READ):
                reader.read_at(offset, READ)
                push(reader)
                is_second_end = number == 1 and offset + READ == 1 << 20
                assert archive.prefetch.is_sequential == (is_second_end or number > 1)
            reader.close()


def test_small_files_in_turn_are_pushed_when_they_are_opened() -> None:
    """R-9: In a walk over small files each is pushed once on open, but for those that sample
    whether they are read."""
    count = 8 * SAMPLE_EVERY
    with bench() as on:
        archive = on.open(FakeObject(many(count, 8000, DEFLATED)))
        members = [member(archive, f"f{number:05}") for number in range(count)]
        pushed = []
        for one in members:
            reader = archive.open_member(one)
            if ready := reader.take_pushable():
                assert ready == range(8000)
                assert reader.read_for_push(0, 8000) == cheap_bytes(8000)
                pushed.append(one.number)
            else:
                assert reader.read_at(0, READ) == cheap_bytes(8000)
            assert not reader.take_pushable()
            reader.close()
            on.settle()  # what is fetched ahead is at hand then
        assert len(pushed) >= 6 * (SAMPLE_EVERY - 1)
        assert all(number % SAMPLE_EVERY for number in pushed)
        assert archive.prefetch.is_sequential
        for one in members:
            reader = archive.open_member(one)
            assert one.number not in pushed or not reader.take_pushable()
            reader.close()


def test_small_files_that_are_not_read_are_no_longer_pushed() -> None:
    """R-9: Files that are opened and not read end the pushes."""
    count = 10 * SAMPLE_EVERY
    with bench() as on:
        archive = on.open(FakeObject(many(count, 8000, DEFLATED)))
        for number in range(20):
            assert not archive.open_member(member(archive, f"f{number + 80:05}")).take_pushable()
        for number in range(2 * SAMPLE_EVERY):
            read_all(archive, f"f{number:05}")
        on.settle()
        pushed = 0
        for number in range(2 * SAMPLE_EVERY, count):
            reader = archive.open_member(member(archive, f"f{number:05}"))
            pushed += bool(reader.take_pushable())
            reader.close()
        assert not archive.prefetch.is_sequential
        assert pushed <= SAMPLE_EVERY


def test_an_empty_file_ends_no_walk() -> None:
    """R-6: An empty file, of which the kernel reads no byte, ends no walk."""
    body = build([file(f"f{n:05}", cheap_bytes(8000 * (n != 5))) for n in range(6)])
    with bench() as on:
        archive = on.open(FakeObject(body))
        for number in range(5):
            read_all(archive, f"f{number:05}")
        archive.open_member(member(archive, "f00005")).close()
        assert archive.prefetch.is_sequential
        archive.open_member(member(archive, "f00001")).close()
        assert not archive.prefetch.is_sequential


def test_only_readers_wait_for_small_files_that_are_not_cached() -> None:
    """R-18: An open waits for no bytes."""
    with bench() as on:
        archive = on.open(FakeObject(many(20, 8000, DEFLATED)))
        archive.prefetch.pattern = AccessPattern.SEQUENTIAL
        assert not archive.open_member(member(archive, "f00003")).take_pushable()


def whole_twice(on: Bench, remote: FakeObject, path: str) -> Callable[[], int]:
    archive = on.open(remote)

    def again() -> int:
        read_all(archive, path)
        on.settle()
        return remote.fetched

    return again


@pytest.mark.parametrize("size", [30_000, 3 << 20])
def test_one_member_read_whole_is_no_walk(size: int) -> None:
    """R-6: One file read whole is no walk: `cat` fetches its bytes within 2 %."""
    body = many(8, size)
    with bench() as on:
        again = whole_twice(on, FakeObject(body), "f00000")
        assert again() <= 1.02 * size + 3 * BLOCK


@pytest.mark.parametrize("size", [30_000, 1 << 20])
def test_one_member_read_again_and_again_is_no_walk(size: int) -> None:
    """R-6, R-2: One file read again and again prefetches nothing else."""
    body = many(100, size) if size < 100_000 else many(10, size)
    with bench() as on:
        again = whole_twice(on, FakeObject(body), "f00002")
        first = again()
        for _ in range(30):
            again()
        assert again() == first


def test_members_read_in_random_order_fetch_little_more_than_they_are() -> None:
    """R-5: Members read in random order fetch little more than they are."""
    size = 100_000
    body = many(300, size)
    with bench() as on:
        remote = FakeObject(body)
        archive = on.open(remote)
        for number in random.Random(3).sample(range(0, 300, 10), 15):
            read_all(archive, f"f{number:05}")
        on.settle()
        assert remote.fetched <= 15 * (size + 3 * BLOCK)
