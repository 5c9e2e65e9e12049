"""`taskfs.cache.range_locks`: processes that share a cache directory fetch nothing twice."""

import contextlib
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from taskfs.cache import range_locks
from taskfs.cache.block import BLOCK
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.disk_cache import DiskCache, cache_key
from taskfs.cache.memory_cache import ExtentCache
from taskfs.cache.range_locks import lock_range
from taskfs.model import Fetched, ObjectVersion
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.support.thread_pool import DaemonPool
from tests.fork_server import ROOT
from tests.mounts import eventually

KEY: Final = cache_key("an object")
BODY: Final = random.Random(7).randbytes(40 * BLOCK + 99)
VERSION: Final = ObjectVersion(len(BODY), '"1"')
TIMEOUT_S: Final = 20.0


def never() -> bool:
    return False


class Remote:
    """An object that notes the requested ranges, and answers once `may_answer` is set."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.may_answer = threading.Event()

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> bytes:
        self.ranges.append((start, stop))
        assert self.may_answer.wait(TIMEOUT_S)
        return BODY[start:stop]

    def fetch_tail(self, length: int) -> Fetched:
        raise NotImplementedError


def process_of(remote: Remote, directory: Path) -> BlockReader:
    """Return a reader as another process has it: it shares the directory and the remote side."""
    return BlockReader(
        remote,
        VERSION,
        cache=ExtentCache(64 << 20),
        pool=DaemonPool(8, "test-store"),
        waiter=Waiter(),
        stats=Stats(),
        disk=DiskCache(directory, 1 << 30).blocks_of(KEY),
    )


def test_no_block_is_fetched_by_two_processes(tmp_path: Path) -> None:
    """R-15: Processes whose ranges overlap at the same time fetch each block once."""
    remote = Remote()
    chance = random.Random(1)
    processes = [process_of(remote, tmp_path) for _ in range(4)]
    spans = [sorted(chance.sample(range(len(BODY)), 2)) for _ in range(24)]
    with ThreadPoolExecutor(24) as pool:
        reads = [
            pool.submit(processes[n % 4].read_at, begin, end - begin)
            for n, (begin, end) in enumerate(spans)
        ]
        eventually(lambda: bool(remote.ranges))
        remote.may_answer.set()
        for read, (begin, end) in zip(reads, spans, strict=True):
            assert read.result(TIMEOUT_S) == BODY[begin:end]
    taken = [index for a, b in remote.ranges for index in range(a // BLOCK, -(-b // BLOCK))]
    assert len(taken) == len(set(taken))


def test_disjoint_ranges_do_not_wait(tmp_path: Path) -> None:
    """`lock_range`: While another process holds some of them, wait; not for others."""
    path = tmp_path / "locks"

    def waited() -> bool:
        raise AssertionError("it waited")

    with (
        lock_range(path, KEY, 0, 4, waited),
        lock_range(path, KEY, 5, 9, waited),
        lock_range(path, cache_key("another"), 0, 9, waited),
    ):
        pass


def test_a_held_range_is_waited_for(tmp_path: Path) -> None:
    """`lock_range`: Lock the units while the body runs."""
    path, order = tmp_path / "locks", list[str]()

    def second() -> None:
        with lock_range(path, KEY, 4, 8, never):
            order.append("second")

    thread = threading.Thread(target=second)
    with lock_range(path, KEY, 0, 4, never):
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(TIMEOUT_S)
    assert order == ["first", "second"]


def test_the_wait_ends_when_the_range_is_stored(tmp_path: Path) -> None:
    """`lock_range`: wait until *is_stored*."""
    with (
        lock_range(tmp_path / "x", KEY, 0, 0, never),
        lock_range(tmp_path / "x", KEY, 0, 0, lambda: True),
    ):
        pass


def test_a_lock_that_is_held_for_long_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lock_range`: wait at most `LOCK_TIMEOUT_S`; then run the body without the lock."""
    monkeypatch.setattr(range_locks, "LOCK_TIMEOUT_S", 0.05)
    with lock_range(tmp_path / "x", KEY, 0, 0, never), lock_range(tmp_path / "x", KEY, 0, 0, never):
        pass


def test_the_kernel_releases_the_locks_of_a_dead_process(tmp_path: Path) -> None:
    """`range_locks`: the kernel releases the locks of a process that dies."""
    program = (
        "import sys, pathlib\nfrom taskfs.cache.range_locks import lock_range\n"
        "with lock_range(pathlib.Path(sys.argv[1]), sys.argv[2], 0, 9, lambda: False):\n"
        "    print('held', flush=True)\n    sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "x"), KEY],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        entered = threading.Event()

        def enter() -> None:
            with lock_range(tmp_path / "x", KEY, 9, 9, never):
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.1)
        process.kill()
        assert entered.wait(TIMEOUT_S)
        waiting.join()
    finally:
        process.kill()
        process.communicate()


def test_without_locks_both_fetch(tmp_path: Path) -> None:
    """`range_locks`: the locks are advisory: where they do not work, both processes fetch."""
    with lock_range(tmp_path / "no" / "such", KEY, 0, 0, never):
        pass
    with contextlib.suppress(ZeroDivisionError), lock_range(tmp_path / "x", KEY, 0, 0, never):
        raise ZeroDivisionError
    with lock_range(tmp_path / "x", KEY, 0, 0, never):  # released although the body failed
        pass


def test_waiting_threads_leave_their_pool_to_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-19: Work that waits for other processes delays no other work of the same pool."""
    monkeypatch.setattr(range_locks, "LOCK_TIMEOUT_S", 10 * TIMEOUT_S)
    pool, is_there = DaemonPool(2, "test-waits"), threading.Event()

    def wait(number: int) -> None:
        with lock_range(tmp_path / "locks", KEY, number, number, is_there.is_set):
            pass

    with lock_range(tmp_path / "locks", KEY, 0, 3, never):
        waits = [pool.submit(wait, number) for number in range(4)]
        assert pool.submit(lambda: "done").result(TIMEOUT_S) == "done"
        assert not any(each.done() for each in waits)
        is_there.set()
        for each in waits:
            each.result(TIMEOUT_S)
    pool.shutdown()
