"""`taskfs.archive.archive`: reads of members and raw bytes; the reference is `zipfile`."""

import contextlib
import errno
import io
import os
import random
import struct
import sys
import threading
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskfs.archive.archive import Archive
from taskfs.archive.bounds import SPAN
from taskfs.archive.decoders import DECODERS, DeflateDecoder
from taskfs.archive.local_header import LOCAL
from taskfs.archive.member_reader import MemberReader
from taskfs.archive.open_archive import tail_length
from taskfs.cache.block import BLOCK
from taskfs.cache.readahead import TOTAL_WINDOW
from taskfs.core import BLOCK_MEMORY, SPAN_MEMORY
from taskfs.errors import (
    CorruptData,
    Interrupted,
    NotFound,
    StaleObject,
    TaskFSError,
    Unavailable,
    Unsupported,
)
from tests.archive_harness import (
    ArchiveHarness,
    FakeObject,
    make_harness,
    member,
    read_all,
    run_threads,
)
from tests.zips import (
    BZIP2,
    DEFLATED,
    LZMA,
    ROOT,
    STORED,
    Entry,
    build,
    cheap_bytes,
    deflate,
    field,
    file,
    flipped,
    lzma_alone,
    pack,
    plain_name,
    unicode_field,
)

METHODS = [STORED, DEFLATED, BZIP2, LZMA]
SMALL = cheap_bytes(30_000)
BIG = cheap_bytes(3 * SPAN + 4321, 2)
SEARCHING = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture
def harness() -> Iterator[ArchiveHarness]:
    """An engine of its own for each test."""
    with make_harness() as made:
        yield made


def opened(harness: ArchiveHarness, *entries: Entry, **fields: Any) -> tuple[Archive, FakeObject]:
    """An archive that holds *entries*, and the object that it is read from."""
    remote = FakeObject(build(entries, **fields))
    return harness.open(remote), remote


def reader_of(archive: Archive, path: str) -> MemberReader:
    return archive.open_member(member(archive, path))


def padding(size: int = 200_000) -> Entry:
    """A service file behind the members, so that the tail does not bring their bytes."""
    return Entry(b"service/log", os.urandom(size), STORED)


def place_of(body: bytes, name: str) -> int:
    """Where the bytes of the member begin in an archive of ours."""
    header = body.index(b"PK\x03\x04", 0)
    raw = (ROOT + name).encode()
    while body[header + LOCAL.size :][: len(raw)] != raw:
        header = body.index(b"PK\x03\x04", header + 4)
    return header + LOCAL.size + int(sum(struct.unpack_from("<HH", body, header + 26)))


class Once:
    """A store that flips one byte in the first responses that hold it, and in no later one."""

    def __init__(self, at: int, times: int = 1) -> None:
        self.at = at
        self.left = times

    def __call__(self, start: int, stop: int, answer: bytes) -> bytes:
        if self.left and start <= self.at < stop:
            self.left -= 1
            return flipped(answer, self.at - start, 0x10)
        return answer


# The bytes


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN]
)
def test_every_byte_of_every_method_and_size(
    harness: ArchiveHarness, size: int, method: int
) -> None:
    """I-8: Every byte of every method and size equals zipfile's."""
    body = cheap_bytes(size, 3)
    archive, remote = opened(harness, file("x", body, method=method, flags=2 * (method == LZMA)))
    with zipfile.ZipFile(io.BytesIO(remote.body)) as reference:
        assert reference.read(ROOT + "x") == body
    assert read_all(archive, "x") == body
    assert read_all(archive, "x", 5000 if size < 10 * BLOCK else 50_000) == body
    reader = reader_of(archive, "x")
    assert reader.read_at(size, 10) == b""
    assert reader.read_at(size + 1000, 10) == b""
    assert reader.read_at(0, 2 * size + 1) == body


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("zip64", [False, True])
def test_the_three_kinds_of_archive(
    harness: ArchiveHarness, zip64: bool, is_streamed: bool
) -> None:
    """I-8: Archives with zero sizes in local headers, with data descriptors and with ZIP64
    everywhere are read."""
    kind = {"zip64": zip64, "is_streamed": is_streamed}
    archive, _ = opened(
        harness,
        file("a", SMALL, **kind),
        file("b", BIG, method=STORED, **kind),
        file("c", BIG, local_extra=field(0x5455, bytes(9)), **kind),
        file("d", b"", **kind),
        zip64=zip64,
        comment=b"made by a test",
    )
    for name, body in (("a", SMALL), ("b", BIG), ("c", BIG), ("d", b"")):
        assert read_all(archive, name) == body


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("prepended", [1, BLOCK - 50, BLOCK - 1, BLOCK])
def test_members_that_begin_anywhere_in_a_block(
    harness: ArchiveHarness, prepended: int, shifted: bool
) -> None:
    """I-8: A local header and the first bytes may lie on either side of a block's edge."""
    names = [f"{method}-{number}" for method in METHODS for number in range(4)]
    entries = [file(name, SMALL, method=int(name.split("-")[0])) for name in names]
    archive, _ = opened(harness, *entries, prepended=os.urandom(prepended), shifted=shifted)
    for name in names:
        assert read_all(archive, name) == SMALL


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("left", [1, 2, 4, 5, 9, 13, 20, 29])
def test_data_that_begins_just_before_a_block_s_edge(
    harness: ArchiveHarness, left: int, method: int
) -> None:
    """I-8: Data that begins at the last bytes of a block equals zipfile's."""
    header = LOCAL.size + len(ROOT) + 1
    prepended = bytes(BLOCK - header - left)
    archive, _ = opened(harness, file("x", SMALL, method=method), prepended=prepended)
    assert read_all(archive, "x") == SMALL


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tiny", [False, True])
def test_backward_and_random_reads(method: int, tiny: bool) -> None:
    """R-8: Backward reads, reopening and interleaved readers are right, also after eviction."""
    sizes: Any = {"block_bytes": 200_000, "span_bytes": 200_000} if tiny else {}
    with make_harness(**sizes) as harness:
        archive, _ = opened(harness, file("x", BIG, method=method), file("y", SMALL), padding())
        one, two = reader_of(archive, "x"), reader_of(archive, "x")
        rng = random.Random(method)
        for offset in range(len(BIG) - 1, 0, -60_000):
            assert one.read_at(offset, 60_000) == BIG[offset : offset + 60_000]
        for _ in range(20):
            offset, size = rng.randrange(len(BIG)), rng.choice([1, 4096, SPAN, len(BIG)])
            assert two.read_at(offset, size) == BIG[offset : offset + size]
            assert read_all(archive, "y") == SMALL


names = st.text("abc/", min_size=1, max_size=3)


@st.composite
def small_archives(draw: st.DrawFn) -> bytes:
    return build(
        [
            file(
                draw(names),
                draw(st.binary(max_size=60)) * draw(st.integers(0, 40)),
                method=draw(st.sampled_from(METHODS)),
                level=draw(st.integers(0, 9)),
                flags=draw(st.sampled_from([0, 2, 8, 0x800])),
                is_streamed=draw(st.booleans()),
                zip64=draw(st.booleans()),
            )
            for _ in range(draw(st.integers(1, 4)))
        ],
        zip64=draw(st.booleans()),
        prepended=draw(st.binary(max_size=5)),
        shifted=draw(st.booleans()),
    )


def contents(archive: Archive) -> dict[str, bytes | TaskFSError]:
    found: dict[str, bytes | TaskFSError] = {}
    for one in archive.index.members:
        try:
            found[one.path] = read_all(archive, one.path)
        except TaskFSError as exc:
            found[one.path] = exc
    return found


def reference_contents(body: bytes) -> dict[str, bytes | None]:
    """Return the contents that zipfile reads, by name; None where it refuses."""
    found: dict[str, bytes | None] = {}
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        for info in archive.infolist():
            try:
                found[plain_name(info.filename)] = archive.read(info)
            except Exception:  # zlib.error, EOFError, NotImplementedError, …
                found[plain_name(info.filename)] = None
    return found


@SEARCHING
@given(small_archives())
def test_members_equal_zipfile_s(body: bytes) -> None:
    """I-8: Generated members equal zipfile's."""
    expected = reference_contents(body)
    with make_harness() as harness:
        for path, got in contents(harness.open(FakeObject(body))).items():
            assert got == expected[ROOT + path]


@settings(SEARCHING, max_examples=350)
@given(
    small_archives(),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), min_size=1, max_size=3),
)
def test_damaged_members_are_refused_by_name_or_read_as_zipfile_reads_them(
    body: bytes, flips: list[tuple[int, int]]
) -> None:
    """I-8: Damaged members are refused by an error of ours or read as zipfile reads them."""
    for place, mask in flips:
        body = flipped(body, place % len(body), mask)
    with make_harness() as harness:
        try:
            archive = harness.open(FakeObject(body))
        except TaskFSError:
            return
        found = contents(archive)
        try:
            expected = reference_contents(body)
        except Exception:  # zipfile refuses the directory as a whole
            return
        for path, got in found.items():
            raw_name = member(archive, path).raw_name
            reference = expected.get(
                plain_name(raw_name.decode("cp437")), expected.get(ROOT + path)
            )
            if isinstance(got, bytes) and reference is not None:
                assert got == reference


# Verified


@pytest.mark.parametrize("method", METHODS)
def test_a_small_member_is_checked_before_its_first_byte(
    harness: ArchiveHarness, method: int
) -> None:
    """I-2: A member of one block is checked before its first byte is returned."""
    archive, _ = opened(harness, file("x", SMALL, method=method, crc=zlib.crc32(SMALL) ^ 1))
    reader = reader_of(archive, "x")
    for offset in (0, 100, len(SMALL) - 1):
        with pytest.raises(CorruptData) as caught:
            reader.read_at(offset, 10)
        assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [50_000, SPAN, 200_000])
def test_a_big_member_is_checked_before_its_last_byte(
    harness: ArchiveHarness, method: int, step: int
) -> None:
    """I-1: CRC-32 and size are checked before the last bytes are returned."""
    body = random.Random(5).randbytes(3 * SPAN + 4321)  # packs to no less than it is
    archive, _ = opened(harness, file("x", body, method=method, crc=zlib.crc32(body) ^ 1))
    reader = reader_of(archive, "x")
    offsets = range(0, len(body), step)
    for offset in offsets[:-1]:
        assert reader.read_at(offset, step) == body[offset : offset + step]
    with pytest.raises(CorruptData):
        reader.read_at(offsets[-1], step)


@pytest.mark.parametrize("method", METHODS)
def test_a_mismatch_is_not_forgotten_by_asking_for_the_end_again(
    harness: ArchiveHarness, method: int
) -> None:
    """I-3: A read that the kernel repeats after a failed read-ahead fails again."""
    body = random.Random(6).randbytes(3 * SPAN)
    archive, _ = opened(harness, file("x", body, method=method, crc=1))
    reader = reader_of(archive, "x")
    for offset in range(0, 2 * SPAN, SPAN):
        reader.read_at(offset, SPAN)
    for _ in range(3):
        with pytest.raises(CorruptData):
            reader.read_at(2 * SPAN, SPAN)
    with pytest.raises(CorruptData):
        reader.read_at(len(body) - 4096, 4096)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_handle_that_returned_wrong_bytes_fails_at_its_end(
    harness: ArchiveHarness, method: int
) -> None:
    """I-3, I-4: Wrong bytes that were returned stay wrong after the store has recovered."""
    body = random.Random(6).randbytes(4 * SPAN)
    whole = build([file("x", body, method=method, level=0), padding()])
    archive = harness.open(FakeObject(whole, Once(place_of(whole, "x") + 1000)))
    reader = reader_of(archive, "x")
    assert reader.read_at(0, SPAN) != body[:SPAN]
    for offset in (SPAN, 2 * SPAN):
        reader.read_at(offset, SPAN)
    for _ in range(3):
        with pytest.raises(CorruptData):
            reader.read_at(3 * SPAN, SPAN)
    assert read_all(archive, "x") == body  # a new handle starts anew


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_handle_that_returned_wrong_bytes_fails_although_another_read_good_ones(
    harness: ArchiveHarness, method: int
) -> None:
    """I-1, I-4: The bytes that were returned are checked, not those that were fetched."""
    body = random.Random(7).randbytes(4 * SPAN)
    whole = build([file("x", body, method=method, level=0), padding()])
    archive = harness.open(FakeObject(whole, Once(place_of(whole, "x") + 1000)))
    unlucky = reader_of(archive, "x")
    assert unlucky.read_at(0, SPAN) != body[:SPAN]
    with pytest.raises(CorruptData):  # finds the damage and drops what came of it
        read_all(archive, "x")
    assert read_all(archive, "x") == body
    with pytest.raises(CorruptData):
        for offset in range(SPAN, 4 * SPAN, SPAN):
            unlucky.read_at(offset, SPAN)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_wrong_bytes_that_were_evicted_are_found_all_the_same(method: int) -> None:
    """I-4: The check also covers bytes that were fetched and decoded twice, once without damage."""
    body = random.Random(8).randbytes(8 * SPAN)
    whole = build([file("x", body, method=method, level=0), padding()])
    with make_harness(block_bytes=200_000, span_bytes=200_000) as harness:
        archive = harness.open(FakeObject(whole, Once(place_of(whole, "x") + 1000)))
        unlucky = reader_of(archive, "x")
        assert unlucky.read_at(0, 5000) != body[:5000]
        unlucky.read_at(5000, SPAN - 5000)
        harness.settle()
        other = reader_of(archive, "x")
        for offset in range(7 * SPAN, 0, -SPAN):  # each from a cursor of its own
            other.read_at(offset, 100)
        with pytest.raises(CorruptData):
            for offset in range(SPAN, 8 * SPAN, SPAN):
                unlucky.read_at(offset, SPAN)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_second_pass_through_one_handle_is_checked_too(method: int) -> None:
    """I-1: Every pass over a member is checked, not only the first."""
    body = random.Random(9).randbytes(8 * SPAN)
    whole = build([file("x", body, method=method, level=0), padding()])
    with make_harness(block_bytes=200_000, span_bytes=200_000) as harness:
        remote = FakeObject(whole)
        reader = reader_of(harness.open(remote), "x")
        for offset in range(0, len(body), SPAN):
            assert reader.read_at(offset, SPAN) == body[offset : offset + SPAN]
        harness.settle()
        remote.on_range = Once(place_of(whole, "x") + BLOCK + 1000)
        with pytest.raises(CorruptData):
            for offset in range(0, len(body), SPAN):
                reader.read_at(offset, SPAN)


def test_a_stored_member_is_checked_whatever_the_order(harness: ArchiveHarness) -> None:
    """I-1: The check needs all bytes, in any order."""
    body = random.Random(7).randbytes(10 * SPAN)
    archive, _ = opened(
        harness, file("x", body, method=STORED, crc=1), file("y", body, method=STORED)
    )
    numbers = list(range(10))
    random.Random(8).shuffle(numbers)
    good, bad = reader_of(archive, "y"), reader_of(archive, "x")
    for number in numbers[:-1]:
        offset = number * SPAN
        assert good.read_at(offset, SPAN) == body[offset : offset + SPAN]
        assert bad.read_at(offset, SPAN) == body[offset : offset + SPAN]
    assert good.read_at(numbers[-1] * SPAN, SPAN)
    with pytest.raises(CorruptData, match="CRC-32"):
        bad.read_at(numbers[-1] * SPAN, SPAN)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", [SMALL, BIG])
@pytest.mark.parametrize("by", [-1, 1, 1000, -1000, 1 << 30])
def test_wrong_sizes_in_either_direction(
    harness: ArchiveHarness, by: int, body: bytes, method: int
) -> None:
    """I-8, X-9: A size that lies gives neither a short read nor bytes of another member."""
    size = len(body) + by
    archive, _ = opened(harness, file("x", body, method=method, size=size), file("y", b"1"))
    with pytest.raises(CorruptData):
        read_all(archive, "x")
    reader = reader_of(archive, "x")
    with pytest.raises(CorruptData):
        reader.read_at(size - 1, 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("by", [-1, 1, -1000, 300])
def test_compressed_sizes_that_lie(harness: ArchiveHarness, by: int, method: int) -> None:
    """I-8: Compressed sizes that lie are read as zipfile reads them, or refused."""
    packed_size = len(pack(BIG, method))
    archive, remote = opened(
        harness, file("x", BIG, method=method, compressed_size=packed_size + by), padding()
    )
    expected = reference_contents(remote.body)[ROOT + "x"]
    try:
        got = read_all(archive, "x")
    except CorruptData:
        return
    assert got == BIG
    assert expected in (None, BIG)


@pytest.mark.parametrize(
    "entry",
    [
        file("x", b"", crc=1),
        file("x", b"", method=STORED, crc=1),
        file("x", b"0123456789", size=0),
        file("x", b"0123456789", method=STORED, size=0),
    ],
)
def test_an_empty_member_with_a_wrong_size_is_refused(
    harness: ArchiveHarness, entry: Entry
) -> None:
    """I-1: CRC-32 and size of empty members are checked, too."""
    archive, _ = opened(harness, entry)
    with pytest.raises(CorruptData):
        reader_of(archive, "x").read_at(0, 10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", [SMALL, BIG])
def test_a_member_with_flipped_bytes_is_never_read_whole(
    harness: ArchiveHarness, body: bytes, method: int
) -> None:
    """I-1, I-3: Flipped bytes are asked for once more, then EIO."""
    sound = build([file("x", body, method=method), padding()])
    begin = place_of(sound, "x")
    stop = sound.index(b"PK\x03\x04", begin)
    rng = random.Random(method)
    for _ in range(12):
        archive = harness.open(
            FakeObject(flipped(sound, rng.randrange(begin, stop), 1 << rng.randrange(8)))
        )
        try:
            assert read_all(archive, "x") == body  # a bit that means nothing
        except CorruptData:
            continue


def test_a_bomb_is_checked_first_and_costs_no_memory() -> None:
    """Y-10, I-2: 60 KB that inflate to 60 MB are checked first and cost no memory."""
    size = 60 << 20
    packed = deflate(bytes(size), 9)
    assert len(packed) <= BLOCK
    sound = file("x", packed=packed, size=size, crc=zlib.crc32(bytes(size)))
    lying = file("y", packed=packed, size=size, crc=1)
    with make_harness(span_bytes=4 << 20) as harness:
        archive, _ = opened(harness, sound, lying)
        tracemalloc.start()
        try:
            reader = reader_of(archive, "x")
            assert reader.read_at(0, 10) == bytes(10)
            assert reader.read_at(size - 10, 100) == bytes(10)
            with pytest.raises(CorruptData):
                reader_of(archive, "y").read_at(0, 10)
            harness.settle()
            assert tracemalloc.get_traced_memory()[1] < 12 << 20
        finally:
            tracemalloc.stop()


# Damaged once, then well


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["header", "name", "begin", "middle", "end"])
@pytest.mark.parametrize("body", [SMALL, random.Random(9).randbytes(BLOCK - 3000)])
def test_a_small_member_damaged_once_is_read_right(
    harness: ArchiveHarness, body: bytes, where: str, method: int
) -> None:
    """I-3: A mismatch drops its blocks and is tried once more."""
    whole = build([file("a", SMALL), file("x", body, method=method), padding()])
    begin = place_of(whole, "x")
    stop = whole.index(b"PK\x03\x04", begin)
    header = begin - LOCAL.size - len(ROOT) - 1
    places = {"header": header, "name": header + LOCAL.size, "begin": begin + 12}
    places |= {"middle": (begin + stop) // 2, "end": stop - 9}
    remote = FakeObject(whole, Once(places[where]))
    archive = harness.open(remote)
    reader = reader_of(archive, "x")
    assert reader.read_at(0, 100) == body[:100]
    assert read_all(archive, "x") == body
    assert remote.on_range is not None


@pytest.mark.parametrize("method", METHODS)
def test_damage_that_stays_is_eio_after_a_second_try(harness: ArchiveHarness, method: int) -> None:
    """I-3: Damage that stays is EIO after the second try."""
    whole = build([file("x", SMALL, method=method), padding()])
    remote = FakeObject(whole, Once(place_of(whole, "x") + 100, times=100))
    archive = harness.open(remote)
    with pytest.raises(CorruptData):
        reader_of(archive, "x").read_at(0, 100)
    harness.settle()
    assert len(remote.requests) == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_read_is_not_repeated_after_the_store_recovers(
    harness: ArchiveHarness, method: int
) -> None:
    """I-3: A damaged read is not served again once the store has recovered."""
    for body in (SMALL, BIG):
        whole = build([file("x", body, method=method), padding()])
        begin = place_of(whole, "x")
        stop = whole.index(b"PK\x03\x04", begin)
        for place in (begin + 50, stop - 50):
            archive = harness.open(FakeObject(whole, Once(place, times=2)))
            with contextlib.suppress(CorruptData):
                read_all(archive, "x")
            for _ in range(2):
                try:
                    got = read_all(archive, "x")
                except CorruptData:
                    continue  # the second damage
                assert got == body
            assert read_all(archive, "x") == body


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("extra_length", [0, 40, 1000, 60_000])
def test_all_blocks_of_a_damaged_member_are_dropped(
    harness: ArchiveHarness, extra_length: int, method: int
) -> None:
    """I-3: All blocks of a damaged member are dropped, however long its local header is."""
    entry = file(
        "x",
        SMALL,
        method=method,
        local_extra=field(0x9999, bytes(extra_length)) * bool(extra_length),
    )
    whole = build([entry])
    stop = place_of(whole, "x") + len(SMALL if method == STORED else deflate(SMALL))
    # The last bytes of the member become the first of a block.
    prepended = bytes(-(stop - 30) % BLOCK)
    whole = build([entry, padding()], prepended=prepended)
    last = stop - 30 + len(prepended)
    assert last % BLOCK == 0
    archive = harness.open(FakeObject(whole, Once(last)))
    assert read_all(archive, "x") == SMALL


def test_a_big_member_damaged_once_at_its_head_is_read_right(harness: ArchiveHarness) -> None:
    """I-3: A large member is tried once more while nothing of it was handed out."""
    whole = build([file("x", BIG), padding()])
    archive = harness.open(FakeObject(whole, Once(place_of(whole, "x") + 5)))
    assert read_all(archive, "x") == BIG


@pytest.mark.parametrize("method", METHODS)
def test_transient_failures_are_not_kept(harness: ArchiveHarness, method: int) -> None:
    """F-15, X-9: A transient failure is never cached, and never shows as a short file."""
    errors: list[TaskFSError] = [Unavailable("no answer"), Unavailable("again"), NotFound("gone")]

    def fail(start: int, stop: int, answer: bytes) -> bytes:
        if errors:
            raise errors.pop()
        return answer

    remote = FakeObject(build([file("x", BIG, method=method), padding()]), fail)
    reader = reader_of(harness.open(remote), "x")
    failures = 0
    for offset in range(0, len(BIG), SPAN):
        for _ in range(5):
            try:
                got = reader.read_at(offset, SPAN)
            except (Unavailable, NotFound):
                failures += 1
                continue
            assert got == BIG[offset : offset + SPAN]
            break
        else:
            raise AssertionError("it fails for ever")
    assert 1 <= failures <= 3


def test_a_replaced_object_is_stale_and_not_tried_again(harness: ArchiveHarness) -> None:
    """X-5: A replaced remote object is ESTALE."""

    def replaced(start: int, stop: int, answer: bytes) -> bytes:
        raise StaleObject("replaced")

    remote = FakeObject(build([file("x", SMALL), padding()]))
    archive = harness.open(remote)
    remote.on_range = replaced
    with pytest.raises(StaleObject):
        reader_of(archive, "x").read_at(0, 10)
    assert len(remote.requests) == 1


# Hostile directories


def test_a_local_header_that_names_another_member_is_refused(harness: ArchiveHarness) -> None:
    """I-6: The name in the local header is compared with that in the central directory."""
    for local_name in (b"artifacts/y", b"artifacts/xx", b"artifacts/", b"", b"ARTIFACTS/x"):
        archive, _ = opened(harness, file("x", b"evil" * 10, local_name=local_name))
        with pytest.raises(CorruptData, match="names another"):
            reader_of(archive, "x").read_at(0, 10)


SAME_NAMES = [
    ("café".encode(), "café".encode("cp437")),
    ("café".encode("cp437"), "café".encode()),
    (b"d/x", b"d\\x"),
    (b"d\\x", b"d/x"),
    (b"d/x", b"./d//x"),
    ("dé/x".encode(), "dé\\x".encode("cp437")),
]


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize(("listed", "local"), SAME_NAMES)
def test_a_local_header_that_says_the_name_in_another_way_is_read(
    harness: ArchiveHarness, listed: bytes, local: bytes, is_large: bool
) -> None:
    """I-6: A local header that says the same name in another way, as unzip, 7-Zip and bsdtar read
    it, is read."""
    body = cheap_bytes(300_000) if is_large else b"well" * 9
    root = ROOT.encode()
    archive = harness.open(
        FakeObject(build([Entry(root + listed, body, local_name=root + local), padding()]))
    )
    (path,) = (one.path for one in archive.index.members if one.path != "padding")
    assert read_all(archive, path) == body


def test_a_unicode_path_field_beside_a_local_header_in_utf8(harness: ArchiveHarness) -> None:
    """I-6, N-17: A 0x7075 field and a local header in UTF-8 give one name."""
    raw = ROOT.encode() + b"caf?"
    entry = Entry(
        raw,
        b"well",
        extra=unicode_field(ROOT + "café", raw),
        local_name=(ROOT + "café").encode(),
        flags=0x800,
    )
    archive = harness.open(FakeObject(build([entry, padding()])))
    assert read_all(archive, "café") == b"well"


@pytest.mark.parametrize(
    "local", ["caf", "cafe", "cafè", "CAFÉ", "café/x", "x/café", "../café", "caf\\é"]
)
def test_a_local_header_that_says_another_name_is_refused(
    harness: ArchiveHarness, local: str
) -> None:
    """I-6: A different name is EIO, in whatever way it is written."""
    for raw in (local.encode(), local.encode("cp437", "replace")):
        entry = Entry(ROOT.encode() + "café".encode(), b"evil", local_name=ROOT.encode() + raw)
        archive = harness.open(FakeObject(build([entry, padding()])))
        with pytest.raises(CorruptData, match="names another"):
            read_all(archive, "café")


@pytest.mark.parametrize("length", [300, 60_000])
def test_a_local_header_s_name_ends_before_the_directory(
    harness: ArchiveHarness, length: int
) -> None:
    """I-6, I-8: A name whose length runs into the directory is refused."""
    body = bytearray(build([file("x", b"evil" * 10)]))
    body[26:28] = length.to_bytes(2, "little")
    archive = harness.open(FakeObject(bytes(body)))
    with pytest.raises(CorruptData):
        read_all(archive, "x")


@pytest.mark.parametrize("offset", [1, 5, 100, 0xFFFF_FFF0])
def test_a_header_that_is_not_there_is_refused(harness: ArchiveHarness, offset: int) -> None:
    """I-8, I-6: An entry that points to no header is refused."""
    archive, _ = opened(harness, file("x", b"1" * 50, method=STORED, offset=offset))
    with pytest.raises(CorruptData):
        reader_of(archive, "x").read_at(0, 10)


@pytest.mark.parametrize("offset", [1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_a_header_far_outside_is_refused(harness: ArchiveHarness, offset: int) -> None:
    """I-8: An entry that points outside the archive is refused."""
    archive, remote = opened(harness, file("x", b"1" * 50, offset=offset, zip64=True))
    with pytest.raises(CorruptData, match="outside"):
        reader_of(archive, "x").read_at(0, 10)
    assert remote.requests == []


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("compressed", [60, 1000, 1 << 40, (1 << 63) - 1])
def test_a_member_that_overlaps_the_directory_is_refused(
    harness: ArchiveHarness, compressed: int, method: int
) -> None:
    """I-8: A member that overlaps the directory is refused."""
    entry = file("x", b"1" * 50, method=method, compressed_size=compressed, zip64=True)
    if method == STORED:
        entry = file("x", b"1" * 50, method=STORED, compressed_size=compressed, size=compressed,
                     zip64=True)  # fmt: skip
    archive, _ = opened(harness, entry)
    with pytest.raises(CorruptData):
        reader_of(archive, "x").read_at(0, 10)


def test_a_header_cut_by_the_directory_is_refused(harness: ArchiveHarness) -> None:
    """I-8: A local header that runs into the directory is refused."""
    archive, _ = opened(harness, file("x", b"1", method=STORED, offset=30), gap=bytes(5))
    with pytest.raises(CorruptData):
        reader_of(archive, "x").read_at(0, 10)
    archive, _ = opened(harness, file("x", b"1", method=STORED, local_extra=b"\xff" * 3), gap=b"")
    assert read_all(archive, "x") == b"1"  # extras that make no sense are no harm


def test_two_members_that_share_bytes_keep_their_own_sizes_and_sums(
    harness: ArchiveHarness,
) -> None:
    """I-8: Two entries that overlap keep their own sizes and checksums."""
    raw = b"artifacts/x"
    packed = deflate(SMALL)
    sizes = {"long": len(SMALL), "short": 100}
    entries = []
    for name, size in sizes.items():
        entries.append(
            Entry(
                raw, packed=packed, size=size, compressed_size=len(packed), offset=0,
                crc=zlib.crc32(SMALL), extra=unicode_field(ROOT + name, raw),
            )
        )  # fmt: skip
    for order in (("long", "short"), ("short", "long")):
        archive, _ = opened(harness, *entries)
        for name in order:
            if name == "long":
                assert read_all(archive, name) == SMALL
            else:
                with pytest.raises(CorruptData):
                    read_all(archive, name)


@pytest.mark.parametrize("flags", [0x0001, 0x0041, 0x0040])
def test_encrypted_members_are_unsupported(harness: ArchiveHarness, flags: int) -> None:
    """X-6: An encrypted member is EOPNOTSUPP."""
    archive, _ = opened(harness, file("x", b"1" * 20, flags=flags), file("y", b"2"))
    with pytest.raises(Unsupported, match="encrypted") as caught:
        reader_of(archive, "x")
    assert caught.value.errno == errno.EOPNOTSUPP
    assert read_all(archive, "y") == b"2"


@pytest.mark.parametrize(
    ("method", "name"),
    [(1, "shrunk"), (6, "imploded"), (9, "deflate64"), (95, "xz"), (98, "ppmd"), (99, "aes"),
     (7, "unknown"), (0xFFFF, "unknown")],
)  # fmt: skip
def test_unknown_methods_are_unsupported_by_name(
    harness: ArchiveHarness, method: int, name: str
) -> None:
    """R-22, X-6: An unknown method is EOPNOTSUPP by name."""
    archive, _ = opened(harness, file("x", b"1" * 20, method=method), file("y", b"2"))
    with pytest.raises(Unsupported, match=rf"x: .*{method} \({name}\)"):
        reader_of(archive, "x")
    assert read_all(archive, "y") == b"2"


def test_zstandard_is_read_or_refused_by_name(harness: ArchiveHarness) -> None:
    """R-22: Zstandard is read where a library reads it, else EOPNOTSUPP by name."""
    packed = bytes.fromhex("28b52ffd200c61000068656c6c6f20776f726c640a")  # one raw block
    body = b"hello world\n"
    archive, _ = opened(harness, file("x", body, method=93, packed=packed))
    try:
        assert read_all(archive, "x") == body
    except Unsupported as exc:
        assert "zstd" in str(exc)


def test_set_uid_bits_and_links_are_plain_members(harness: ArchiveHarness) -> None:
    """N-18: A link in an archive shows as a regular file that holds its target."""
    whole = bytearray(build([file("link", b"../../etc/passwd", method=STORED)]))
    at = whole.index(b"PK\x01\x02")
    struct.pack_into("<L", whole, at + 38, 0o124777 << 16)
    assert read_all(harness.open(FakeObject(bytes(whole))), "link") == b"../../etc/passwd"


# Requests


def test_the_index_and_a_head_cost_two_requests(harness: ArchiveHarness) -> None:
    """R-1: `ls` and `head` cost at most 2 requests each, `head` under 0.4 MB."""
    entries = [file(f"f{n}", SMALL) for n in range(50)] + [file("big", BIG * 10), padding(300_000)]
    archive, remote = opened(harness, *entries)
    assert remote.requests == []
    reader_of(archive, "f7").read_at(0, 4096)
    harness.settle()
    assert len(remote.requests) == 1
    assert remote.fetched < 300_000
    archive, remote = opened(harness, *entries)
    reader_of(archive, "big").read_at(0, 4096)
    harness.settle()
    assert len(remote.requests) == 1
    assert remote.fetched < 300_000


def test_four_kilobytes_in_a_stored_member_cost_two_requests(harness: ArchiveHarness) -> None:
    """R-5: 4 KiB of a stored member cost at most 2 requests and 1.3 MB."""
    body = cheap_bytes(8 << 20)
    archive, remote = opened(harness, file("x", body, method=STORED), padding(300_000))
    assert reader_of(archive, "x").read_at(5 << 20, 4096) == body[5 << 20 :][:4096]
    harness.settle()
    assert len(remote.requests) <= 2
    assert remote.fetched < 400_000


def test_a_directory_longer_than_the_tail_costs_one_request_more(harness: ArchiveHarness) -> None:
    """R-1: A directory longer than the first range costs one request more."""
    entries = [file(f"vtk/Fluid_{n:05}.vtk", packed=b"") for n in range(1500)]
    archive, remote = opened(harness, *entries)
    assert len(archive.index.members) == 1500
    assert len(remote.requests) == 1
    remote = FakeObject(remote.body)
    assert len(harness.open(remote, expected_members=1500).index.members) == 1500
    assert remote.requests == []
    archive, remote = opened(harness, *[file(f"{'n' * 200}{n}", packed=b"") for n in range(1500)])
    assert len(archive.index.members) == 1500
    assert len(remote.requests) == 1


@pytest.mark.parametrize("expected", [None, 0, 1, 10**5, 10**12])
def test_the_first_request_is_bounded(expected: int | None) -> None:
    """R-1: The length of the first range is bounded, whatever the record says of the number of
    files."""
    assert 65_557 < tail_length(expected) <= 4 << 20


def test_nothing_is_fetched_twice_while_it_fits(harness: ArchiveHarness) -> None:
    """R-2: Nothing is fetched twice while it fits; a warm read sends nothing."""
    archive, remote = opened(
        harness, *[file(str(method), BIG, method=method) for method in METHODS], padding()
    )
    for method in METHODS:
        assert read_all(archive, str(method)) == BIG
    harness.settle()
    assert remote.fetched <= len(remote.body)
    before = len(remote.requests)
    for method in METHODS:
        assert read_all(archive, str(method)) == BIG
    harness.settle()
    assert len(remote.requests) == before


def test_a_backward_read_after_a_first_pass_fetches_a_bounded_range() -> None:
    """R-8: A backward read starts from the nearest checkpoint, whatever was evicted."""
    body = cheap_bytes(44 << 20, 4)
    with make_harness(block_bytes=4 << 20, span_bytes=4 << 20, window_bytes=1 << 20) as harness:
        archive, remote = opened(harness, file("x", body, packed=deflate(body, 0)), padding())
        assert read_all(archive, "x", 1 << 20) == body
        harness.settle()
        assert remote.fetched <= 1.05 * len(body)
        for percent in (90, 10, 50, 49, 99):
            reader = reader_of(archive, "x")
            before = remote.fetched
            offset = len(body) * percent // 100
            assert reader.read_at(offset, 4096) == body[offset : offset + 4096]
            reader.close()
            harness.settle()
            assert remote.fetched - before <= 7 << 20  # 4 MiB apart, and what is read ahead


def test_the_raw_archive_is_read_as_it_is(harness: ArchiveHarness) -> None:
    """N-3: `cp ID/output.zip DIR` works."""
    archive, remote = opened(harness, file("x", BIG), padding())
    stream = archive.open_raw()
    pieces = [stream.read_at(at, 100_000) for at in range(0, archive.size, 100_000)]
    assert b"".join(pieces) == remote.body
    assert stream.read_at(archive.size, 10) == b""
    assert archive.read_raw(archive.size - 22, 100) == remote.body[-22:]
    stream.close()


# Many at once


class Counting(DeflateDecoder):
    """Counts what all of its kind decode."""

    decoded = 0

    def decode(self, out: memoryview) -> int:
        count = super().decode(out)
        Counting.decoded += count
        return count


@pytest.mark.parametrize(
    ("packed", "size", "requests", "fetched"),
    [
        (3 * BLOCK, SPAN, 1, 5 * BLOCK),
        ((1 << 20) - BLOCK, SPAN, 1, (1 << 20) + BLOCK),
        ((1 << 20) - BLOCK, 16 << 10, 2, 2 * BLOCK),
    ],
)
def test_a_bulk_read_fetches_more_with_the_local_header(
    packed: int, size: int, requests: int, fetched: int
) -> None:
    """R-12: A member of up to 1 MiB is one round trip for `cat`; a head fetches no more than
    itself."""
    body = random.Random(7).randbytes(packed)
    with make_harness() as harness:
        archive, remote = opened(harness, file("x", body, packed=deflate(body, 0)), padding())
        before = len(remote.requests), remote.fetched
        assert reader_of(archive, "x").read_at(0, size) == body[:size]
        harness.settle()
        assert len(remote.requests) - before[0] <= requests
        assert remote.fetched - before[1] <= fetched


def test_a_part_of_a_long_member_comes_with_its_local_header() -> None:
    """R-12: The first 256 KiB of a longer member come with its local header."""
    body = random.Random(7).randbytes((1 << 20) + BLOCK)
    with make_harness() as harness:
        archive, remote = opened(harness, file("x", body, packed=deflate(body, 0)), padding())
        assert reader_of(archive, "x").read_at(0, SPAN) == body[:SPAN]
        harness.settle()
        start, stop = remote.requests[0]
        assert 256 << 10 <= stop - start <= (256 << 10) + BLOCK


@pytest.mark.parametrize("count", [8, 60, 150])
def test_many_open_files_read_alternately_decode_each_byte_about_once(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-19: 64 threads with 200 open files decode each byte about once."""
    monkeypatch.setitem(DECODERS, DEFLATED, Counting)
    monkeypatch.setattr(Counting, "decoded", 0)
    monkeypatch.setattr("taskfs.cache.readahead.IDLE_S", 60.0)  # 2 s are short for a turn
    body = random.Random(10).randbytes((400 // count + 2) * SPAN)
    packed = deflate(body, 0)
    crc = zlib.crc32(body)
    entries = [file(f"f{n}", packed=packed, size=len(body), crc=crc) for n in range(count)]
    with make_harness(
        block_bytes=BLOCK_MEMORY, span_bytes=SPAN_MEMORY, window_bytes=TOTAL_WINDOW
    ) as harness:
        archive, _ = opened(harness, *entries, padding())
        readers = [reader_of(archive, f"f{n}") for n in range(count)]
        for offset in range(0, len(body), SPAN):
            for reader in readers:
                assert reader.read_at(offset, SPAN) == body[offset : offset + SPAN]
        harness.settle()
    assert Counting.decoded / (count * len(body)) < 1.3


def test_the_state_of_closed_files_is_bounded_for_all_archives_together() -> None:
    """R-20: Closed files of all archives together leave a bounded number of decoders."""
    packed = deflate(BIG, 1)
    assert len(packed) > BLOCK
    crc = zlib.crc32(BIG)
    entries = [file(f"f{n}", packed=packed, size=len(BIG), crc=crc) for n in range(50)]
    whole = build([*entries, padding()])
    bounds: Any = {"block_bytes": 1 << 20, "span_bytes": 1 << 20, "window_bytes": 1 << 20}
    with make_harness(**bounds) as harness:
        archives = [harness.open(FakeObject(whole)) for _ in range(6)]
        tracemalloc.start()
        try:
            for archive in archives:
                for number in range(50):
                    reader = reader_of(archive, f"f{number}")
                    assert reader.read_at(0, 4096) == BIG[:4096]
                    reader.close()
            harness.settle()
            assert tracemalloc.get_traced_memory()[0] >> 20 < 16
        finally:
            tracemalloc.stop()


def test_an_interrupted_reader_is_freed_and_the_next_reads_right() -> None:
    """K-13: Ctrl+C ends a blocked operation within 1 s."""
    over, go = threading.Event(), threading.Event()

    def held(start: int, stop: int, answer: bytes) -> bytes:
        assert go.wait(60)
        return answer

    with make_harness(interrupted=over.is_set) as harness:
        archive, remote = opened(harness, file("x", SMALL), padding())
        remote.on_range = held
        threading.Timer(0.1, over.set).start()
        reader = reader_of(archive, "x")
        began = time.monotonic()
        with pytest.raises(Interrupted):
            reader.read_at(0, 10)
        assert time.monotonic() - began < 20
        over.clear()
        go.set()
        assert reader.read_at(0, 10) == SMALL[:10]


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("block_bytes", [200_000, 32 << 20])
def test_eight_threads_at_random_read_every_byte_right(block_bytes: int) -> None:
    """R-19: Eight random readers get every byte right and leave no thread."""
    bodies = {f"{m}-{n}": cheap_bytes(size, n + 1)
              for m in METHODS for n, size in enumerate((5000, 90_000, 2 * SPAN + 99))}  # fmt: skip
    entries = [file(name, body, method=int(name.split("-")[0])) for name, body in bodies.items()]
    stop_s = time.monotonic() + 1.5
    rng = random.Random(11)

    with make_harness(block_bytes=block_bytes, span_bytes=400_000, window_bytes=1 << 20) as harness:
        archive, _ = opened(harness, *entries, padding())
        counts = [0] * 8

        def work(number: int) -> Callable[[], None]:
            seed = rng.random()

            def run() -> None:
                rng = random.Random(seed)
                while time.monotonic() < stop_s or not counts[number]:
                    name = rng.choice(list(bodies))
                    body = bodies[name]
                    reader = reader_of(archive, name)
                    if rng.random() < 0.3:
                        assert read_all(archive, name, rng.choice([4096, 50_000])) == body
                    for _ in range(rng.randrange(6)):
                        offset, size = rng.randrange(len(body)), rng.choice([1, 4096, SPAN])
                        assert reader.read_at(offset, size) == body[offset : offset + size]
                    if rng.random() < 0.1:
                        reader.drop_cached()
                    reader.close()
                    counts[number] += 1

            return run

        run_threads([work(number) for number in range(8)], timeout_s=60)
        harness.settle()
        assert min(counts) > 0


@pytest.mark.usefixtures("hasty")
def test_eight_threads_under_faults_get_right_bytes_or_errors() -> None:
    """R-19, X-9: Under random faults every byte is right or an error, and no fault stays."""
    bodies = {f"{m}-{n}": cheap_bytes(size, n + 1)
              for m in METHODS for n, size in enumerate((5000, 2 * SPAN))}  # fmt: skip
    entries = [file(name, body, method=int(name.split("-")[0])) for name, body in bodies.items()]
    faulty = True
    lock = threading.Lock()
    rng = random.Random(12)

    def fault(start: int, stop: int, answer: bytes) -> bytes:
        with lock:
            dice = rng.random() if faulty else 1.0
            at = rng.randrange(len(answer))
        if dice < 0.1:
            raise Unavailable("no answer")
        return flipped(answer, at) if dice < 0.2 else answer

    stop_s = time.monotonic() + 1.5
    with make_harness(block_bytes=200_000, span_bytes=400_000, window_bytes=1 << 20) as harness:
        archive, remote = opened(harness, *entries, padding())
        remote.on_range = fault

        def work() -> None:
            rng = random.Random(threading.get_ident())
            while time.monotonic() < stop_s:
                name = rng.choice(list(bodies))
                try:
                    is_right = read_all(archive, name, 50_000) == bodies[name]
                except (CorruptData, Unavailable):
                    continue
                assert is_right, name

        run_threads([work] * 8, timeout_s=60)
        faulty = False
        harness.settle()
        for name, body in bodies.items():
            for _ in range(2):
                try:
                    got = read_all(archive, name)
                    break
                except CorruptData:  # a flipped byte was still cached: dropped now
                    continue
            assert got == body


def test_lzma_with_and_without_an_end_marker(harness: ArchiveHarness) -> None:
    """R-22: LZMA members are read with and without the end marker (APPNOTE 4.4.4, bit 1)."""
    body = cheap_bytes(40_000)
    for is_marked in (False, True):
        packed = lzma_alone(body, end_marker=is_marked)
        archive, remote = opened(
            harness, file("x", body, method=LZMA, packed=packed, flags=2 * is_marked)
        )
        assert reference_contents(remote.body)[ROOT + "x"] == body
        assert read_all(archive, "x", 7000) == body
