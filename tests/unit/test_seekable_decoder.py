"""`taskfs.archive.seekable_decoder`: random reads of decoded bytes; a source in memory counts."""

import bz2
import random
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from taskfs.archive import cursor_pool
from taskfs.archive.bounds import SPAN
from taskfs.archive.decoder_limits import TOTAL_CHECKPOINTS, CheckpointBudget
from taskfs.archive.decoders import BZIP2, DECODERS, DEFLATED, LZMA
from taskfs.archive.seekable_decoder import SeekableDecoder
from taskfs.cache.memory_cache import ExtentCache
from taskfs.cache.readahead import ReadAheadBudget
from taskfs.core import SPAN_MEMORY
from taskfs.errors import CorruptData, Interrupted, TaskFSError, Unavailable
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.private_memory import UnlimitedMemory
from tests.archive_harness import DaemonPool, run_threads
from tests.zips import cheap_bytes, deflate, lzma_alone, pack

PIECE = 64 << 10
AHEAD_BYTES = 8 << 20  # that all members together are decoded ahead
LIMIT_S = 60.0
BODY = cheap_bytes(4 * SPAN + 777)


@dataclass
class Member:
    """A compressed member that records the reads of its sources, and can fail or delay them."""

    packed: bytes | memoryview
    pieces: list[tuple[int, int]] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    first_piece: int = PIECE
    here: int = 1 << 62  # the bytes before this one are in memory
    before: Callable[[int], None] = lambda offset: None

    @property
    def fed(self) -> int:
        """How many compressed bytes were handed out."""
        return sum(stop - start for start, stop in self.pieces)

    def open(self, fed: int) -> "Source":
        self.opened += 1
        return Source(self)


class Source:
    """Cuts the compressed bytes where the blocks would be."""

    def __init__(self, member: Member) -> None:
        self.member = member

    def piece(self, offset: int) -> Buffer:
        member = self.member
        member.before(offset)
        edge = member.first_piece
        stop = edge if offset < edge else offset + PIECE - (offset - edge) % PIECE
        stop = min(stop, len(member.packed))
        member.pieces.append((offset, stop))
        return member.packed[offset:stop]

    def is_cached(self, offset: int) -> bool:
        return offset < self.member.here

    def close(self) -> None:
        self.member.closed += 1


class Decoding:
    """A decoder with its collaborators."""

    def __init__(
        self,
        body: bytes,
        packed: bytes,
        method: int = DEFLATED,
        *,
        size: int | None = None,
        crc: int | None = None,
        span_bytes: int = 24 << 20,
        checkpoints: CheckpointBudget | None = None,
        budget: ReadAheadBudget | None = None,
        push_enabled: bool = False,
        in_sequence: bool = False,
    ) -> None:
        self.body = body
        self.member = Member(packed)
        self.over = threading.Event()
        self.deadline_s = time.monotonic() + LIMIT_S
        self.interrupted = threading.Event()
        self.pool = DaemonPool(2)
        self.spans = ExtentCache(span_bytes)
        self.decoder = SeekableDecoder(
            DECODERS[method],
            self.member.open,
            size=len(body) if size is None else size,
            crc=zlib.crc32(body) if crc is None else crc,
            spans=self.spans,
            checkpoint_budget=checkpoints or CheckpointBudget(TOTAL_CHECKPOINTS),
            pool=self.pool,
            waiter=Waiter(lambda: self.is_over or self.interrupted.is_set()),
            decode_budget=budget or ReadAheadBudget(AHEAD_BYTES),
            in_sequence=in_sequence,
            push_enabled=push_enabled,
            disk=None,
            saving=self.pool,
            max_workers=1,
        )

    @property
    def is_over(self) -> bool:
        """Whether waiting reads must end, so that a read that hangs fails its test."""
        return self.over.is_set() or time.monotonic() > self.deadline_s

    def check(self, offset: int, size: int) -> None:
        self.deadline_s = time.monotonic() + LIMIT_S
        got = self.decoder.read_at(offset, size)
        assert got == self.body[offset : offset + size], (offset, size, len(got))

    def check_whole(self, step: int = SPAN) -> None:
        for offset in range(0, max(1, len(self.body)), step):
            self.check(offset, step)

    def settle(self) -> None:
        assert self.pool.is_quiet(), "the run ahead never ends"


Make = Callable[..., Decoding]


@pytest.fixture
def decoding() -> Iterator[Make]:
    """Makes `Decoding`s; a run ahead that never ends is stopped at the end of the test."""
    made: list[Decoding] = []

    def make(*args: object, **kwargs: object) -> Decoding:
        made.append(Decoding(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.over.set()


SIZES = [1, 2, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN - 1, 2 * SPAN, 3 * SPAN + 5]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", range(10))
def test_every_byte_of_deflate(decoding: Make, level: int, size: int) -> None:
    """I-8: Every level of DEFLATE equals zipfile around every span."""
    body = BODY[:size]
    one = decoding(body, deflate(body, level))
    one.check_whole()
    one.check(0, size + 100)
    one.check(size - 1, 1)
    assert one.decoder.verified


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", [BZIP2, LZMA])
def test_every_byte_of_bzip2_and_lzma(decoding: Make, method: int, size: int) -> None:
    """R-22: bzip2 and LZMA members equal zipfile's."""
    body = BODY[:size]
    one = decoding(body, pack(body, method), method)
    one.check_whole()
    one.check(0, size + 100)
    assert one.decoder.verified


@pytest.mark.parametrize("size", [1, 1000, SPAN])
def test_every_byte_of_lzma_without_an_end_marker(decoding: Make, size: int) -> None:
    """APPNOTE 4.4.4, bit 1: LZMA data may end without a marker: the size tells."""
    body = b"0123456789" * (size // 10 + 1)
    body = body[:size] if size > 10 else b"a" * 100
    one = decoding(body, lzma_alone(body, end_marker=False), LZMA)
    one.check_whole()
    assert one.decoder.verified


@pytest.mark.parametrize("size", [90, 125, 152, 163])
def test_lzma_without_an_end_marker_ends_where_its_size_says(decoding: Make, size: int) -> None:
    """APPNOTE 4.4.4, bit 1: what the coder's last bits would decode to is not the member's."""
    body = cheap_bytes(size, size)
    decoding(body, lzma_alone(body, end_marker=False), LZMA).check_whole()


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
def test_a_member_of_no_bytes(decoding: Make, method: int) -> None:
    """I-1: An empty member is checked."""
    one = decoding(b"", pack(b"", method), method)
    one.decoder.verify()
    assert one.decoder.read_at(0, 10) == b""
    with pytest.raises(CorruptData):
        decoding(b"", pack(b"", method), method, crc=1).decoder.verify()


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
@pytest.mark.parametrize("first_piece", [1, 3, 4, 8, 9, 10, 13, 14, 40])
def test_the_first_piece_may_be_short(decoding: Make, method: int, first_piece: int) -> None:
    """A member begins anywhere in a block: what is left of that block may be a single byte."""
    one = decoding(BODY, pack(BODY, method), method)
    one.member.first_piece = first_piece
    one.check_whole()


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
@pytest.mark.parametrize("span_bytes", [200_000, 24 << 20])
def test_reads_forward_backward_and_at_random(decoding: Make, method: int, span_bytes: int) -> None:
    """R-8: Reads in any order and interleaved are right, whatever is still cached."""
    one = decoding(BODY, pack(BODY, method), method, span_bytes=span_bytes)
    for offset in range(0, len(BODY), 50_000):
        one.check(offset, 50_000)
    for offset in range(len(BODY) - 1, 0, -70_000):
        one.check(offset, 70_000)
    rng = random.Random(method)
    for _ in range(30):
        one.check(rng.randrange(len(BODY)), rng.choice([1, 4096, SPAN, 2 * SPAN]))
    one.settle()


def test_reads_past_the_end_are_empty(decoding: Make) -> None:
    """X-9: A read returns fewer bytes only at the member's end."""
    one = decoding(BODY, deflate(BODY))
    for offset in (len(BODY), len(BODY) + 1, 1 << 50):
        assert one.decoder.read_at(offset, 10) == b""
    assert one.member.pieces == []


# Checkpoints


def long_body() -> tuple[bytes, bytes]:
    """A body of many checkpoints; packed to stored blocks, so that fed bytes are decoded ones."""
    body = cheap_bytes(44 << 20, 7)
    return body, deflate(body, 0)


LONG, LONG_PACKED = long_body()


def test_a_backward_read_after_a_first_pass_starts_at_a_checkpoint(decoding: Make) -> None:
    """R-8: A backward read starts at the nearest checkpoint."""
    one = decoding(LONG, LONG_PACKED, span_bytes=SPAN_MEMORY)
    one.check_whole(SPAN)
    one.over.set()  # ends read-ahead: from here on only the reads are fed
    one.pool.is_quiet()
    one.over.clear()
    assert one.member.fed <= 1.05 * len(LONG_PACKED) + AHEAD_BYTES
    rng = random.Random(1)
    for _ in range(8):
        before = one.member.fed
        one.check(rng.randrange(len(LONG) - 4096), 4096)
        assert one.member.fed - before <= len(LONG) / 8


def test_pushable_bytes_are_returned_once_and_correct(decoding: Make) -> None:
    """R-9: Bytes decoded ahead are offered for a push once, and are right."""
    one = decoding(LONG, LONG_PACKED)
    assert not one.decoder.take_pushable()
    offset, pushed, reads = 0, 0, 0
    while offset < len(LONG):
        one.check(offset, SPAN)
        offset, reads = offset + SPAN, reads + 1
        while ready := one.decoder.take_pushable():
            assert ready.start == offset
            assert ready.stop <= len(LONG)
            one.check(ready.start, len(ready))
            pushed, offset = pushed + len(ready), ready.stop
    assert offset >= len(LONG)
    assert one.decoder.verified
    assert pushed + reads * SPAN >= len(LONG)
    assert one.member.fed <= 1.05 * len(LONG_PACKED)


SHORT = cheap_bytes(15 * SPAN + 777, 3)
SHORT_PACKED = deflate(SHORT, 0)


def test_a_short_member_in_a_sequence_is_decoded_by_its_first_reader(decoding: Make) -> None:
    """R-9: A short member in a sequence is decoded by its first read, except its last bytes."""
    one = decoding(SHORT, SHORT_PACKED, in_sequence=True, push_enabled=True)
    one.check(0, 4096)
    assert one.member.fed == len(SHORT_PACKED)
    assert one.decoder.verified
    assert one.decoder.take_pushable() == range(4096, 15 * SPAN)
    assert not one.decoder.take_pushable()
    one.check_whole()
    assert one.pool.submitted == 0


def test_the_end_of_a_member_is_never_ready(decoding: Make) -> None:
    """R-9: The end of a member is never offered for a push."""
    for size in (1, SPAN, SPAN + 1, 2 * SPAN, 3 * SPAN):
        one = decoding(SHORT[:size], deflate(SHORT[:size], 0), in_sequence=True, push_enabled=True)
        one.check(0, SPAN)
        ready = one.decoder.take_pushable()
        assert ready.stop <= max(0, size - 1) // SPAN * SPAN


def test_a_short_member_in_a_sequence_waits_only_for_the_bytes_of_the_read(decoding: Make) -> None:
    """R-18: A short member in a sequence waits for no bytes beyond those that are read."""
    one = decoding(SHORT, SHORT_PACKED, in_sequence=True, push_enabled=True)
    one.member.here = 0
    one.check(0, SPAN)
    assert one.member.fed <= SPAN + 2 * PIECE
    one.member.here = 1 << 20
    one.check(SPAN, SPAN)
    assert 1 << 20 <= one.member.fed <= (1 << 20) + 2 * PIECE
    one.check_whole()
    assert one.member.fed <= 1.05 * len(SHORT_PACKED)


def test_a_short_member_in_a_sequence_may_be_read_from_anywhere(decoding: Make) -> None:
    """R-8: Reads of a short member that are not in order are right."""
    one = decoding(SHORT, SHORT_PACKED, in_sequence=True, push_enabled=True)
    one.check(12 * SPAN, 4096)
    assert not one.decoder.take_pushable()
    rng = random.Random(5)
    for _ in range(50):
        one.check(rng.randrange(len(SHORT)), 100_000)
    one.check_whole()


def test_wrong_cached_bytes_are_detected_before_any_is_returned(decoding: Make) -> None:
    """I-3: Bytes that are known to be wrong are not returned, not even the first ones."""
    one = decoding(SHORT, SHORT_PACKED, crc=1, in_sequence=True, push_enabled=True)
    with pytest.raises(CorruptData):
        one.check(0, SPAN)


def test_short_reads_do_not_decode_the_whole_member(decoding: Make) -> None:
    """R-20: Where nothing goes to a kernel, small reads do not decode a whole member."""
    one = decoding(SHORT, SHORT_PACKED, in_sequence=True)
    one.check(0, SPAN)
    assert one.pool.is_quiet()
    assert one.member.fed <= 10 * SPAN


def test_many_short_members_in_a_sequence_share_the_budget(decoding: Make) -> None:
    """R-20: Decoding at once is bounded for all members together."""
    budget, crowd = ReadAheadBudget(8 << 20), [object() for _ in range(39)]
    for other in crowd:
        budget.register(other)
    one = decoding(SHORT, SHORT_PACKED, in_sequence=True, push_enabled=True, budget=budget)
    one.check(0, SPAN)
    assert one.member.fed <= 2 * (8 << 20) / 40 + SPAN
    for other in crowd:
        budget.unregister(other)
    one.check_whole()
    assert budget.allowance(object()) == 8 << 20  # the closed decoder has no share


def test_a_jump_makes_nothing_pushable(decoding: Make) -> None:
    """R-5: A reader that jumps gets nothing pushed."""
    one = decoding(LONG, LONG_PACKED)
    one.check_whole()
    for percent in (90, 10, 50, 30, 70):
        one.check(len(LONG) * percent // 100 // SPAN * SPAN, 4096)
        assert not one.decoder.take_pushable()


def test_a_store_that_stalls_blocks_no_reader_before_that_point(decoding: Make) -> None:
    """R-18: Readers do not wait for bytes behind those that they asked for."""
    one = decoding(LONG, LONG_PACKED)
    edge, go = 6 << 20, threading.Event()

    def stall(offset: int) -> None:
        if offset >= edge:
            go.wait(LIMIT_S)

    one.member.before = stall
    try:
        for offset in range(0, edge - 2 * PIECE, SPAN):
            one.check(offset, SPAN)
        assert not go.is_set()
    finally:
        go.set()
    one.check_whole()


def test_a_first_read_far_inside_leaves_checkpoints_on_its_way(decoding: Make) -> None:
    """R-8: Decoding on the way to one offset leaves checkpoints that serve others."""
    one = decoding(LONG, LONG_PACKED, span_bytes=4 << 20)
    one.check(len(LONG) * 9 // 10, 4096)
    assert one.member.fed <= len(LONG) * 0.91 + SPAN
    for percent in (25, 50, 10):
        before = one.member.fed
        one.check(len(LONG) * percent // 100, 4096)
        assert one.member.fed - before <= len(LONG) / 8


def test_checkpoints_are_thinned_and_reads_stay_right(
    decoding: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-8, R-20: Checkpoints are thinned so that memory is bounded for a member of 100 GB."""
    monkeypatch.setattr(cursor_pool, "FIRST_SPACING", SPAN)
    monkeypatch.setattr(cursor_pool, "MAX_CHECKPOINTS", 8)
    body = LONG[: 100 * SPAN + 5]
    packed = deflate(body, 0)
    one = decoding(body, packed, span_bytes=4 << 20)
    for offset in range(0, len(body), 3 * SPAN):
        one.check(offset, 3 * SPAN)
        assert one.decoder.checkpoint_count <= 8
    one.over.set()
    one.pool.is_quiet()
    one.over.clear()
    rng = random.Random(2)
    for _ in range(15):
        before = one.member.fed
        one.check(rng.randrange(len(body)), 1000)
        assert one.member.fed - before <= len(body) / 4 + 3 * SPAN


@pytest.mark.parametrize("level", [1, 6, 9])
def test_checkpoints_within_matches_and_blocks_go_on_right(
    decoding: Make, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    """R-8: A copied decoder state is exact wherever it was copied."""
    monkeypatch.setattr(cursor_pool, "FIRST_SPACING", SPAN)
    rng = random.Random(level)
    runs = [bytes([rng.randrange(256)]) * rng.randrange(1, 5000) for _ in range(600)]
    body = b"".join(runs) + cheap_bytes(4 * SPAN)
    one = decoding(body, deflate(body, level), span_bytes=SPAN)
    one.check_whole(SPAN // 2)
    for _ in range(40):
        one.check(rng.randrange(len(body)), rng.choice([1, 5000, SPAN]))


def test_the_checkpoints_of_all_members_are_bounded(
    decoding: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-20: The checkpoints of all members are bounded."""
    monkeypatch.setattr(cursor_pool, "FIRST_SPACING", SPAN)
    checkpoints = CheckpointBudget(20)
    ones = [
        decoding(BODY, deflate(BODY, 0), checkpoints=checkpoints, span_bytes=SPAN)
        for _ in range(12)
    ]
    for one in ones:
        one.check_whole()
    assert sum(one.decoder.checkpoint_count for one in ones) <= 20
    assert ones[-1].decoder.checkpoint_count
    for one in ones:
        one.check(3 * SPAN, 100)  # a decoder without checkpoints reads the right bytes


def test_the_least_recently_used_member_drops_its_checkpoints(
    decoding: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-20: The least recently used member gives up its checkpoints."""
    monkeypatch.setattr(cursor_pool, "FIRST_SPACING", SPAN)
    checkpoints = CheckpointBudget(10)
    one, two, three = (
        decoding(BODY, deflate(BODY, 0), checkpoints=checkpoints, span_bytes=SPAN) for _ in "abc"
    )
    one.check_whole()
    two.check_whole()
    for _ in range(5):
        one.check(3 * SPAN, 100)
    three.check_whole()
    assert one.decoder.checkpoint_count
    assert not two.decoder.checkpoint_count


def test_checkpoints_shrink_while_the_process_takes_too_much_memory(
    decoding: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-52: A quarter of the checkpoints is kept while memory is tight; the decoder in use keeps
    its own."""
    monkeypatch.setattr(cursor_pool, "FIRST_SPACING", SPAN)
    memory = UnlimitedMemory()
    checkpoints = CheckpointBudget(80, memory)
    ones = [
        decoding(BODY, deflate(BODY, 0), checkpoints=checkpoints, span_bytes=SPAN)
        for _ in range(12)
    ]
    for one in ones:
        one.check_whole()
    assert 20 < sum(one.decoder.checkpoint_count for one in ones) <= 80
    memory.is_tight = True
    ones[0].check_whole()
    assert sum(one.decoder.checkpoint_count for one in ones) <= 20
    assert ones[0].decoder.checkpoint_count


def test_closed_decoders_leave_the_budget_and_close_their_sources(decoding: Make) -> None:
    """R-20: A closed decoder gives up its checkpoints and sources, and later reads start again."""
    checkpoints = CheckpointBudget(TOTAL_CHECKPOINTS)
    one = decoding(LONG, LONG_PACKED, checkpoints=checkpoints, span_bytes=200_000)
    one.check(6 << 20, 100)
    one.check(100, 100)
    one.settle()
    one.decoder.close()
    assert one.member.closed == one.member.opened
    assert not one.decoder.checkpoint_count
    one.check(100, 100)


def test_sources_are_closed_once_their_reader_is_at_the_end(decoding: Make) -> None:
    """R-20: A source is closed at its member's end, and returns its read-ahead budget."""
    one = decoding(BODY, deflate(BODY))
    one.check_whole()
    one.settle()
    assert one.member.closed == one.member.opened


# Memory


def test_a_bomb_costs_no_memory(decoding: Make) -> None:
    """Y-10: 60 KB that inflate to 60 MB cost no memory."""
    size = 60 << 20
    packed = deflate(bytes(size), 9)
    assert len(packed) < 1 << 16
    one = decoding(b"", packed, size=size, crc=zlib.crc32(bytes(size)), span_bytes=2 << 20)
    tracemalloc.start()
    try:
        one.decoder.verify()
        assert one.decoder.read_at(size - 10, 10) == bytes(10)
        assert one.decoder.read_at(size // 2, 10) == bytes(10)
        one.settle()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
def test_no_more_is_fed_than_the_decoder_needs(decoding: Make, method: int) -> None:
    """R-20: Compressed bytes do not pile up before a decoder that has enough."""
    letters = bytes(97 if n < 230 else n - 130 for n in range(256))
    body = random.Random(1).randbytes(4 << 20).translate(letters)  # packs to about a seventh
    packed = bz2.compress(body, 1) if method == BZIP2 else deflate(body, 1)
    if method == LZMA:
        packed = lzma_alone(body, preset=0)
    one = decoding(body, packed, method)
    one.check(len(body) // 4, 100)
    assert one.member.fed <= len(packed) / 4 + 2 * PIECE + SPAN // 4


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
def test_an_idle_cursor_holds_no_view_of_its_input(decoding: Make, method: int) -> None:
    """R-20: An idle cursor keeps no view of a buffer, which would hold all of it."""
    fed = bytearray(pack(BODY, method))

    def look(offset: int) -> None:
        assert isinstance(one.member.packed, memoryview)
        one.member.packed.release()
        fed.append(0)  # BufferError while there is another view of it
        fed.pop()
        one.member.packed = memoryview(fed)

    one = decoding(BODY, b"", method)
    one.member.packed = memoryview(fed)
    one.member.before = look  # a cursor that waits for input has released the rest
    one.check(SPAN + 5, 100)
    one.settle()
    look(0)
    one.check_whole(SPAN)


# Damage


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
def test_a_wrong_crc_is_found_before_the_last_byte(decoding: Make, method: int) -> None:
    """I-1: CRC-32 is checked before the last bytes of a member are returned."""
    one = decoding(BODY, pack(BODY, method), method, crc=zlib.crc32(BODY) ^ 1)
    for offset in range(0, len(BODY) - SPAN, SPAN):
        one.check(offset, SPAN)
    for _ in range(3):
        with pytest.raises(CorruptData, match="CRC-32"):
            one.decoder.read_at(len(BODY) - 1, 1)
    with pytest.raises(CorruptData, match="CRC-32"):
        one.decoder.verify()
    assert not one.decoder.verified


@pytest.mark.parametrize("claimed", [-SPAN - 778, -777, -1, 1, SPAN, 1 << 40])
@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
def test_wrong_sizes_are_found_before_the_last_byte(
    decoding: Make, method: int, claimed: int
) -> None:
    """I-1, I-8: Sizes that lie are found before the last byte."""
    size = len(BODY) + claimed
    one = decoding(BODY, pack(BODY, method), method, size=size)
    with pytest.raises(CorruptData):
        one.decoder.verify()
    with pytest.raises(CorruptData):
        for offset in range(0, min(size, 2 * len(BODY)), SPAN):
            stop = min(offset + SPAN, size)
            got = one.decoder.read_at(offset, SPAN)
            assert got == BODY[offset:stop]
    assert not one.decoder.verified


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
def test_data_cut_short_is_found(decoding: Make, method: int) -> None:
    """X-9, I-8: Truncated data is an error of ours and never a short read."""
    packed = pack(BODY, method)
    for cut in (1, 4, 100, len(packed) // 2, len(packed) - 1, len(packed)):
        one = decoding(BODY, packed[: len(packed) - cut], method)
        try:
            one.check_whole()
        except CorruptData:
            continue
        assert method == LZMA  # the marker is optional: the size gives the end


def test_data_without_an_end_mark_is_refused(decoding: Make) -> None:
    """`seekable_decoder`: the data must end where the directory says."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = packer.compress(BODY) + packer.flush(zlib.Z_SYNC_FLUSH)
    one = decoding(BODY, packed)
    with pytest.raises(CorruptData, match="end mark"):
        one.check_whole()


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
def test_a_member_with_flipped_bytes_is_never_read_whole(decoding: Make, method: int) -> None:
    """I-1, I-3: A flipped byte makes a whole pass fail with EIO."""
    packed = pack(BODY, method)
    rng = random.Random(method)
    for _ in range(15):
        place = rng.randrange(len(packed))
        damaged = packed[:place] + bytes([packed[place] ^ 1 << rng.randrange(8)])
        damaged += packed[place + 1 :]
        one = decoding(BODY, damaged, method)
        try:
            got = b"".join(one.decoder.read_at(at, SPAN) for at in range(0, len(BODY), SPAN))
        except CorruptData:
            continue
        assert got == BODY  # a byte that means nothing, such as padding


def test_damage_late_in_a_member_leaves_its_begin_readable(decoding: Make) -> None:
    """`seekable_decoder`: bytes before the damage are served, bytes behind it are not."""
    packed = deflate(BODY, 0)
    one = decoding(BODY, packed[:-1000] + bytes(900) + packed[-100:])
    one.check(0, SPAN)
    with pytest.raises(CorruptData):
        one.decoder.read_at(len(BODY) - 10, 10)
    one.check(0, SPAN)
    one.check(2 * SPAN, SPAN)


# Failures that pass


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
def test_a_transient_failure_is_raised_once_and_not_cached(decoding: Make, method: int) -> None:
    """F-15: A transient failure is never cached."""
    packed = pack(BODY, method)
    for number in range(len(packed) // PIECE + 2):
        one = decoding(BODY, packed, method)
        calls = 0

        def fail(offset: int, number: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == number + 1:
                raise Unavailable("no answer")

        one.member.before = fail
        failures = 0
        for _ in range(3):
            try:
                one.check_whole()
            except Unavailable:
                failures += 1
            one.settle()
        assert failures <= 1
        assert one.decoder.verified


def test_a_failure_while_the_end_is_looked_for_is_survived(decoding: Make) -> None:
    """F-15: A transient failure is never cached, not at the last piece either."""
    body = BODY[: SPAN + 5]
    packed = deflate(body, 0)
    one = decoding(body, packed)
    one.member.first_piece = len(packed) - 3  # the last bytes stand in a piece of their own
    one.check(0, len(body) - 10)
    failing = True

    def fail(offset: int) -> None:
        if failing and offset:
            raise Unavailable("no answer")

    one.member.before = fail
    for _ in range(2):
        with pytest.raises(Unavailable):
            one.decoder.read_at(len(body) - 1, 1)
    failing = False
    one.check(len(body) - 1, 1)
    one.check_whole()


def test_an_interrupted_reader_is_freed_and_the_next_goes_on(decoding: Make) -> None:
    """K-13: Ctrl+C ends a blocked operation within 1 s."""
    one = decoding(LONG, LONG_PACKED, span_bytes=200_000)
    one.member.before = lambda offset: time.sleep(0.002)
    threading.Timer(0.1, one.interrupted.set).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        one.decoder.read_at(len(LONG) - 10, 10)
    assert time.monotonic() - began < 20
    one.interrupted.clear()
    one.member.before = lambda offset: None
    one.check(len(LONG) - 10, 10)
    one.check(1000, 10)


def test_waiting_for_a_busy_cursor_can_be_interrupted(decoding: Make) -> None:
    """A read that waits for another reader's decoding can be interrupted."""
    one = decoding(BODY, deflate(BODY, 0), span_bytes=200_000)
    go, held = threading.Event(), threading.Event()

    def hold(offset: int) -> None:
        held.set()
        assert go.wait(60)

    one.member.before = hold
    driver = threading.Thread(target=one.check, args=(0, 10), daemon=True)
    driver.start()
    assert held.wait(60)
    one.interrupted.set()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        one.decoder.read_at(100, 10)
    assert time.monotonic() - began < 20
    one.interrupted.clear()
    go.set()
    driver.join(60)
    assert not driver.is_alive()


# Ahead


def test_a_sequential_reader_is_decoded_ahead_and_no_further(decoding: Make) -> None:
    """R-4, R-20: A member that is read in order is decoded ahead, within the budget."""
    one = decoding(LONG, LONG_PACKED, budget=ReadAheadBudget(1 << 20))
    for offset in range(0, 4 << 20, SPAN):
        one.check(offset, SPAN)
    one.settle()
    assert SPAN <= one.member.fed - (4 << 20) <= (1 << 20) + 2 * SPAN


def test_decode_ahead_begins_again_after_the_system_had_no_thread(
    decoding: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-55: A reader goes on without decode-ahead, and with it once a thread can be started."""
    one = decoding(LONG, LONG_PACKED, budget=ReadAheadBudget(1 << 20))

    def refuse(function: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(one.pool, "submit", refuse)
        for offset in range(0, 2 << 20, SPAN):
            one.check(offset, SPAN)
    for offset in range(2 << 20, 4 << 20, SPAN):
        one.check(offset, SPAN)
    one.settle()
    assert one.member.fed - (4 << 20) >= SPAN


@pytest.mark.parametrize("span_bytes", [200_000, 24 << 20])
def test_a_reader_that_pauses_lets_the_decoder_rest(decoding: Make, span_bytes: int) -> None:
    """R-20: An open file that is not read releases its decoder's input."""
    one = decoding(LONG, LONG_PACKED, span_bytes=span_bytes)
    for offset in range(0, 6 * SPAN, SPAN):
        one.check(offset, SPAN)
    one.settle()
    before = one.member.fed
    time.sleep(0.1)
    assert one.member.fed == before
    assert before <= len(LONG) / 8


def test_heads_and_jumps_are_not_decoded_ahead(decoding: Make) -> None:
    """R-5: Heads and jumps are not decoded ahead."""
    one = decoding(LONG, LONG_PACKED)
    one.check(0, 4096)
    one.settle()
    assert one.member.fed <= PIECE + SPAN
    one.check(3 << 20, 4096)
    one.settle()
    assert one.member.fed <= (3 << 20) + PIECE + 2 * SPAN


def test_damage_in_decode_ahead_is_raised_to_the_reader_that_reaches_it(decoding: Make) -> None:
    """A reader that reaches the damage gets the same failure."""
    packed = bytearray(LONG_PACKED[: 3 << 20])
    one = decoding(LONG, bytes(packed))
    for offset in range(0, 2 << 20, SPAN):
        one.check(offset, SPAN)
        one.settle()
    with pytest.raises(CorruptData):
        one.decoder.read_at(3 << 20, SPAN)


# Many at once


@pytest.mark.parametrize("method", [DEFLATED, BZIP2, LZMA])
@pytest.mark.parametrize("span_bytes", [200_000, 24 << 20])
def test_interleaved_readers_in_threads(decoding: Make, method: int, span_bytes: int) -> None:
    """R-19: Interleaved readers in threads get the right bytes."""
    one = decoding(BODY, pack(BODY, method), method, span_bytes=span_bytes)

    def forward(start: int) -> Callable[[], None]:
        def read() -> None:
            for offset in range(start, len(BODY), 30_000):
                one.check(offset, 30_000)

        return read

    def jumping(seed: int) -> Callable[[], None]:
        def read() -> None:
            rng = random.Random(seed)
            for _ in range(25):
                one.check(rng.randrange(len(BODY)), rng.choice([1, 5000, SPAN]))

        return read

    run_threads([forward(0), forward(0), forward(3 * SPAN), *map(jumping, range(3))])
    one.settle()
    one.check_whole()  # no cursor was left busy


def test_two_readers_of_one_place_decode_it_once(decoding: Make) -> None:
    """R-3: A reader waits for a span that another one's cursor will pass."""
    one = decoding(LONG, LONG_PACKED)
    barrier = threading.Barrier(4)

    def read() -> None:
        barrier.wait(60)
        one.check(2 << 20, SPAN)

    run_threads([read] * 4)
    assert one.member.fed <= (2 << 20) + 4 * SPAN


class _Holder:
    """A decoder that holds checkpoints."""

    def forget(self) -> None:
        """Keep them."""


def test_forgetting_and_closing_beneath_readers_is_safe(decoding: Make) -> None:
    """R-19: Checkpoints are forgotten and decoders closed while readers use them."""
    checkpoints, other = CheckpointBudget(10), _Holder()
    one = decoding(LONG, LONG_PACKED, checkpoints=checkpoints, span_bytes=1 << 20)
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            checkpoints.note(other, 11)  # so that the decoder forgets its own
            one.decoder.close()
            time.sleep(0.001)

    def read() -> None:
        try:
            rng = random.Random(threading.get_ident())
            for _ in range(20):
                one.check(rng.randrange(4 << 20), SPAN)
        finally:
            stop.set()

    run_threads([disturb, read, read])


def test_only_errors_of_taskfs_are_raised(decoding: Make) -> None:
    """X-4: Bytes of any kind raise no other exception than a TaskFSError."""
    rng = random.Random(9)
    for method in (DEFLATED, BZIP2, LZMA):
        for _ in range(60):
            one = decoding(BODY[:5000], rng.randbytes(rng.randrange(60)), method)
            try:
                one.check_whole()
            except TaskFSError:
                continue
            raise AssertionError("random bytes were taken for the member")
