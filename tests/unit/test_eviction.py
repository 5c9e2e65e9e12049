"""`taskfs.cache.eviction`: how much of a disk the cache takes, and which files it evicts first."""

import errno
import functools
import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from taskfs.cache import eviction
from taskfs.cache.block import BLOCK
from taskfs.cache.disk_cache import DiskCache, cache_key
from taskfs.cache.segment_file import SEGMENT, Segment
from tests.caches import disk_use, fill_disk, free_fraction, read_index, small_disk, write_index

PLENTY: Final = 1 << 40
DISK: Final = 24 << 20
RUN: Final = 16 * BLOCK
RESERVE: Final = 0.05
BODY: Final = random.Random(3).randbytes(700)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    with small_disk(disk, DISK):
        yield disk


@functools.lru_cache(maxsize=8)
def run_of(number: int) -> bytes:
    return random.Random(number).randbytes(RUN)


def put(cache: DiskCache, number: int) -> None:
    cache.blocks_of(cache_key("run", number)).put(0, run_of(number))


def is_kept(cache: DiskCache, number: int) -> bool:
    """Return whether the run is on disk; what is there must be right."""
    kept = cache.blocks_of(cache_key("run", number)).get(0, RUN // BLOCK)
    assert kept is None or bytes(kept) == run_of(number)
    return kept is not None


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "taskfs.cache.disk_cache"]


def test_a_cache_leaves_the_reserve_free(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """R-25, R-14: The cache evicts the least recently used to leave 5 % of its disk free, and keeps
    what comes."""
    cache = DiskCache(disk / "cache", PLENTY)
    for number in range(3 * DISK // RUN):
        put(cache, number)
        write_index(cache, cache_key("index", number), BODY)
        assert free_fraction(disk) >= RESERVE
        assert is_kept(cache, number)
    last = 3 * DISK // RUN
    assert not is_kept(cache, 0)
    assert sum(is_kept(cache, number) for number in range(last)) > 0.5 * DISK / RUN
    assert complaints(caplog) == []


def test_two_writes_at_once_leave_the_reserve_free(
    disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-25: A write counts the bytes of the writes that are in progress, which the disk does not
    report yet."""
    cache = DiskCache(disk / "cache", PLENTY)
    for number in range(8):
        put(cache, number)
    fill_disk(disk, leave=RESERVE + 1.5 * RUN / DISK)
    write = Segment.write

    def write_after_another(segment: Segment, first: int, run: memoryview) -> None:
        monkeypatch.setattr(Segment, "write", write)
        put(cache, 9)
        write(segment, first, run)

    monkeypatch.setattr(Segment, "write", write_after_another)
    put(cache, 8)
    assert free_fraction(disk) >= RESERVE
    assert is_kept(cache, 8) and is_kept(cache, 9)
    assert complaints(caplog) == []


@pytest.mark.parametrize("by", ["write", "read"])
def test_another_program_that_fills_the_disk_gets_the_reserve(
    disk: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-25: The reserve holds where another program takes the space while the cache is written or
    read."""
    cache = DiskCache(disk / "cache", PLENTY)
    for number in range(12):
        put(cache, number)
    fill_disk(disk, leave=0.01)
    assert free_fraction(disk) < RESERVE
    if by == "write":
        put(cache, 12)
        assert is_kept(cache, 12)
    else:
        monkeypatch.setattr(eviction, "CHECK_S", 0.0)
        assert is_kept(cache, 11)
    assert free_fraction(disk) >= RESERVE
    assert any(is_kept(cache, number) for number in range(12)), "more was evicted than needed"


def test_a_cache_that_an_earlier_mount_left_too_large_shrinks(disk: Path) -> None:
    """R-25: A mount begins by evicting down to the reserve."""
    earlier = DiskCache(disk / "cache", PLENTY)
    for number in range(12):
        put(earlier, number)
    fill_disk(disk, leave=0.02)
    assert free_fraction(disk) < RESERVE
    later = DiskCache(disk / "cache", PLENTY)
    assert free_fraction(disk) >= RESERVE
    assert 0 < sum(is_kept(later, number) for number in range(12)) < 12


def test_without_the_reserve_nothing_is_written(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """R-25: Where other programs take more, the cache keeps nothing, says so once, and works again
    once there is space."""
    foreign = fill_disk(disk, leave=0.01)
    cache = DiskCache(disk / "cache", PLENTY)
    before = disk_use(disk)
    for number in range(5):
        put(cache, number)
        write_index(cache, cache_key("index", number), BODY)
        assert not is_kept(cache, number)
        assert read_index(cache, cache_key("index", number)) is None
    assert disk_use(disk) <= before + (1 << 16)
    assert len(complaints(caplog)) == 1
    assert "5 %" in complaints(caplog)[0]
    foreign.unlink()
    put(cache, 1)
    assert is_kept(cache, 1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("direct", [True, False])
def test_a_quota_limits_the_cache(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    direct: bool,
) -> None:
    """R-25: Where a quota or the disk is full, the cache evicts and leaves a part to the user's
    other files, and no write fails because of that."""
    quota = 3 * SEGMENT
    real = os.pwrite

    def pwrite(descriptor: int, piece: Any, at: int) -> int:
        if disk_use(tmp_path) + len(piece) > quota:
            raise OSError(code, os.strerror(code))
        return real(descriptor, piece, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    cache = DiskCache(tmp_path / "cache", PLENTY)
    count = 3 * quota // RUN
    for number in range(count):
        if direct:
            put(cache, number)
        else:
            for at in range(0, RUN, BLOCK):
                piece = run_of(number)[at : at + BLOCK]
                cache.blocks_of(cache_key("run", number)).put(at // BLOCK, piece)
        assert is_kept(cache, number)
    assert disk_use(tmp_path) <= 0.95 * quota
    assert not is_kept(cache, 0)
    assert complaints(caplog) == []


def test_a_write_cut_short_by_a_full_disk_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R-16: A write that stops in the middle leaves no file that no reader uses."""
    real = os.pwrite

    def pwrite(descriptor: int, piece: Any, at: int) -> int:
        if at == 0 and len(piece) > BLOCK:
            return real(descriptor, piece[:BLOCK], at)  # as a quota that ends there
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "pwrite", pwrite)
    cache = DiskCache(tmp_path / "cache", PLENTY)
    put(cache, 1)
    assert not is_kept(cache, 1)
    assert disk_use(tmp_path / "cache" / "v1" / "blocks") == 0
    assert len(complaints(caplog)) == 1


def _refused(path: object) -> os.statvfs_result:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _silent(path: object) -> os.statvfs_result:
    return os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255))


@pytest.mark.parametrize("statvfs", [_refused, _silent])
def test_a_disk_that_does_not_report_its_size_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statvfs: Callable[..., Any]
) -> None:
    """R-26: Where statvfs(2) fails, or a network file system reports zeros, the cache works."""
    monkeypatch.setattr(os, "statvfs", statvfs)
    cache = DiskCache(tmp_path / "cache", PLENTY)
    put(cache, 1)
    assert is_kept(cache, 1)


def test_a_mount_does_not_wait_for_another_mount_s_eviction(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """R-25, R-18: While one mount evicts, another keeps nothing beyond the reserve and does not
    wait."""
    import fcntl

    cache = DiskCache(disk / "cache", PLENTY)
    with open(disk / "cache" / "v1" / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for number in range(2 * DISK // RUN):
            put(cache, number)
            assert free_fraction(disk) >= RESERVE
    assert all(record.levelno <= logging.WARNING for record in caplog.records)
