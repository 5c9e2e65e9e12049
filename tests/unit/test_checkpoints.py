"""`taskfs.archive.disk_checkpoints` and what uses it: checkpoints of a member on disk."""

import contextlib
import random
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

import pytest

from taskfs.archive import isal
from taskfs.archive.block_start import BlockStart, find_block_start
from taskfs.archive.bounds import SPAN
from taskfs.archive.decode_cursor import Checkpoint
from taskfs.archive.decoder_limits import TOTAL_CHECKPOINTS, CheckpointBudget
from taskfs.archive.decoders import DECODERS, DEFLATED
from taskfs.archive.disk_checkpoints import ArchiveCheckpoints, DiskCheckpoints
from taskfs.archive.member import Member
from taskfs.archive.open_archive import open_archive
from taskfs.archive.seekable_decoder import SeekableDecoder
from taskfs.cache.block import BLOCK
from taskfs.cache.disk_cache import DiskCache, cache_key
from taskfs.cache.frozen_cache import FrozenCache
from taskfs.cache.memory_cache import ExtentCache
from taskfs.cache.readahead import ReadAheadBudget
from taskfs.errors import CorruptData, Interrupted
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from tests.archive_harness import DaemonPool, FakeObject, make_harness, member, run_threads
from tests.caches import disk_use
from tests.mounts import eventually
from tests.zips import ROOT, build, cheap_bytes, deflate, file, flipped

PIECE: Final = 64 << 10
PLENTY: Final = 1 << 30
KEY: Final = cache_key("a version")
POSITION: Final = struct.Struct("<QQLB")  # of a checkpoint on disk
STRETCH: Final = 8 << 20
BODY: Final = cheap_bytes(6 * STRETCH + 1_234_567, 5)


@lru_cache
def packed_body() -> bytes:
    """Return the body compressed; not at import, because all processes of a run import this."""
    return deflate(BODY, 1)


def one_stretch() -> int:
    """Return the compressed bytes of one stretch, with the block that begins behind it."""
    return len(packed_body()) // 6 + 4 * PIECE


@dataclass
class Source:
    """Compressed bytes; counts those that decoders read in order, and can delay them."""

    packed: bytes
    fed: int = 0
    before: Callable[[int], None] = lambda offset: None

    def open(self, offset: int) -> "Stream":
        return Stream(self)


@dataclass
class Stream:
    source: Source
    has_read: bool = field(default=False)

    def piece(self, offset: int) -> Buffer:
        self.source.before(offset)
        piece = self.source.packed[offset : offset + PIECE - offset % PIECE]
        self.source.fed += len(piece)
        return piece

    def is_cached(self, offset: int) -> bool:
        return offset < len(self.source.packed)

    def close(self) -> None:
        pass


class Process:
    """The objects of one process for a member; processes share only the disk."""

    def __init__(
        self,
        directory: Path,
        body: bytes = BODY,
        packed: bytes | None = None,
        *,
        max_bytes: int = PLENTY,
        number: int = 3,
        crc: int | None = None,
        key: str = KEY,
        max_workers: int = 1,
        span_bytes: int = 24 << 20,
        cache: type[DiskCache] = DiskCache,
    ) -> None:
        packed = packed_body() if packed is None else packed
        self.body = body
        self.source = Source(packed)
        self.decoding, self.saving = DaemonPool(4), DaemonPool(1)
        self.interrupted = threading.Event()
        crc = zlib.crc32(body) if crc is None else crc
        self.member = Member("a", len(body), len(packed), crc, DEFLATED, 0, 100, 0, b"a", number)
        disk = ArchiveCheckpoints(cache(directory, max_bytes), key, PLENTY).of(self.member)
        assert disk is not None
        self.disk = disk
        self.decoder = SeekableDecoder(
            DECODERS[DEFLATED],
            self.source.open,
            size=len(body),
            crc=crc,
            spans=ExtentCache(span_bytes),
            checkpoint_budget=CheckpointBudget(TOTAL_CHECKPOINTS),
            pool=self.decoding,
            waiter=Waiter(self.interrupted.is_set),
            decode_budget=ReadAheadBudget(8 * STRETCH),
            in_sequence=False,
            push_enabled=True,
            disk=self.disk,
            saving=self.saving,
            max_workers=max_workers,
        )

    def check(self, offset: int, size: int = 4096) -> None:
        assert self.decoder.read_at(offset, size) == self.body[offset : offset + size]

    def read_until(self, stop: int) -> None:
        for offset in range(0, stop, SPAN):
            self.check(offset, SPAN)

    def read_whole(self) -> None:
        self.read_until(len(self.body))

    def settle(self) -> "Process":
        assert self.decoding.is_quiet()
        assert self.saving.is_quiet()
        return self

    @property
    def stored(self) -> list[int]:
        """The numbers of the checkpoints on disk."""
        count = len(self.body) // STRETCH
        return [number for number in range(1, count + 1) if self.disk.has(number)]


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory after one pass over the member; not to be written to."""
    directory = tmp_path_factory.mktemp("passed")
    first = Process(directory)
    first.read_whole()
    first.settle()
    assert first.stored == [1, 2, 3, 4, 5, 6]
    return directory


@pytest.fixture
def cache(passed: Path, tmp_path: Path) -> Path:
    """A copy of that cache directory."""
    return Path(shutil.copytree(passed, tmp_path / "cache"))


def segments(cache: Path) -> list[Path]:
    """Return the files with checkpoints."""
    return [path for path in (cache / "v1" / "blocks").rglob("*") if path.is_file()]


# Where a block begins


def after(packed: bytes, plain: bytes, place: int) -> BlockStart | None:
    """Return the first block start after *place* decoded bytes."""
    make = isal.make_decoder()
    assert make is not None
    decoder, before, fed, done = make(), memoryview(bytearray(place)), 0, 0
    while done < place:
        decoder.feed(packed[fed : fed + PIECE])
        fed = min(fed + PIECE, len(packed))
        while count := decoder.decode(before[done:]):
            done += count
    checkpoint = Checkpoint(
        place, fed - decoder.unconsumed, decoder.snapshot(), zlib.crc32(plain[:place])
    )
    return find_block_start(checkpoint, before, Source(packed).open)


EMPTY_FIXED: Final = "0100000000"  # 10 bits of an empty block; codes begin with the high bit
EMPTY_DYNAMIC: Final = (  # 91 bits: the last of the literals, and two distances, have codes
    "00100000100000111" + "000" * 2 + "100" + "000" * 14 + "100" + "11111111111010110000"
)


def prime(count: int, bits: int) -> bytes:
    """Return empty blocks of *count* bits, modulo 8, and then *bits* up to the next byte.

    So a decoder that begins with a whole byte can be fed data that does not.
    """
    text = EMPTY_DYNAMIC if count % 2 else ""
    while len(text) % 8 != count:
        text += EMPTY_FIXED
    text += "".join(str(bits >> place & 1) for place in range(-count % 8))
    return bytes(int(text[at : at + 8][::-1], 2) for at in range(0, len(text), 8))


def mixed_bytes() -> bytes:
    rng = random.Random(3)
    kinds = (BODY[:6000], rng.randbytes(40_000), bytes(9000))
    return b"".join(rng.choice(kinds) for _ in range(150))


PLAINS: Final = {"text": BODY[: 1 << 20], "noise": random.Random(1).randbytes(1 << 20)}
PLAINS["zeros"], PLAINS["mixed"] = bytes(20 << 20), mixed_bytes()


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("name", PLAINS)
def test_zlib_goes_on_at_a_block_start(name: str, level: int) -> None:
    """R-36: A stored checkpoint depends on no library: zlib goes on where ISA-L found it."""
    plain = PLAINS[name]
    packed = deflate(plain, level)
    rng, found = random.Random(level), 0
    for place in [rng.randrange(1, len(plain)) for _ in range(8)]:
        start = after(packed, plain, place)
        if start is None:
            continue  # in the last block
        found += 1
        assert place <= start.output_offset <= len(plain)
        assert start.crc == zlib.crc32(plain[: start.output_offset])
        whole, bits = divmod(start.bit_offset, 8)
        assert start.bits == packed[whole] >> bits if bits else not start.bits
        decoder = zlib.decompressobj(-15, zdict=start.window)
        decoded = decoder.decompress(prime(bits, start.bits) + packed[whole + (bits > 0) :])
        assert decoded == plain[start.output_offset :]
        assert decoder.eof
    assert found > 3


# A later process


def test_a_jump_in_another_process_costs_one_stretch(passed: Path) -> None:
    """R-36: A read anywhere decodes no more than one stretch, in a later process too."""
    rng = random.Random(1)
    for place in [len(BODY) * 9 // 10, len(BODY) - 1, *(rng.randrange(len(BODY)) for _ in "abcd")]:
        later = Process(passed)
        later.check(place)
        assert later.source.fed <= one_stretch()


def test_a_pass_that_was_broken_off_is_kept(tmp_path: Path) -> None:
    """R-36: After an interrupted pass, a read of its bytes decodes one stretch."""
    first = Process(tmp_path)
    first.read_until(3 * STRETCH + STRETCH // 2)
    first.decoder.close()
    first.settle()
    assert set(first.stored) >= {1, 2, 3}
    later = Process(tmp_path)
    later.check(3 * STRETCH + 4096)
    assert later.source.fed <= one_stretch()
    last = Process(tmp_path)
    last.check(len(BODY) - 4096)
    assert last.source.fed <= len(packed_body()) * 0.6
    last.settle()
    assert set(last.stored) >= {1, 2, 3, 4, 5}  # the way there is kept, too


def test_a_checkpoint_that_was_just_passed_is_kept(tmp_path: Path) -> None:
    """R-36: A read that ends right after a checkpoint leaves that one as well."""
    first = Process(tmp_path)
    first.check(3 * STRETCH + 100)
    first.decoder.close()
    first.settle()
    assert first.stored == [1, 2, 3]


def test_a_whole_read_from_checkpoints_is_right_and_verified(passed: Path) -> None:
    """I-1, R-36: A reader that goes on from a checkpoint to the end checks the CRC-32."""
    later = Process(passed)
    later.check(len(BODY) - 4096)
    assert later.decoder.verified
    later.read_whole()


def test_the_checkpoints_are_small(passed: Path) -> None:
    """R-36: The checkpoints are compressed."""
    assert disk_use(passed) <= 6 * isal.WINDOW * 3 // 4 + (16 << 10)


# Wrong files


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_file_is_a_miss(cache: Path, seed: int) -> None:
    """I-9: Damaged checkpoints are a miss, and never wrong bytes."""
    rng = random.Random(seed)
    for path in segments(cache):
        content = bytearray(path.read_bytes())
        places = [at for at in range(0, len(content), 512) if any(content[at : at + 512])]
        for start in places if seed == 0 else rng.sample(places, len(places) // 3):
            content[min(start + rng.randrange(512), len(content) - 1)] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    later = Process(cache, max_workers=2)
    later.check(len(BODY) * 9 // 10)
    later.read_whole()
    later.settle()


@pytest.mark.parametrize("place", [48, 56, 64, 68])
def test_a_wrong_bit_of_a_position_is_a_miss(cache: Path, place: int) -> None:
    """I-9: A checkpoint with a wrong bit in its position is a miss. A read that does not reach the
    member's end, where the CRC-32 is checked, must not use it.

    *place* is that of the decoded bytes, the compressed bits, the CRC-32 or the bits in a record.
    """
    (path,) = segments(cache)
    content = bytearray(path.read_bytes())
    for number in Process(cache).stored:
        content[number * BLOCK + place] ^= 1
    path.write_bytes(content)
    later = Process(cache)
    later.check(len(BODY) * 9 // 10)
    assert later.source.fed > len(packed_body()) * 0.8


def test_a_file_cut_short_is_a_miss(cache: Path) -> None:
    """I-9: A file that was cut short is a miss."""
    for path in segments(cache):
        with path.open("r+b") as file:
            file.truncate(3 * 65536 + 100)
    later = Process(cache)
    later.check(len(BODY) * 9 // 10)
    assert later.source.fed > len(packed_body()) // 2


def test_a_file_of_another_member_or_version_is_a_miss(cache: Path) -> None:
    """I-9, F-9: Checkpoints of another member or version are a miss, whatever the file's name."""
    for other in (
        Process(cache, number=4),
        Process(cache, key=cache_key("another version")),
    ):
        other.check(len(BODY) * 9 // 10)
        assert other.source.fed > len(packed_body()) * 0.8
        other.settle()
    (path,) = [path for path in segments(cache) if path.name.startswith(f"{KEY}-c2-3-")]
    path.rename(path.with_name(path.name.replace("-c2-3-", "-c2-5-")))
    renamed = Process(cache, number=5)
    renamed.check(len(BODY) * 9 // 10)
    assert renamed.source.fed > len(packed_body()) * 0.8


def change_records(cache: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace each checkpoint on disk, which lie there like the blocks of an object."""
    blocks = DiskCache(cache, PLENTY).blocks_of(f"{KEY}-c2-3")
    numbers = Process(cache).stored
    assert numbers
    for number in numbers:
        record = blocks.get(number)
        assert record is not None
        blocks.put(number, change(bytes(record)))


def test_a_checkpoint_of_a_newer_version_is_a_miss(cache: Path) -> None:
    """I-9, R-16: A checkpoint in a layout of another version of taskfs is a miss."""
    change_records(cache, lambda old: old.replace(b"checkpoint 2", b"checkpoint 3") + bytes(100))
    later = Process(cache)
    later.check(len(BODY) * 9 // 10)
    assert later.source.fed > len(packed_body()) * 0.8
    later.read_whole()


def test_a_checkpoint_of_another_size_or_crc_is_a_miss(cache: Path) -> None:
    """I-9: A checkpoint names the member that it belongs to."""
    body = BODY[:-1] + b"!"
    other = Process(cache, body, deflate(body, 1))
    other.check(len(BODY) * 9 // 10)
    assert other.source.fed > len(packed_body()) * 0.8


@pytest.mark.parametrize("what", ["window", "bits", "crc", "offset"])
@pytest.mark.parametrize("max_workers", [1, 2])
def test_a_checkpoint_that_lies_never_gives_a_whole_wrong_member(
    cache: Path, what: str, max_workers: int
) -> None:
    """I-1, I-9: A wrong checkpoint with a right checksum is found, dropped and done without."""

    def lie(record: bytes) -> bytes:
        # Behind 48 bytes about the member: decoded bytes, compressed bits, CRC-32, bits, window.
        head, position, window = record[:48], POSITION.unpack_from(record, 48), record[69:]
        output_offset, bit_offset, crc, bits = position
        wrong = {
            "window": (*position, isal.compress(zlib.decompress(window)[::-1])),
            "bits": (output_offset, bit_offset + 8, crc, bits, window),
            "crc": (output_offset, bit_offset, crc ^ 1, bits, window),
            "offset": (output_offset + 1, bit_offset, crc, bits, window),
        }
        *changed, window = wrong[what]
        return head + POSITION.pack(*changed) + bytes(window)

    change_records(cache, lie)
    later = Process(cache, max_workers=max_workers)
    with_end = later.decoder.read_at(len(BODY) - 4096, 4096)
    assert with_end == BODY[-4096:]
    assert later.decoder.verified
    later.settle()
    later.read_whole()


def test_wrong_bytes_of_the_store_drop_the_checkpoints(tmp_path: Path) -> None:
    """I-3, I-9: Checkpoints of bytes that proved wrong are dropped with them."""
    body = build([file("a", BODY, level=1)])
    wrong = threading.Event()
    wrong.set()

    def answer(start: int, stop: int, body: bytes) -> bytes:
        return flipped(body, 1000) if wrong.is_set() and start > len(packed_body()) // 3 else body

    def read(offset: int) -> Buffer:
        with make_harness() as engine:
            resources = engine.resources._replace(disk=DiskCache(tmp_path, PLENTY))
            archive = open_archive(FakeObject(body, answer), ROOT, resources, name="a")
            reader = archive.open_member(member(archive, "a"))
            try:
                return reader.read_at(offset, 4096)
            finally:
                reader.close()
                engine.settle()

    with contextlib.suppress(CorruptData):
        assert read(STRETCH) == BODY[STRETCH : STRETCH + 4096]
        read(len(BODY) - 4096)
    wrong.clear()
    for place in (len(BODY) - 4096, 5 * STRETCH, 2 * STRETCH):
        assert read(place) == BODY[place : place + 4096]


# Two processes


def slow(offset: int) -> None:
    time.sleep(0.01)


def test_two_processes_do_not_decode_the_same_stretch(tmp_path: Path) -> None:
    """R-37: If two processes need a late byte, only one decodes each stretch before it."""
    both = [Process(tmp_path), Process(tmp_path)]
    for each in both:
        each.source.before = slow
    run_threads([lambda each=each: each.check(len(BODY) - 4096) for each in both])  # type: ignore[misc]
    for each in both:
        each.settle()
    # The last stretch and the search for blocks are paid by each.
    assert sum(each.source.fed for each in both) <= len(packed_body()) + 4 * one_stretch()


def test_a_process_that_hangs_delays_the_other_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-37: The wait for another process is bounded."""
    monkeypatch.setattr("taskfs.cache.range_locks.LOCK_TIMEOUT_S", 0.2)
    go, held = threading.Event(), threading.Event()

    def hang(offset: int) -> None:
        if offset > len(packed_body()) // 2:
            held.set()
            go.wait(60)

    one, two = Process(tmp_path), Process(tmp_path)
    one.source.before = hang
    thread = threading.Thread(target=one.check, args=(len(BODY) - 4096,), daemon=True)
    thread.start()
    try:
        assert held.wait(60)
        two.check(len(BODY) - 4096)
        assert two.source.fed <= len(packed_body()) * 0.8
        assert thread.is_alive()
    finally:
        go.set()
        thread.join(60)


def test_a_wait_for_another_process_can_be_interrupted(tmp_path: Path) -> None:
    """K-13: Ctrl+C ends the wait for another process."""
    one, two = Process(tmp_path), Process(tmp_path)
    with one.disk.lock(1, lambda: None):
        threading.Timer(0.2, two.interrupted.set).start()
        began = time.monotonic()
        with pytest.raises(Interrupted):
            two.check(len(BODY) - 4096)
        assert time.monotonic() - began < 20


def test_a_wait_for_another_process_delays_no_near_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-40: A reader that waits for another process's lock leaves the cursor to other readers."""
    monkeypatch.setattr("taskfs.cache.range_locks.LOCK_TIMEOUT_S", 120.0)
    one, two = Process(tmp_path), Process(tmp_path)

    def read_far() -> None:
        with contextlib.suppress(Interrupted):
            two.check(len(BODY) - 4096)

    far = threading.Thread(target=read_far, daemon=True)
    with one.disk.lock(2, lambda: None):
        far.start()
        try:
            eventually(lambda: two.stored == [1])  # next it waits for the lock
            run_threads([lambda: two.check(STRETCH + 12 * SPAN)], timeout_s=30)
            assert far.is_alive()
        finally:
            two.interrupted.set()
            far.join(60)


def test_readers_of_one_process_jump_at_once(tmp_path: Path) -> None:
    """R-19: Readers that jump to many places at once get the right bytes, and none hangs."""
    one = Process(tmp_path, max_workers=2, span_bytes=4 << 20)
    rng = random.Random(2)
    places = [rng.randrange(len(BODY)) for _ in range(12)]
    run_threads([lambda at=at: one.check(at) for at in places])  # type: ignore[misc]
    one.read_whole()
    one.settle()


# The cache


def test_a_cache_that_is_too_small(tmp_path: Path) -> None:
    """R-14, R-16: Checkpoints are evicted like blocks, and reads go on without them."""
    small = Process(tmp_path, max_bytes=100_000)
    small.read_whole()
    small.settle()
    assert disk_use(tmp_path) <= 250_000
    small.check(len(BODY) // 2)
    Process(tmp_path, max_bytes=100_000).check(len(BODY) * 9 // 10)


def test_no_cache(tmp_path: Path) -> None:
    """C-14: `--cache-size 0` keeps no checkpoints."""
    none = Process(tmp_path, max_bytes=0)
    none.read_whole()
    none.settle()
    assert not none.stored
    assert not list(tmp_path.iterdir())
    none.check(len(BODY) // 2)


def test_an_offline_cache_is_read_only(cache: Path) -> None:
    """O-6, R-36: `--offline` uses checkpoints, and neither adds nor removes any."""
    (path,) = segments(cache)
    later = Process(cache, cache=FrozenCache)
    later.check(len(BODY) * 9 // 10)
    assert later.source.fed <= one_stretch()
    change_records(cache, lambda old: old.replace(b"checkpoint 2", b"checkpoint 3"))
    before = path.read_bytes()
    later = Process(cache, cache=FrozenCache)
    later.check(len(BODY) * 9 // 10)
    later.read_whole()
    later.settle()
    assert path.read_bytes() == before


def test_a_cache_that_was_removed(cache: Path) -> None:
    """R-16: A cache that is removed while checkpoints are in use is a miss."""
    later = Process(cache)
    later.check(len(BODY) // 2)
    shutil.rmtree(cache)
    later.check(len(BODY) * 9 // 10)
    later.read_whole()


def test_members_that_are_not_worth_it_have_no_store(tmp_path: Path) -> None:
    """I-2, R-36: Short members, and those of other methods, have no checkpoints on disk."""
    stores = ArchiveCheckpoints(DiskCache(tmp_path, PLENTY), KEY, PLENTY)
    long = Member("a", 100 << 20, 40 << 20, 1, DEFLATED, 0, 0, 0, b"a")
    assert isinstance(stores.of(long), DiskCheckpoints)
    assert stores.of(long._replace(size=STRETCH)) is None
    assert stores.of(long._replace(compressed_size=1 << 16)) is None
    assert stores.of(long._replace(method=14)) is None


def test_a_false_size_has_no_store(tmp_path: Path) -> None:
    """I-8, R-36: Checkpoints are not looked for in a member that DEFLATE cannot make so large: its
    stretches are too many to go through."""
    stores = ArchiveCheckpoints(DiskCache(tmp_path, PLENTY), KEY, PLENTY)
    long = Member("a", 1032 << 20, 1 << 20, 1, DEFLATED, 0, 0, 0, b"a")
    assert isinstance(stores.of(long), DiskCheckpoints)
    assert stores.of(long._replace(size=long.size + 1)) is None
    assert stores.of(long._replace(size=1 << 62)) is None
    assert stores.of(long._replace(compressed_size=1 << 48, size=1 << 48)) is None


# Several stretches at once


@pytest.mark.parametrize("max_workers", [2, 3, 4])
@pytest.mark.parametrize("step", [SPAN, 1 << 20])
def test_stretches_are_decoded_at_once(passed: Path, max_workers: int, step: int) -> None:
    """R-38: With checkpoints, a sequential reader has stretches decoded at once; none twice."""
    later = Process(passed, max_workers=max_workers, span_bytes=(max_workers + 2) * STRETCH)
    together, most, lock = 0, 0, threading.Lock()

    def count(offset: int) -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.003)
        with lock:
            together -= 1

    later.source.before = count
    for offset in range(0, len(BODY), step):
        later.check(offset, step)
    later.settle()
    assert later.decoder.verified
    assert most >= 2
    assert later.source.fed <= 1.15 * len(packed_body()) + 4 * PIECE


def test_decoding_ahead_is_bounded(passed: Path) -> None:
    """R-38, R-20: No more is decoded ahead than one stretch for each run, and one that is read."""
    later = Process(passed, max_workers=2)
    later.read_until(STRETCH)
    later.settle()
    decoded = later.source.fed / len(packed_body()) * len(BODY)
    assert decoded <= 4 * STRETCH + 16 * SPAN


def test_a_jump_ends_parallel_decoding(passed: Path) -> None:
    """R-5, R-38: A reader that jumps decodes one stretch, whatever was decoded at once before."""
    later = Process(passed, max_workers=3)
    later.read_until(2 * STRETCH)
    later.settle()
    for place in (5 * STRETCH + 5, 17, 3 * STRETCH):
        before = later.source.fed
        later.check(place)
        later.settle()
        assert later.source.fed - before <= one_stretch()
    later.read_whole()
