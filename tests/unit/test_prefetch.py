"""`taskfs.archive.prefetch`: bytes that are fetched and pushed beyond the members that are read."""

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from taskfs.archive.archive import Archive
from taskfs.archive.member_reader import MemberReader
from taskfs.archive.prefetch import AccessPattern, SequentialMembers
from taskfs.cache.block import BLOCK
from taskfs.cache.readahead import ReadAheadBudget
from tests.archive_harness import (
    ArchiveHarness,
    FakeObject,
    SlowResponses,
    make_harness,
    member,
    read_all,
    read_in_turns,
)
from tests.zips import DEFLATED, STORED, Entry, build, cheap_bytes, deflate, file

READ = 128 << 10


def many(count: int, size: int, method: int = STORED) -> bytes:
    body = cheap_bytes(size)
    packed = deflate(body, 1) if method == DEFLATED else body
    return build(
        [file(f"f{n:05}", body, packed=packed, method=method) for n in range(count)]
        + [Entry(b"service/log", cheap_bytes(200_000, 2))],  # so that the tail holds no member
        zip64=True,
    )


def test_small_members_read_one_after_another_cost_few_requests() -> None:
    """R-6: `grep -r` over many small members costs at most the archive's size over 4 MiB, plus ten
    requests."""
    body = many(2000, 8000)
    with make_harness() as harness:
        remote = FakeObject(body)
        archive = harness.open(remote)
        expected = cheap_bytes(8000)
        for number in range(2000):
            assert read_all(archive, f"f{number:05}") == expected
        harness.settle()
        assert len(remote.requests) <= len(body) / (4 << 20) + 10
        assert remote.fetched <= 1.05 * len(body)


def test_small_members_read_by_eight_at_once_cost_few_requests() -> None:
    """R-6: Small members read by eight at once, as `xargs -P8` does, are fetched together."""
    body = many(1600, 8000, DEFLATED)
    with make_harness() as harness:
        remote = FakeObject(body)
        archive = harness.open(remote)
        expected = cheap_bytes(8000)

        def read(number: int) -> None:
            assert read_all(archive, f"f{number:05}") == expected

        read_in_turns(range(1600), read, readers=8)
        harness.settle()
        assert len(remote.requests) <= len(body) / (4 << 20) + 60
        assert remote.fetched <= 1.1 * len(body)


@pytest.mark.parametrize("readers", [1, 2])
def test_small_members_read_backwards_cost_few_requests(readers: int) -> None:
    """R-6: A program that reads small members from the last to the first, as ripgrep does, costs as
    few requests as one that goes forward."""
    body = many(1600, 8000, DEFLATED)
    with make_harness() as harness:
        remote = FakeObject(body)
        archive = harness.open(remote)
        expected = cheap_bytes(8000)

        def read(number: int) -> None:
            assert read_all(archive, f"f{number:05}") == expected

        read_in_turns(reversed(range(1600)), read, readers)
        assert archive.prefetch.is_sequential
        harness.settle()
        assert len(remote.requests) <= len(body) / (4 << 20) + 20
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


def test_a_sequence_of_eight_readers_is_recognised_in_any_order() -> None:
    """R-6: A walk by eight readers is recognised in whatever order they finish."""
    size = 8 * READ
    body = many(30, size, DEFLATED)
    assert len(body) / 30 > 512 << 10  # two are longer than the disorder of one reader
    with make_harness() as harness:
        remote = FakeObject(body)
        archive = harness.open(remote)
        readers = half_read(archive, range(8), size)
        for number in (3, 0, 5, 1, 7, 2, 6, 4):
            finish(readers[number])
        harness.settle()
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
    with make_harness() as harness:
        remote = FakeObject(many(400, size, DEFLATED))
        archive = harness.open(remote)
        half_read(archive, range(40), size)
        harness.settle()
        for number in numbers:
            before = remote.fetched
            read_all(archive, f"f{number:05}")
            harness.settle()
            one = member(archive, f"f{number:05}")
            assert remote.fetched - before <= one.compressed_size + 4 * BLOCK


class RecordedRanges:
    """Stands for the blocks of an object: which ranges a walk has asked for."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def prefetch(self, start: int, stop: int) -> bool:
        self.ranges.append((start, stop))
        return True


@pytest.mark.parametrize(("gap", "is_walk"), [(4 << 20, True), (12 << 20, False)])
def test_the_slack_for_open_files_is_bounded(gap: int, is_walk: bool) -> None:
    """R-6, R-20: However much other readers hold open, a read far from the last one is no walk, and
    a walk's prefetch stays bounded."""
    asked: Any = RecordedRanges()
    walk = SequentialMembers(asked, ReadAheadBudget(64 << 20))
    size = 16 << 20
    assert not walk.note_read_to_end(0, size, 1 << 30)
    advance = walk.note_read_to_end(size + gap, 2 * size + gap, 1 << 30)
    assert bool(advance) == is_walk
    if advance:
        walk.fetch_ahead(advance, 1 << 30)
    for start, stop in asked.ranges:
        assert start >= 2 * size + gap
        assert stop <= 2 * size + gap + (80 << 20)
    assert bool(asked.ranges) == is_walk


def heads(archive: Archive, numbers: Iterable[int]) -> None:
    for number in numbers:
        reader = archive.open_member(member(archive, f"f{number:05}"))
        assert len(reader.read_at(0, 4096)) == 4096
        reader.close()


def _beside_index(archive: Archive) -> int:
    return archive.memory_bytes - archive.index.memory_bytes


def test_the_order_of_members_counts_as_memory_of_the_archive() -> None:
    """R-20: The bytes that prefetch keeps of each member count when archives are evicted."""
    entries = [file(f"f{n:05}", cheap_bytes(5000), method=STORED) for n in range(500)]
    entries.append(file("last", offset=0))  # so that the members are not in the archive's order
    with make_harness() as harness:
        one, archive = (harness.open(FakeObject(build(each))) for each in (entries[:1], entries))
        before = _beside_index(archive)
        heads(archive, range(1))
        assert before >= _beside_index(one) + 500
        assert _beside_index(archive) >= before + 8 * 500


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_reading_only_heads_fetches_little(method: int) -> None:
    """R-7: 4 KB of each of 300 files of 2 MB fetch less than a sixth of them."""
    body = many(20, 2 << 20, method)
    with make_harness() as harness:
        remote = FakeObject(body)
        heads(harness.open(remote), range(20))
        harness.settle()
        assert remote.fetched < len(body) / 6
        assert len(remote.requests) <= 3 * 20


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_heads_read_one_after_another_are_fetched_several_at_once(method: int) -> None:
    """R-7: Heads read one after another are fetched several at once."""
    # Long enough for eight threads of a busy machine; not needed once eight were in flight.
    slow = SlowResponses(lambda length: 0.3 if slow.most < 8 else 0.0)
    with make_harness() as harness:
        heads(harness.open(FakeObject(many(60, 1 << 20, method), slow)), range(60))
        harness.settle()
    assert slow.most >= 8


def test_heads_in_random_order_fetch_nothing_ahead() -> None:
    """R-7, R-5: Heads read here and there prefetch none."""
    numbers = list(range(0, 200, 20))
    random.Random(3).shuffle(numbers)
    with make_harness() as harness:
        remote = FakeObject(many(200, 200_000))
        heads(harness.open(remote), numbers)
        harness.settle()
        assert remote.fetched <= 2 * BLOCK * len(numbers)


def test_heads_fetched_ahead_are_few() -> None:
    """R-7: At most 16 heads are prefetched."""
    with make_harness() as harness:
        remote = FakeObject(many(200, 200_000))
        archive = harness.open(remote)
        starts = [member(archive, f"f{number:05}").header_offset for number in range(200)]
        for count in (3, 60):
            heads(archive, range(count))
            harness.settle()
            last = max(start for start, _ in remote.requests)
            assert 0 < sum(starts[count] <= start <= last for start in starts) <= 16
            assert remote.fetched <= 2 * BLOCK * (count + 16)


def push(reader: MemberReader) -> None:
    """Do what the FUSE boundary does after each read."""
    while ready := reader.take_pushable():
        reader.read_for_push(ready.start, len(ready))


def test_heads_end_a_sequence() -> None:
    """R-7: Heads read after a walk over files end the walk, although cached bytes are pushed."""
    body = many(50, 2 << 20, DEFLATED)
    with make_harness() as harness:
        remote = FakeObject(body)
        archive = harness.open(remote)
        for number in range(10):
            read_all(archive, f"f{number:05}")
        assert archive.prefetch.is_sequential
        harness.settle()
        before = remote.fetched
        for number in range(10, 50):
            reader = archive.open_member(member(archive, f"f{number:05}"))
            assert len(reader.read_at(0, 16 << 10)) == 16 << 10  # as the kernel asks for 4 KiB
            push(reader)
            reader.close()
            assert not archive.prefetch.is_sequential
        harness.settle()
        assert remote.fetched - before < (len(body) - before) / 6


def test_a_sequence_is_recognised_by_the_ends_of_its_reads() -> None:
    """R-9: Pushed bytes do not make a file count as read to its end."""
    with make_harness() as harness:
        archive = harness.open(FakeObject(many(8, 1 << 20, DEFLATED)))
        for number in range(8):
            reader = archive.open_member(member(archive, f"f{number:05}"))
            for offset in range(0, 1 << 20, READ):
                reader.read_at(offset, READ)
                push(reader)
                is_second_end = number == 1 and offset + READ == 1 << 20
                assert archive.prefetch.is_sequential == (is_second_end or number > 1)
            reader.close()


def test_small_files_in_a_sequence_are_pushed_on_open() -> None:
    """R-9: In a walk over small files each is pushed once on open, except those that show
    whether they are read."""
    count = 128
    with make_harness() as harness:
        archive = harness.open(FakeObject(many(count, 8000, DEFLATED)))
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
            harness.settle()  # until the prefetched bytes are cached
        assert len(pushed) >= 90
        assert not {*range(count // 2, count)} <= {*pushed}
        assert archive.prefetch.is_sequential
        for one in members:
            reader = archive.open_member(one)
            assert one.number not in pushed or not reader.take_pushable()
            reader.close()


def test_small_files_that_are_not_read_are_no_longer_pushed() -> None:
    """R-9: Files that are opened and not read end the pushes."""
    count = 160
    with make_harness() as harness:
        archive = harness.open(FakeObject(many(count, 8000, DEFLATED)))
        for number in range(20):
            assert not archive.open_member(member(archive, f"f{number + 80:05}")).take_pushable()
        for number in range(32):
            read_all(archive, f"f{number:05}")
        harness.settle()
        pushed = 0
        for number in range(32, count):
            reader = archive.open_member(member(archive, f"f{number:05}"))
            pushed += bool(reader.take_pushable())
            reader.close()
        assert not archive.prefetch.is_sequential
        assert pushed <= 16


def test_an_empty_file_does_not_end_a_sequence() -> None:
    """R-6: An empty file, of which the kernel reads no byte, ends no walk."""
    body = build([file(f"f{n:05}", cheap_bytes(8000 * (n != 5))) for n in range(6)])
    with make_harness() as harness:
        archive = harness.open(FakeObject(body))
        for number in range(5):
            read_all(archive, f"f{number:05}")
        archive.open_member(member(archive, "f00005")).close()
        assert archive.prefetch.is_sequential
        archive.open_member(member(archive, "f00001")).close()
        assert not archive.prefetch.is_sequential


def test_only_readers_wait_for_small_files_that_are_not_cached() -> None:
    """R-18: An open waits for no bytes."""
    with make_harness() as harness:
        archive = harness.open(FakeObject(many(20, 8000, DEFLATED)))
        archive.prefetch.pattern = AccessPattern.SEQUENTIAL
        assert not archive.open_member(member(archive, "f00003")).take_pushable()


def whole_twice(harness: ArchiveHarness, remote: FakeObject, path: str) -> Callable[[], int]:
    archive = harness.open(remote)

    def again() -> int:
        read_all(archive, path)
        harness.settle()
        return remote.fetched

    return again


@pytest.mark.parametrize("size", [30_000, 3 << 20])
def test_one_member_read_whole_is_not_a_sequence(size: int) -> None:
    """R-6: One file read whole is no walk: `cat` fetches its bytes within 2 %."""
    body = many(8, size)
    with make_harness() as harness:
        again = whole_twice(harness, FakeObject(body), "f00000")
        assert again() <= 1.02 * size + 3 * BLOCK


@pytest.mark.parametrize("size", [30_000, 1 << 20])
def test_one_member_read_repeatedly_is_not_a_sequence(size: int) -> None:
    """R-6, R-2: One file read again and again prefetches nothing else."""
    body = many(100, size) if size < 100_000 else many(10, size)
    with make_harness() as harness:
        again = whole_twice(harness, FakeObject(body), "f00002")
        first = again()
        for _ in range(30):
            again()
        assert again() == first


def test_members_read_in_random_order_fetch_little_more_than_they_are() -> None:
    """R-5: Members read in random order fetch little more than they are."""
    size = 100_000
    body = many(300, size)
    with make_harness() as harness:
        remote = FakeObject(body)
        archive = harness.open(remote)
        for number in random.Random(3).sample(range(0, 300, 10), 15):
            read_all(archive, f"f{number:05}")
        harness.settle()
        assert remote.fetched <= 15 * (size + 3 * BLOCK)
