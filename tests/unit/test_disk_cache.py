"""`taskfs.cache.disk_cache`: blocks and indexes are valid or missing beside any other writer.

Run as a program, this module is another process at a cache: see `_write_and_read` and `_full`.
"""

import contextlib
import ctypes
import errno
import fcntl
import logging
import mmap
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskfs.cache import pins
from taskfs.cache.block import BLOCK
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.disk_cache import (
    FORMAT,
    DiskBlocks,
    DiskCache,
    cache_key,
)
from taskfs.cache.memory_cache import ExtentCache
from taskfs.cache.segment_file import ENTRY, SEGMENT, SEGMENT_BLOCKS, TABLE
from taskfs.support.buffers import address_of, allocate
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from tests.archive_harness import DaemonPool, FakeObject, run_threads
from tests.caches import read_index, write_index
from tests.descriptors import open_below
from tests.file_systems import assert_same
from tests.fork_server import ROOT
from tests.mounts import OWN_MOUNTS, TIMEOUT_S
from tests.programs import require_program

KEY: Final = cache_key("object", 1)
BODY: Final = random.Random(3).randbytes(700)
PLENTY: Final = 1 << 30
Place = Callable[[Path], Path]


def block_of(seed: object, index: int, length: int = BLOCK) -> bytes:
    """Return the content of a block; each differs from all others."""
    return random.Random(f"{seed}/{index}").randbytes(length)


def run_of(seed: object, first: int, stop: int, last_length: int = BLOCK) -> bytes:
    """Return the blocks [first, stop)."""
    whole = [block_of(seed, index) for index in range(first, stop - 1)]
    return b"".join([*whole, block_of(seed, stop - 1)[:last_length]])


def aligned(run: bytes) -> memoryview:
    """Return *run* in a buffer that can be written with O_DIRECT, as fetched bytes are."""
    buffer = allocate(len(run))
    buffer[:] = run
    return buffer


def in_page_cache(path: Path, at: int) -> bool:
    """Whether the system has the file's byte *at* in memory: see mincore(2)."""
    with open(path, "rb") as file:
        # Private, because ctypes gives no address of memory that is read only.
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    there = ctypes.c_ubyte()
    where = address_of(memoryview(pages)) + at // mmap.PAGESIZE * mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    assert libc.mincore(ctypes.c_void_p(where), ctypes.c_size_t(1), ctypes.byref(there)) == 0
    return bool(there.value & 1)


def writes_past_page_cache(directory: Path) -> bool:
    """Whether files beneath *directory* can be written without the system's page cache."""
    path = directory / "probe"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    except OSError:
        return False
    try:
        os.pwrite(descriptor, aligned(bytes(1 << 20)), 0)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return not in_page_cache(path, 0)


def segment_path(directory: Path, key: str = KEY, number: int = 0) -> Path:
    return directory / FORMAT / "blocks" / key[:2] / f"{key}-{number:x}"


def index_path(directory: Path, key: str = KEY) -> Path:
    return directory / FORMAT / "index" / key


def files_of(directory: Path) -> list[Path]:
    return [Path(top, name) for top, _, names in os.walk(directory) for name in names]


def disk_use(directory: Path) -> int:
    """Return the bytes on disk beneath *directory*, as `du` does; files may vanish meanwhile."""
    total = 0
    for path in files_of(directory):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512
    return total


def unlinked_use(pid: int, directory: Path) -> int:
    """Return the bytes of files removed from *directory* that a process still has open."""
    total = 0
    with contextlib.suppress(FileNotFoundError, PermissionError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = descriptor.stat()
                if not status.st_nlink and os.readlink(descriptor).startswith(str(directory)):
                    total += status.st_blocks * 512
    return total


def flip(path: Path, at: int, mask: int) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(descriptor, 1, at) or b"\0"
        os.pwrite(descriptor, bytes([byte[0] ^ mask]), at)
    finally:
        os.close(descriptor)


def logged(records: list[logging.LogRecord]) -> list[logging.LogRecord]:
    """Return the records of the cache: threads of earlier tests may log too."""
    return [record for record in records if record.name.startswith("taskfs.cache.")]


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def only_warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Failures are logged as warnings, never as errors."""
    yield
    records = logged([r for phase in ("setup", "call") for r in caplog.get_records(phase)])
    messages = [r.getMessage() for r in records]
    assert all(r.levelno <= logging.WARNING for r in records), messages


# Stored blocks are read back.


def test_blocks_are_read_back_across_segments_and_processes(cache_dir: Path) -> None:
    """O-1, R-14: Blocks are read back across segments, in this process and in the next, also a
    short last one."""
    stop, tail = 2 * SEGMENT_BLOCKS + 7, 1234
    blocks = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
    blocks.put(5, run_of("a", 5, stop - 3))
    blocks.put(stop - 3, run_of("a", stop - 3, stop, tail))
    for seen in (blocks, DiskCache(cache_dir, PLENTY).blocks_of(KEY)):
        for index in range(stop + 2):
            wanted = block_of("a", index)[: tail if index == stop - 1 else BLOCK]
            is_there = 5 <= index < stop
            assert seen.present(index, index + 1) == ([index] if is_there else [])
            assert seen.get(index) == (wanted if is_there else None)
    assert sorted(path.name for path in files_of(cache_dir / FORMAT / "blocks")) == [
        f"{KEY}-{number}" for number in range(3)
    ]


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK])
@pytest.mark.parametrize("index", [0, SEGMENT_BLOCKS - 1, SEGMENT_BLOCKS])
def test_the_last_block_keeps_its_length(cache_dir: Path, index: int, length: int) -> None:
    """I-7: The object's last block may be short, anywhere in a segment."""
    last = block_of("b", index)[:length]
    DiskCache(cache_dir, PLENTY).blocks_of(KEY).put(index, last)
    blocks = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
    assert blocks.get(index) == last
    assert blocks.get(index + 1) is None


@pytest.mark.parametrize("first", [0, 3, SEGMENT_BLOCKS - 1])
@pytest.mark.parametrize("tail", [BLOCK, BLOCK - 1])
@pytest.mark.parametrize("shift", [0, 1])
def test_long_runs_are_written_correctly(
    cache_dir: Path, first: int, tail: int, shift: int
) -> None:
    """R-17: A long run is written correctly, at any offset in file and memory, with a short last
    block or without."""
    run = run_of("l", first, first + SEGMENT_BLOCKS + 9, tail)
    DiskCache(cache_dir, PLENTY).blocks_of(KEY).put(first, aligned(bytes(shift) + run)[shift:])
    blocks = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
    assert blocks.get(first, SEGMENT_BLOCKS + 20) == run
    assert blocks.get(first + 7, 3) == run[7 * BLOCK : 10 * BLOCK]


def test_long_runs_bypass_the_page_cache(cache_dir: Path) -> None:
    """R-17: Long runs bypass the page cache; short ones stay in it."""
    cache_dir.mkdir()
    blocks = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
    blocks.put(0, aligned(run_of("l", 0, SEGMENT_BLOCKS)))
    blocks.put(SEGMENT_BLOCKS, aligned(run_of("l", SEGMENT_BLOCKS, SEGMENT_BLOCKS + 2)))
    can = writes_past_page_cache(cache_dir)
    assert in_page_cache(segment_path(cache_dir), 10 * BLOCK) != can
    assert in_page_cache(segment_path(cache_dir, number=1), BLOCK)


def test_one_thread_at_a_time_waits_for_the_disk(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-17: While one long run bypasses the page cache, another takes the ordinary way."""
    blocks = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
    write, waits, go = os.pwrite, threading.Event(), threading.Event()

    def write_slowly(descriptor: int, piece: bytes, offset: int) -> int:
        if threading.current_thread() is other and len(piece) >= 1 << 20:
            waits.set()
            assert go.wait(60)
        return write(descriptor, piece, offset)

    monkeypatch.setattr(os, "pwrite", write_slowly)
    run = aligned(run_of("p", 0, SEGMENT_BLOCKS))
    other = threading.Thread(target=blocks.put, args=(SEGMENT_BLOCKS, run))
    other.start()
    assert waits.wait(60)
    blocks.put(0, aligned(run_of("o", 0, SEGMENT_BLOCKS)))
    assert in_page_cache(segment_path(cache_dir), 10 * BLOCK)
    go.set()
    other.join()
    assert blocks.get(0, SEGMENT_BLOCKS) == run_of("o", 0, SEGMENT_BLOCKS)


def test_a_run_ends_where_a_block_is_missing_or_wrong(cache_dir: Path) -> None:
    """I-7: A read ends at the first block that is missing or wrong; the wrong one is dropped, those
    behind it stay."""
    stop = SEGMENT_BLOCKS + 20
    blocks = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
    blocks.put(0, run_of("m", 0, stop))
    blocks.drop(SEGMENT_BLOCKS + 9, SEGMENT_BLOCKS + 9)
    flip(segment_path(cache_dir), 30 * BLOCK + 5, 1)
    assert blocks.get(0, stop) == run_of("m", 0, 30)
    assert blocks.present(0, stop) == [n for n in range(stop) if n not in (30, SEGMENT_BLOCKS + 9)]
    assert blocks.get(30, stop) is None
    assert blocks.get(31, stop - 31) == run_of("m", 31, SEGMENT_BLOCKS + 9)
    assert blocks.get(SEGMENT_BLOCKS + 10, 100) == run_of("m", SEGMENT_BLOCKS + 10, stop)
    part = blocks.get(28, stop)
    assert isinstance(part, bytes)  # not a view of a buffer for the whole request
    assert len(part) == 2 * BLOCK


def test_puts_and_drops_in_any_order(cache_dir: Path) -> None:
    """I-3: A dropped block is gone and the others stay, in this process and in the next."""
    rng = random.Random(4)
    blocks, kept = DiskCache(cache_dir, PLENTY).blocks_of(KEY), set[int]()
    for round_ in range(40):
        first = rng.randrange(3 * SEGMENT_BLOCKS)
        stop = first + rng.choice((1, 2, 20, 80))
        if round_ % 3:
            blocks.put(first, run_of("c", first, stop))
            kept |= set(range(first, stop))
        else:
            blocks.drop(first, stop - 1)
            kept -= set(range(first, stop))
    for seen in (blocks, DiskCache(cache_dir, PLENTY).blocks_of(KEY)):
        for index in range(5 * SEGMENT_BLOCKS):
            assert seen.get(index) == (block_of("c", index) if index in kept else None)


def test_objects_do_not_see_each_other_s_blocks(cache_dir: Path) -> None:
    """F-8: Blocks are kept by name, version and account."""
    cache = DiskCache(cache_dir, PLENTY)
    keys = [cache_key("api", "t/output.zip", version) for version in range(8)]
    for key in keys:
        cache.blocks_of(key).put(0, run_of(key, 0, 3))
    for key in keys:
        assert [cache.blocks_of(key).get(i) for i in range(3)] == [
            block_of(key, i) for i in range(3)
        ]


_parts = st.lists(
    st.one_of(st.text(st.characters(exclude_categories=[]), max_size=4), st.integers(), st.none())
)


@settings(deadline=None)
@given(_parts, _parts)
def test_equal_parts_have_equal_keys(one: list[Any], other: list[Any]) -> None:
    """Y-11: Any values make a file name, and different values different names."""
    assert set(cache_key(*one)) <= set("0123456789abcdef")
    assert (cache_key(*one) == cache_key(*other)) == (one == other)


# Nothing is fetched twice.


class Reading:
    """A reader of *body* in a process of its own, as far as the caches go."""

    def __init__(self, body: bytes, disk: DiskBlocks, memory: int = 0) -> None:
        self.remote, self.pool, self.stats = FakeObject(body), DaemonPool(8), Stats()
        self.blocks = BlockReader(
            self.remote,
            self.remote.version,
            cache=ExtentCache(memory),
            pool=self.pool,
            waiter=Waiter(),
            stats=self.stats,
            disk=disk,
        )

    @property
    def fetched(self) -> int:
        assert self.pool.is_quiet()
        return self.remote.fetched


def check_random_reads(reading: Reading, count: int = 60, seed: int = 5) -> None:
    rng, body = random.Random(seed), reading.remote.body
    for _ in range(count):
        at, size = rng.randrange(len(body)), rng.choice((1, 5000, 3 * BLOCK))
        assert_same(reading.blocks.read_at(at, size), body[at : at + size])
        assert reading.pool.is_quiet()  # what is fetched is kept after it is handed out


def test_nothing_is_fetched_twice(cache_dir: Path) -> None:
    """R-2, R-13: Nothing is fetched twice by this mount, the next one, or read-ahead."""
    body = random.Random(6).randbytes(SEGMENT + 5 * BLOCK + 77)
    first = Reading(body, DiskCache(cache_dir, PLENTY).blocks_of(KEY))
    check_random_reads(first)
    assert_same(first.blocks.read_at(0, len(body)), body)
    assert first.fetched == len(body)
    second = Reading(body, DiskCache(cache_dir, PLENTY).blocks_of(KEY))
    second.blocks.prefetch(0, len(body))
    check_random_reads(second)
    assert_same(second.blocks.read_at(0, len(body)), body)
    assert second.fetched == 0
    assert second.stats.snapshot()["disk_hits"] > len(body) // BLOCK


def test_two_mounts_share_fetched_blocks(cache_dir: Path) -> None:
    """R-15: Two live mounts share what either fetches."""
    body = random.Random(7).randbytes(20 * BLOCK + 5)
    one, other = (Reading(body, DiskCache(cache_dir, PLENTY).blocks_of(KEY)) for _ in range(2))
    one.blocks.read_at(0, 1)
    assert one.fetched == BLOCK
    other.blocks.read_at(5 * BLOCK, 3 * BLOCK)
    assert other.fetched == 3 * BLOCK
    assert_same(one.blocks.read_at(5 * BLOCK, 3 * BLOCK), body[5 * BLOCK : 8 * BLOCK])
    assert_same(other.blocks.read_at(0, 9 * BLOCK), body[: 9 * BLOCK])
    assert (one.fetched, other.fetched) == (BLOCK, 8 * BLOCK)


def test_blocks_that_came_with_the_tail_are_kept(cache_dir: Path) -> None:
    """R-2: Blocks that came with the first request are kept on disk too."""
    body = random.Random(8).randbytes(6 * BLOCK + 9)
    first = Reading(body, DiskCache(cache_dir, PLENTY).blocks_of(KEY))
    start = 2 * BLOCK + 100
    first.blocks.put_fetched(start, body[start:])
    second = Reading(body, DiskCache(cache_dir, PLENTY).blocks_of(KEY))
    assert_same(second.blocks.read_at(3 * BLOCK, len(body)), body[3 * BLOCK :])
    assert second.fetched == 0
    assert_same(second.blocks.read_at(0, len(body)), body)


def test_an_object_larger_than_the_cache(cache_dir: Path) -> None:
    """R-14: A member may be larger than the cache, which stays within its size."""
    size = 2 * SEGMENT
    body = random.Random(9).randbytes(5 * SEGMENT + 123)
    reading = Reading(body, DiskCache(cache_dir, size).blocks_of(KEY))
    for at in range(0, len(body), 10 * BLOCK):
        assert_same(reading.blocks.read_at(at, 10 * BLOCK), body[at : at + 10 * BLOCK])
        assert reading.fetched
        assert disk_use(cache_dir) <= size
    check_random_reads(reading)
    assert disk_use(cache_dir) <= size


def test_a_block_of_the_wrong_length_is_not_taken(cache_dir: Path) -> None:
    """I-7: A block that is right but too short is a miss."""
    body = random.Random(10).randbytes(2 * BLOCK)
    disk = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
    disk.put(0, body[:100])
    reading = Reading(body, disk)
    assert_same(reading.blocks.read_at(0, len(body)), body)
    assert reading.fetched == len(body)


# Indexes.


def test_an_index_comes_back(cache_dir: Path) -> None:
    """R-13: An index is read back in this process and in the next, until it is dropped or
    replaced."""
    cache = DiskCache(cache_dir, PLENTY)
    assert read_index(cache, KEY) is None
    for body in (BODY, b"", bytes(3_000_000), BODY[::-1]):
        write_index(cache, KEY, body)
        assert read_index(DiskCache(cache_dir, PLENTY), KEY) == read_index(cache, KEY) == body
    assert read_index(cache, cache_key("other")) is None
    cache.drop_index(KEY)
    cache.drop_index(KEY)
    assert read_index(cache, KEY) is None
    assert files_of(cache_dir) == []


def test_the_pins_are_read_once_as_all_indexes_are_dropped(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N-21, R-32: All indexes are dropped, and the pinned ones kept beside the pins; the files of
    pins are read once."""
    cache = DiskCache(cache_dir, PLENTY)
    keys = [cache_key(number) for number in range(20)]
    for key in keys:
        write_index(cache, key, BODY)
    for number in range(3):
        with pins.change_pins(cache.root, f"task{number}") as changed:
            changed[""] = [f"index/{keys[number]}"]
    read, original = [], pins.read_pins

    def read_pins(root: Path, task_id: str) -> dict[str, list[str]]:
        read.append(task_id)
        return original(root, task_id)

    monkeypatch.setattr(pins, "read_pins", read_pins)
    cache.drop_indexes()
    assert sorted(read) == ["task0", "task1", "task2"]
    assert os.listdir(cache.root / "index") == []
    assert set(keys[:3]) == {path.name for path in files_of(cache.root / "pins")}.intersection(keys)


def test_an_index_appears_whole_or_not_at_all(cache_dir: Path) -> None:
    """R-16: A reader beside two writers sees the index of one or of the other."""
    caches = [DiskCache(cache_dir, PLENTY) for _ in range(3)]
    wanted = [random.Random(number).randbytes(200_000) for number in range(2)]
    began = time.monotonic()
    seen = set[int]()

    def goes_on() -> bool:
        passed_s = time.monotonic() - began
        return passed_s < 0.5 or (seen != {0, 1} and passed_s < TIMEOUT_S)

    def write(number: int) -> None:
        while goes_on():
            write_index(caches[number], KEY, wanted[number])

    def read() -> None:
        while goes_on():
            was_there = bool(seen)
            kept = read_index(caches[2], KEY)
            if kept is not None or was_there:
                assert kept in wanted
                seen.add(wanted.index(kept))

    run_threads([lambda: write(0), lambda: write(1), read, read])
    assert seen == {0, 1}
    assert files_of(cache_dir) == [index_path(cache_dir)]


# Damage.


def test_every_flipped_byte_of_a_segment_is_a_miss(cache_dir: Path) -> None:
    """I-7: Every flipped byte of a segment is a miss, before it is opened and while it is open, and
    a rewrite is right."""
    last = block_of("d", 0)[:400]
    whole, short = cache_key("whole"), cache_key("short")
    cache = DiskCache(cache_dir, PLENTY)
    cache.blocks_of(short).put(0, last)
    cache.blocks_of(whole).put(0, run_of("d", 1, 3))
    wanted = {short: [last], whole: [block_of("d", 1), block_of("d", 2)]}
    table = range(SEGMENT, SEGMENT + TABLE)
    offsets = {short: [*range(400), *table], whole: [*range(0, 2 * BLOCK, 997), *table[::3]]}
    missed = 0
    for key, expected in wanted.items():
        path = segment_path(cache_dir, key)
        for at in offsets[key]:
            warm = cache.blocks_of(key)
            assert [warm.get(n) for n in range(len(expected))] == expected
            mask = (0x01, 0x80, 0xFF)[at % 3]
            flip(path, at, mask)
            for seen in (warm, DiskCache(cache_dir, PLENTY).blocks_of(key)):
                for index in range(SEGMENT_BLOCKS if at % 50 == 0 else len(expected) + 1):
                    block = seen.get(index)
                    right = expected[index] if index < len(expected) else None
                    assert block in (right, None)
                    missed += block is None and right is not None
            flip(path, at, mask)
            warm.put(0, b"".join(expected))
    assert missed > 400


def test_every_flipped_byte_of_an_index_is_a_miss(cache_dir: Path) -> None:
    """I-7: Every flipped byte of an index is a miss."""
    cache = DiskCache(cache_dir, PLENTY)
    write_index(cache, KEY, BODY)
    path = index_path(cache_dir)
    for at in range(path.stat().st_size):
        for mask in (0x01, 0x80, 0xFF):
            flip(path, at, mask)
            assert read_index(cache, KEY) is None
            flip(path, at, mask)
    assert read_index(cache, KEY) == BODY


@pytest.mark.parametrize("when", ["before", "while open"])
def test_files_cut_at_any_length(cache_dir: Path, when: str) -> None:
    """I-7, R-16: A file that was cut, emptied or extended is a miss or right."""
    cache, run = DiskCache(cache_dir, PLENTY), run_of("e", 0, 4, 300)
    wanted = [run[at : at + BLOCK] for at in range(0, len(run), BLOCK)]
    cache.blocks_of(KEY).put(0, run)
    write_index(cache, KEY, BODY)
    for length in (SEGMENT + TABLE + 99, SEGMENT + 20, SEGMENT + 4, SEGMENT, BLOCK + 7, 1, 0):
        if when == "while open":
            blocks = cache.blocks_of(KEY)
            assert blocks.present(0, 4) == [0, 1, 2, 3] or length < SEGMENT
            os.truncate(segment_path(cache_dir), length)
        else:
            os.truncate(segment_path(cache_dir), length)
            blocks = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
        for index in range(5):
            assert blocks.get(index) in (*wanted[index : index + 1], None)
        assert length > SEGMENT + 4 * ENTRY.size or blocks.get(3) is None or when != "before"
    blocks.put(0, run)
    assert [DiskCache(cache_dir, PLENTY).blocks_of(KEY).get(n) for n in range(4)] == wanted
    for length in range(index_path(cache_dir).stat().st_size - 1, -1, -1):
        os.truncate(index_path(cache_dir), length)
        assert read_index(cache, KEY) is None


def _file(path: Path) -> None:
    path.write_bytes(b"not this")


def _directory(path: Path) -> None:
    (path / "full").mkdir(parents=True)


IN_PLACE: Final[dict[str, Callable[[Path], None]]] = {
    "directory": _directory,
    "dangling link": lambda path: path.symlink_to("/nowhere/at/all"),
    "loop": lambda path: path.symlink_to(path.name),
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "file": _file,
    "unreadable": lambda path: path.touch(0o000),
}
WHERE: Final[dict[str, Place]] = {
    "segment": segment_path,
    "directory of segments": lambda cache_dir: segment_path(cache_dir).parent,
    "index": index_path,
    "directory of indexes": lambda cache_dir: index_path(cache_dir).parent,
    "all blocks": lambda cache_dir: segment_path(cache_dir).parents[1],
    "lock": lambda cache_dir: cache_dir / FORMAT / "lock",
    "format": lambda cache_dir: cache_dir / FORMAT,
    "cache": lambda cache_dir: cache_dir,
}


def use_everything(cache: DiskCache) -> None:
    """Call every method of a cache; each result must be right or None."""
    blocks, run = cache.blocks_of(KEY), run_of("f", 0, 3)
    for _ in range(2):
        assert blocks.get(0) in (None, run[:BLOCK])
        blocks.put(0, run)
        assert blocks.get(2) in (None, run[2 * BLOCK :])
        assert blocks.present(1, 2) in ([], [1])
        write_index(cache, KEY, BODY)
        assert read_index(cache, KEY) in (None, BODY)
        blocks.drop(0, 1)
        assert blocks.get(1) is None
        cache.drop_index(KEY)
        assert read_index(cache, KEY) is None


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("what", IN_PLACE)
def test_something_else_in_place_of_a_file(
    cache_dir: Path, what: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """R-16: With anything in place of the cache's files no call fails or hangs, and the log says it
    once."""
    use_everything(DiskCache(cache_dir, PLENTY))
    path = WHERE[where](cache_dir)
    for before in (False, True):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        caplog.clear()
        if before:
            IN_PLACE[what](path)
            cache = DiskCache(cache_dir, PLENTY)
        else:
            cache = DiskCache(cache_dir, PLENTY)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            IN_PLACE[what](path)
        before_use = len(open_below(cache_dir))
        use_everything(cache)
        use_everything(DiskCache(cache_dir, PLENTY))
        small = DiskCache(cache_dir, BLOCK)  # evicts at each write
        use_everything(small)
        # One open segment each, and the directories of two.
        assert len(open_below(cache_dir)) <= before_use + 3 + 2
        assert len(logged(caplog.records)) <= 6


@pytest.mark.parametrize("where", ["segment", "index", "lock"])
def test_links_are_not_followed(cache_dir: Path, where: str) -> None:
    """Y-9: A link in place of a file is not read, written or truncated."""
    victim = cache_dir.parent / "victim"
    other = DiskCache(cache_dir.parent / "other", PLENTY)
    other.blocks_of(KEY).put(0, run_of("f", 0, 3))
    write_index(other, KEY, BODY)
    source = WHERE["segment" if where == "lock" else where](cache_dir.parent / "other")
    source.rename(victim)
    content = victim.read_bytes()
    use_everything(DiskCache(cache_dir, PLENTY))
    path = WHERE[where](cache_dir)
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    cache = DiskCache(cache_dir, SEGMENT)
    if where != "lock":
        assert cache.blocks_of(KEY).get(0) is None
        assert read_index(cache, KEY) is None
    use_everything(cache)
    for number in range(5):
        cache = DiskCache(cache_dir, SEGMENT)
        cache.blocks_of(cache_key(number)).put(0, run_of("f", 0, SEGMENT_BLOCKS))
    assert victim.read_bytes() == content


def test_a_format_directory_that_is_a_link_is_refused(
    cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Y-9: A link in place of the cache changes neither rights nor content of its target."""
    victim = cache_dir.parent / "victim"
    victim.mkdir(mode=0o755)
    victim.chmod(0o755)
    cache_dir.mkdir()
    (cache_dir / FORMAT).symlink_to(victim)
    use_everything(DiskCache(cache_dir, PLENTY))
    assert stat.S_IMODE(victim.stat().st_mode) == 0o755
    assert list(victim.iterdir()) == []
    assert len(logged(caplog.records)) == 1


def test_a_cache_directory_behind_a_link_is_used(cache_dir: Path) -> None:
    """`--cache-dir`: a link that the user made to a larger disk is followed."""
    (cache_dir.parent / "large").mkdir()
    cache_dir.symlink_to(cache_dir.parent / "large")
    DiskCache(cache_dir, PLENTY).blocks_of(KEY).put(0, run_of("f", 0, 3))
    assert DiskCache(cache_dir, PLENTY).blocks_of(KEY).get(1) == block_of("f", 1)


def test_another_user_s_directory_is_not_used(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Y-9: A directory of another user is neither read nor written."""
    cache = DiskCache(cache_dir, PLENTY)
    cache.blocks_of(KEY).put(0, run_of("f", 0, 3))
    write_index(cache, KEY, BODY)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    cache = DiskCache(cache_dir, PLENTY)
    assert cache.blocks_of(KEY).get(0) is None
    assert read_index(cache, KEY) is None
    use_everything(cache)
    assert len(logged(caplog.records)) == 1
    assert "belongs to another user" in caplog.text


def test_a_crash_between_data_and_table(cache_dir: Path) -> None:
    """R-16: Data without its table, a table without its data, or half of either is a miss, and its
    neighbours stay."""
    blocks = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
    run = run_of("g", 0, 4)
    blocks.put(0, run)
    path = segment_path(cache_dir)
    whole = path.read_bytes()
    data, table = whole[:SEGMENT], whole[SEGMENT:]
    nothing, half = bytes(len(table)), table[: 2 * ENTRY.size + 4] + bytes(len(table))
    cases = {
        data + nothing: 0,
        data: 0,
        bytes(SEGMENT) + table: 0,
        data[: 2 * BLOCK + 100].ljust(SEGMENT, b"\0") + table: 2,
        data + half[: len(table)]: 2,
        data[: 3 * BLOCK].ljust(SEGMENT, b"\0") + table[: 2 * ENTRY.size].ljust(len(table)): 2,
    }
    for content, good in cases.items():
        path.write_bytes(content)
        after = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
        got = [after.get(index) for index in range(SEGMENT_BLOCKS)]
        assert [n for n, block in enumerate(got) if block is not None][:good] == list(range(good))
        assert all(block in (None, run[n * BLOCK : (n + 1) * BLOCK]) for n, block in enumerate(got))
        assert not any(got[4:])
        after.put(0, run)
        assert DiskCache(cache_dir, PLENTY).blocks_of(KEY).get(3) == run[3 * BLOCK :]


def test_a_file_at_the_wrong_place_is_a_miss(cache_dir: Path) -> None:
    """I-7: A file under the name of another, or a block and its entry at another position, is a
    miss."""
    cache, other = DiskCache(cache_dir, PLENTY), cache_key("other")
    cache.blocks_of(KEY).put(0, run_of("e", 0, SEGMENT_BLOCKS + 2))
    write_index(cache, KEY, BODY)
    segment_path(cache_dir, other).parent.mkdir()
    for number in range(2):
        shutil.copy(
            segment_path(cache_dir, KEY, number), segment_path(cache_dir, other, 1 - number)
        )
    shutil.copy(index_path(cache_dir), index_path(cache_dir, other))
    strange = cache.blocks_of(other)
    assert not any(strange.get(index) for index in range(2 * SEGMENT_BLOCKS))
    assert read_index(cache, other) is None

    whole = bytearray(segment_path(cache_dir).read_bytes())
    whole[BLOCK : 2 * BLOCK] = whole[:BLOCK]
    whole[SEGMENT + ENTRY.size : SEGMENT + 2 * ENTRY.size] = whole[SEGMENT : SEGMENT + ENTRY.size]
    segment_path(cache_dir).write_bytes(whole)
    blocks = DiskCache(cache_dir, PLENTY).blocks_of(KEY)
    assert [blocks.get(index) for index in range(2)] == [block_of("e", 0), None]


def test_random_damage(cache_dir: Path) -> None:
    """I-7, R-16: Random damage to the files raises nothing and never gives wrong bytes."""
    rng = random.Random(11)
    keys = [cache_key("r", number) for number in range(6)]
    content = {key: run_of(key, 0, SEGMENT_BLOCKS + 4, 99) for key in keys}
    caches = [DiskCache(cache_dir, 6 * SEGMENT) for _ in range(2)]
    hits = 0

    def damage(path: Path) -> None:
        if rng.random() < 0.4:
            descriptor = os.open(path, os.O_WRONLY)
            at = rng.choice((rng.randrange(SEGMENT), SEGMENT + rng.randrange(TABLE), 0))
            os.pwrite(descriptor, rng.randbytes(rng.choice((1, 8, 5000))), at)
            os.close(descriptor)
        elif rng.random() < 0.4:
            os.truncate(path, rng.randrange(SEGMENT + TABLE))
        else:
            path.unlink()
            wrong = rng.choice(
                [None, *IN_PLACE.values(), lambda p: shutil.copy(rng.choice(all_), p)]
            )
            if wrong is not None and all_ != [path]:
                with contextlib.suppress(OSError):
                    wrong(path)

    for step in range(1500):
        if step % 100 == 99:
            caches[rng.randrange(2)] = DiskCache(cache_dir, 6 * SEGMENT)
        if step == 1000:
            shutil.rmtree(cache_dir / FORMAT)
        key, cache = rng.choice(keys), rng.choice(caches)
        blocks, index = cache.blocks_of(key), rng.randrange(SEGMENT_BLOCKS + 4)
        stop = min(index + rng.choice((1, 3, 30)), SEGMENT_BLOCKS + 4)
        wanted = content[key][index * BLOCK : (index + 1) * BLOCK]
        act = rng.random()
        if act < 0.5:
            block = blocks.get(index)
            assert block in (None, wanted)
            hits += block is not None
        elif act < 0.75:
            blocks.put(index, content[key][index * BLOCK : stop * BLOCK])
        elif act < 0.8:
            blocks.drop(index, stop - 1)
        elif act < 0.9:
            kept = read_index(cache, key)
            assert kept in (None, content[key][:500])
            write_index(cache, key, content[key][:500])
        else:
            all_ = [
                path for path in files_of(cache_dir) if path.is_file() and not path.is_symlink()
            ]
            if all_:
                damage(rng.choice(all_))
    assert hits > 50


# The size of the cache.


def last_used(path: Path, seconds_ago: float) -> None:
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_the_least_recently_used_go_first(cache_dir: Path) -> None:
    """R-14: The least recently used goes first, blocks and indexes alike, and the disk stays within
    the size."""
    size = 10 * SEGMENT
    keys = [cache_key("lru", number) for number in range(9)]
    cache = DiskCache(cache_dir, size)
    for key in keys:
        cache.blocks_of(key).put(0, run_of(key, 0, SEGMENT_BLOCKS))
    for name in ("old", "new"):
        write_index(cache, cache_key(name), BODY)
    for age, key in enumerate(reversed(keys)):
        last_used(segment_path(cache_dir, key), 1000 + age)
    last_used(index_path(cache_dir, cache_key("old")), 5000)
    last_used(index_path(cache_dir, cache_key("new")), 5000)

    cache = DiskCache(cache_dir, size)  # another mount, later
    assert cache.blocks_of(keys[0]).get(5) == block_of(keys[0], 5)
    assert read_index(cache, cache_key("new")) is not None
    for number in range(2):
        cache.blocks_of(cache_key("fresh", number)).put(0, run_of(number, 0, SEGMENT_BLOCKS))
        assert disk_use(cache_dir) <= size

    left = [key for key in keys if segment_path(cache_dir, key).exists()]
    assert left == [keys[0], *keys[-len(left) + 1 :]]
    assert 5 <= len(left) < 9
    assert read_index(cache, cache_key("old")) is None
    assert read_index(cache, cache_key("new")) is not None
    assert segment_path(cache_dir, cache_key("fresh", 1)).exists()


@pytest.mark.parametrize("segments", [0.3, 1.0, 3.5])
def test_disk_stays_under_the_size(cache_dir: Path, segments: float) -> None:
    """R-14: The cache stays within any size, up to the run that is being written."""
    size, key = int(segments * SEGMENT), cache_key("bound")
    cache, rng = DiskCache(cache_dir, size), random.Random(12)
    run = run_of("h", 0, 40)
    for step in range(60):
        length = rng.choice((1, 7, 40)) * BLOCK
        cache.blocks_of(key).put(rng.randrange(2000), run[:length])
        if step % 9 == 0:
            write_index(cache, cache_key(step), run[: 2 * BLOCK])
        assert disk_use(cache_dir) <= size
        assert disk_use(cache_dir) + unlinked_use(os.getpid(), cache_dir) <= size + SEGMENT


def test_a_file_evicted_by_one_mount_takes_no_space_through_another(cache_dir: Path) -> None:
    """R-14: A file that one mount evicted takes no space although another has it open."""
    size = 4 * SEGMENT
    one, other = DiskCache(cache_dir, size), DiskCache(cache_dir, size)
    keys = [cache_key("shared", number) for number in range(3)]
    for key in keys:
        one.blocks_of(key).put(0, run_of(key, 0, SEGMENT_BLOCKS))
    for number in range(6):
        other.blocks_of(cache_key("o", number)).put(0, run_of(number, 0, SEGMENT_BLOCKS))
    assert not any(segment_path(cache_dir, key).exists() for key in keys)
    assert disk_use(cache_dir) + unlinked_use(os.getpid(), cache_dir) <= size
    for key in keys:
        assert one.blocks_of(key).get(3) in (None, block_of(key, 3))
    one.blocks_of(keys[0]).put(3, block_of(keys[0], 3))
    assert other.blocks_of(keys[0]).get(3) == block_of(keys[0], 3)


def test_a_size_of_0_keeps_nothing(cache_dir: Path) -> None:
    """`--cache-size`: 0 keeps none: nothing is made, nothing that is there is read."""
    DiskCache(cache_dir / "used", PLENTY).blocks_of(KEY).put(0, run_of("f", 0, 3))
    used = DiskCache(cache_dir / "used", 0)
    assert used.blocks_of(KEY).get(0) is None
    use_everything(DiskCache(cache_dir / "new", 0))
    assert not (cache_dir / "new").exists()


def test_another_format_s_files_are_left_alone(cache_dir: Path) -> None:
    """R-16: Files of another format version are neither read, changed nor evicted."""
    DiskCache(cache_dir, PLENTY).blocks_of(KEY).put(0, run_of("f", 0, SEGMENT_BLOCKS))
    write_index(DiskCache(cache_dir, PLENTY), KEY, BODY)
    for name in ("v0", "v2"):
        shutil.copytree(cache_dir / FORMAT, cache_dir / name)
        os.utime(cache_dir / name / "index" / KEY, (1, 1))
    shutil.rmtree(cache_dir / FORMAT)
    before = {p: p.read_bytes() for n in ("v0", "v2") for p in files_of(cache_dir / n)}
    cache = DiskCache(cache_dir, SEGMENT)
    assert cache.blocks_of(KEY).get(0) is None
    assert read_index(cache, KEY) is None
    for number in range(4):
        cache.blocks_of(cache_key(number)).put(0, run_of("i", 0, SEGMENT_BLOCKS))
    assert {p: p.read_bytes() for n in ("v0", "v2") for p in files_of(cache_dir / n)} == before
    assert len(files_of(cache_dir / FORMAT)) <= 2


def test_descriptors_stay_few(cache_dir: Path) -> None:
    """R-19, R-20: Thousands of segments used by many threads leave at most 100 files open, and
    none after the end."""

    def use(cache: DiskCache, seed: int) -> None:
        for number in range(700):
            key = cache_key(seed, number % 350)
            blocks = cache.blocks_of(key)
            if number < 350:
                blocks.put(0, b"%d" % number)
            assert blocks.get(0) == b"%d" % (number % 350)

    cache = DiskCache(cache_dir, PLENTY)
    run_threads([partial(use, cache, seed) for seed in range(6)])
    assert 0 < len(open_below(cache_dir)) <= 100
    del cache
    assert open_below(cache_dir) == []


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o027])
def test_modes(cache_dir: Path, mask: int) -> None:
    """Y-1: Files are 0600 in 0700 directories, whatever the umask."""
    old = os.umask(mask)
    try:
        cache = DiskCache(cache_dir, 2 * SEGMENT)
        write_index(cache, KEY, BODY)
        for number in range(3):
            cache.blocks_of(cache_key(number)).put(0, run_of("i", 0, SEGMENT_BLOCKS))
            write_index(cache, cache_key(number), BODY)
    finally:
        os.umask(old)
    modes = {p.relative_to(cache_dir): stat.S_IMODE(p.stat().st_mode) for p in cache_dir.rglob("*")}
    assert stat.S_IMODE(cache_dir.stat().st_mode) == 0o700
    assert (cache_dir / FORMAT / "lock").exists()
    wrong = {
        str(p): oct(m) for p, m in modes.items() if m != (0o700, 0o600)[(cache_dir / p).is_file()]
    }
    assert wrong == {}


def test_a_directory_that_others_could_enter_is_closed(cache_dir: Path) -> None:
    """Y-1: A directory that others could enter is closed."""
    (cache_dir / FORMAT / "index").mkdir(parents=True, mode=0o777)
    (cache_dir / FORMAT).chmod(0o777)
    DiskCache(cache_dir, PLENTY)
    assert stat.S_IMODE((cache_dir / FORMAT).stat().st_mode) == 0o700


# A disk that fails.


def test_a_directory_deleted_underneath(cache_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """R-16: After the directory is deleted, reads go on and new blocks are kept again."""
    body = random.Random(13).randbytes(12 * BLOCK + 5)
    cache = DiskCache(cache_dir, PLENTY)
    reading = Reading(body, cache.blocks_of(KEY))
    check_random_reads(reading, 20)
    write_index(cache, KEY, BODY)
    for gone in (
        cache_dir,
        cache_dir / FORMAT,
        segment_path(cache_dir).parent,
        cache_dir / FORMAT / "index",
    ):
        shutil.rmtree(gone)
        check_random_reads(reading, 20)
        assert_same(reading.blocks.read_at(0, len(body)), body)
        assert read_index(cache, KEY) in (None, BODY)
        write_index(cache, KEY, BODY)
        assert reading.fetched
        again = Reading(body, DiskCache(cache_dir, PLENTY).blocks_of(KEY))
        check_random_reads(again, 5)
        assert read_index(DiskCache(cache_dir, PLENTY), KEY) == BODY
        assert_same(again.blocks.read_at(0, len(body)), body)
        assert again.fetched == 0
    assert logged(caplog.records) == []


def test_a_cache_that_cannot_be_made(cache_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """R-16: Where no cache can be made, it is said once and reads go on."""
    cache_dir.write_bytes(b"a file")
    cache = DiskCache(cache_dir / "below", PLENTY)
    use_everything(cache)
    body = random.Random(14).randbytes(3 * BLOCK)
    check_random_reads(Reading(body, cache.blocks_of(KEY)), 5)
    assert len(logged(caplog.records)) == 1


def test_writing_goes_on_after_a_pause(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R-16: A failed write is a miss, is logged once, and is tried again after a minute."""
    cache, now = DiskCache(cache_dir, PLENTY), time.monotonic()
    # The clock of this module only, because threads of other tests wait by the real one.
    stopped = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("taskfs.cache.disk_cache.time", stopped)
    (segment_path(cache_dir, cache_key("bad"))).mkdir(parents=True)
    cache.blocks_of(cache_key("bad")).put(0, b"x")
    cache.blocks_of(KEY).put(0, b"x")
    assert cache.blocks_of(KEY).get(0) is None
    now += 61
    cache.blocks_of(KEY).put(0, b"x")
    assert cache.blocks_of(KEY).get(0) == b"x"


def test_a_file_system_without_locks(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R-14, R-26: The cache stays within its size where the file system has no locks, as Lustre
    without `-o flock`."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    cache = DiskCache(cache_dir, 3 * SEGMENT)
    for number in range(8):
        key = cache_key(number)
        cache.blocks_of(key).put(0, run_of(number, 0, SEGMENT_BLOCKS))
        assert cache.blocks_of(key).get(9) == block_of(number, 9)
        assert disk_use(cache_dir) <= 3 * SEGMENT


def _child(*arguments: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-W", "error", "-m", "tests.unit.test_disk_cache"]
    return subprocess.Popen([*command, *map(str, arguments)], cwd=ROOT, **options)


def _end(child: "subprocess.Popen[bytes]") -> None:
    try:
        output, _ = child.communicate(timeout=TIMEOUT_S)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, (output or b"").decode()


def _collect_warnings() -> list[logging.LogRecord]:
    """Return a list that all warnings of this process's cache are added to."""
    warnings: list[logging.LogRecord] = []

    class Catcher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.append(record)

    logging.getLogger("taskfs.cache").addHandler(Catcher())
    return warnings


def _full(cache_dir: str, what: str) -> None:
    """In a process of its own: use a cache whose disk takes no more at some point."""
    directory = Path(cache_dir, "cache")
    if what == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * BLOCK + 50, resource.RLIM_INFINITY))
    else:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", cache_dir], check=True)
    warnings = _collect_warnings()
    body = random.Random(15).randbytes(90 * BLOCK + 33)
    if what == "read-only":
        use_everything(DiskCache(directory, PLENTY))
    cache = DiskCache(directory, PLENTY)
    if what == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", cache_dir], check=True)
    long = DiskCache(directory, PLENTY).blocks_of(cache_key("long"))
    long.put(0, aligned(run_of("long", 0, SEGMENT_BLOCKS)))  # the first: past the page cache
    assert long.present(0, SEGMENT_BLOCKS) == []
    assert len(warnings) == 1
    warnings.clear()
    blocks = cache.blocks_of(cache_key("cut"))
    blocks.put(SEGMENT_BLOCKS - 1, block_of("cut", SEGMENT_BLOCKS - 1))  # the table has its place
    blocks.put(0, run_of("cut", 0, SEGMENT_BLOCKS - 1))
    seemed = blocks.present(0, SEGMENT_BLOCKS)
    assert seemed == [n for n in range(SEGMENT_BLOCKS) if blocks.get(n) is not None]
    for kept in (cache, DiskCache(directory, PLENTY)):
        reading = Reading(body, kept.blocks_of(cache_key("body")))
        check_random_reads(reading, 15)
        assert_same(reading.blocks.read_at(0, len(body)), body)
        assert reading.fetched
        write_index(kept, cache_key("large"), random.Random(1).randbytes(4 << 20))
        assert read_index(kept, cache_key("large")) is None
        use_everything(kept)
    leavings = [path for path in files_of(directory) if path.name.startswith(".")]
    assert leavings == []
    assert 1 <= len(warnings) <= 2, [record.getMessage() for record in warnings]


def test_files_that_may_not_grow(cache_dir: Path) -> None:
    """R-16: A write that stops in the middle leaves nothing partial, and is said once."""
    cache_dir.mkdir()
    _end(_child("full", cache_dir, "limit", stdout=subprocess.PIPE, stderr=subprocess.STDOUT))


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_a_disk_that_is_full_or_read_only(cache_dir: Path, what: str) -> None:
    """R-16: With a full or read-only disk reads go on, and it is said once."""
    cache_dir.mkdir()
    require_program("unshare", "util-linux")
    # A user namespace cannot detach the copies of mounts.
    own = ["unshare", "--user", "--map-root-user", "--mount"] if os.geteuid() else [*OWN_MOUNTS]
    if subprocess.run([*own, "true"], check=False).returncode:
        pytest.fail("only root can mount here: run these tests as root")
    command = [
        *own,
        sys.executable,
        "-m",
        "tests.unit.test_disk_cache",
        "full",
        str(cache_dir),
        what,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr


# Many at once.

STRESS_SIZE: Final = 5 * SEGMENT
STRESS_KEYS: Final = 4
STRESS_BLOCKS: Final = 2 * SEGMENT_BLOCKS


def _write_and_read(cache_dir: str, seconds: str, seed: str) -> None:
    """In a process of its own: write, read, drop and evict; fail on any wrong byte.

    End after *seconds*, once there were hits and the directory is half full.
    """
    began = time.monotonic()
    warnings = _collect_warnings()
    cache = DiskCache(Path(cache_dir), STRESS_SIZE)
    keys = [cache_key("stress", number) for number in range(STRESS_KEYS)]
    indexes = {key: random.Random(key).randbytes(100_000) for key in keys}
    hits = [0]

    def goes_on() -> bool:
        passed_s = time.monotonic() - began
        if passed_s < float(seconds):
            return True
        is_enough = hits[0] > 20 and disk_use(Path(cache_dir)) > STRESS_SIZE // 2
        return not is_enough and passed_s < TIMEOUT_S

    def work(own_seed: str) -> None:
        rng = random.Random(own_seed)
        while goes_on():
            key, first = rng.choice(keys), rng.randrange(STRESS_BLOCKS)
            blocks = cache.blocks_of(key)
            stop = min(first + rng.choice((1, 4, 40)), STRESS_BLOCKS)
            if rng.random() < 0.3:
                blocks.put(first, run_of(key, first, stop))
            for index in range(first, stop):
                block = blocks.get(index)
                if block is not None:
                    hits[0] += 1
                    assert_same(block, block_of(key, index))
            if rng.random() < 0.05:
                blocks.drop(first, first)
            if rng.random() < 0.2:
                write_index(cache, key, indexes[key])
            kept = read_index(cache, key)
            assert kept is None or kept == indexes[key]

    run_threads([partial(work, f"{seed}/{number}") for number in range(2)])
    assert hits[0] > 20, hits
    assert not warnings, [record.getMessage() for record in warnings]


def test_processes_at_one_cache(cache_dir: Path) -> None:
    """R-14, R-16: Two processes write, read and evict in one cache and one is killed: every byte is
    right, and the disk stays within the size."""
    children = [
        _child("stress", cache_dir, "2", str(n), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for n in range(3)
    ]
    most = 0
    started = time.monotonic()
    try:
        while any(child.poll() is None for child in children):
            hidden = sum(unlinked_use(child.pid, cache_dir) for child in children)
            most = max(most, disk_use(cache_dir) + hidden)
            if children[2].poll() is None and time.monotonic() - started > 1.8:
                children[2].send_signal(signal.SIGKILL)
            time.sleep(0.01)
            assert time.monotonic() < started + 2 * TIMEOUT_S
    finally:
        for child in children[2:]:
            child.kill()
            child.communicate()
        for child in children[:2]:
            _end(child)
    most = max(most, disk_use(cache_dir))
    slack = len(children) * 2 * SEGMENT  # two threads each
    assert STRESS_SIZE // 2 < most <= STRESS_SIZE + slack, most
    cache = DiskCache(cache_dir, STRESS_SIZE)
    for number in range(STRESS_KEYS):
        key = cache_key("stress", number)
        for index in range(STRESS_BLOCKS):
            assert cache.blocks_of(key).get(index) in (None, block_of(key, index))


def test_threads_at_one_cache(cache_dir: Path) -> None:
    """R-19: Threads that write, read and evict get the right bytes."""
    _write_and_read(str(cache_dir), "0.7", "threads")
    assert disk_use(cache_dir) <= STRESS_SIZE + SEGMENT


PROGRAMS: Final[dict[str, Callable[..., None]]] = {"full": _full, "stress": _write_and_read}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
