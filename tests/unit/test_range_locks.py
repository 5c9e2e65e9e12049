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

from taskfs.cache import range_locks as claims
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.disk_cache import DiskCache, cache_key
from taskfs.cache.memory_cache import BLOCK, ExtentCache
from taskfs.cache.range_locks import fetch_missing, lock_range
from taskfs.model import Fetched, ObjectVersion
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.support.thread_pool import DaemonPool
from tests.mounts import ROOT, eventually

KEY: Final = cache_key("an object")
BODY: Final = random.Random(7).randbytes(40 * BLOCK + 99)
VERSION: Final = ObjectVersion(len(BODY), '"1"')
PATIENCE_S: Final = 20.0


def never() -> bool:
    return False


class Remote:
    """An object that notes what it was asked for, and answers once it may."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.may_answer = threading.Event()

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> bytes:
        self.ranges.append((start, stop))
        assert self.may_answer.wait(PATIENCE_S)
        return BODY[start:stop]

    def fetch_tail(self, length: int) -> Fetched:
        raise NotImplementedError


def process_of(remote: Remote, directory: Path) -> BlockReader:
    """What another process would have: nothing is shared but the directory and the remote side."""
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
            assert read.result(PATIENCE_S) == BODY[begin:end]
    taken = [index for a, b in remote.ranges for index in range(a // BLOCK, -(-b // BLOCK))]
    assert len(taken) == len(set(taken))


def test_disjoint_claims_do_not_wait(tmp_path: Path) -> None:
    """`lock_range`: Whoever else holds some of them is waited for; others are not."""
    path = tmp_path / "claims"

    def waited() -> bool:
        raise AssertionError("it waited")

    with (
        lock_range(path, KEY, 0, 4, waited),
        lock_range(path, KEY, 5, 9, waited),
        lock_range(path, cache_key("another"), 0, 9, waited),
    ):
        pass


def test_a_claim_is_waited_for(tmp_path: Path) -> None:
    """`lock_range`: Hold the units while the body runs."""
    path, order = tmp_path / "claims", list[str]()

    def second() -> None:
        with lock_range(path, KEY, 4, 8, never):
            order.append("second")

    thread = threading.Thread(target=second)
    with lock_range(path, KEY, 0, 4, never):
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(PATIENCE_S)
    assert order == ["first", "second"]


def test_what_came_meanwhile_is_not_waited_for(tmp_path: Path) -> None:
    """`lock_range`: waited for, until *is_there*."""
    with (
        lock_range(tmp_path / "x", KEY, 0, 0, never),
        lock_range(tmp_path / "x", KEY, 0, 0, lambda: True),
    ):
        pass


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lock_range`: for `PATIENCE_S` at most: then both fetch."""
    monkeypatch.setattr(claims, "PATIENCE_S", 0.05)
    with lock_range(tmp_path / "x", KEY, 0, 0, never), lock_range(tmp_path / "x", KEY, 0, 0, never):
        pass


def test_the_claims_of_the_dead_are_free(tmp_path: Path) -> None:
    """`taskfs.cache.range_locks`: what a process held is free when it has died."""
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
        assert entered.wait(PATIENCE_S)
        waiting.join()
    finally:
        process.kill()
        process.communicate()


def test_without_locks_both_fetch(tmp_path: Path) -> None:
    """`taskfs.cache.range_locks`: They are advice: where locks do not work, both fetch."""
    with lock_range(tmp_path / "no" / "such", KEY, 0, 0, never):
        pass
    with contextlib.suppress(ZeroDivisionError), lock_range(tmp_path / "x", KEY, 0, 0, never):
        raise ZeroDivisionError
    with lock_range(tmp_path / "x", KEY, 0, 0, never):  # given back all the same
        pass


@pytest.mark.parametrize(
    ("kept", "fetched"),
    [
        ((), [(0, 6)]),
        ((0, 1, 5), [(2, 5)]),
        ((2, 3), [(0, 2), (4, 6)]),
        ((1, 4), [(0, 1), (2, 4), (5, 6)]),
        ((0, 1, 2, 3, 4, 5), []),
    ],
)
def test_only_what_is_missing_is_fetched(
    kept: tuple[int, ...], fetched: list[tuple[int, int]]
) -> None:
    """`fetch_missing`: only those are fetched that are not kept by now."""
    asked: list[tuple[int, int]] = []

    def fetch(first: int, stop: int) -> bytes:
        asked.append((first, stop))
        return b"".join(b"%d" % n for n in range(first, stop))

    runs = [(n, n + 1, b"%d" % n) for n in kept]
    found = fetch_missing(runs, fetch, 0, 6)
    assert found == b"012345"
    assert asked == fetched
