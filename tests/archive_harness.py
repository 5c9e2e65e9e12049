"""An archive engine over objects in memory, for tests that count requests and run threads."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, TypeVar

from taskfs.archive.archive import Archive
from taskfs.archive.bounds import DECODE_AHEAD_BYTES, SEQUENTIAL_FILES_BYTES
from taskfs.archive.decoder_limits import CheckpointBudget, IdleDecoderCache
from taskfs.archive.long_builds import LongBuilds
from taskfs.archive.member import Member
from taskfs.archive.open_archive import open_archive
from taskfs.archive.resources import ArchiveResources
from taskfs.cache.memory_cache import ExtentCache
from taskfs.cache.readahead import ReadAheadBudget
from taskfs.model import Fetched, ObjectVersion
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from tests.zips import ROOT

T = TypeVar("T")


class FakeObject:
    """A remote object in memory. `requests` has the fetched ranges, without the tail.

    *on_range* is called with every answer and returns it, changed or not; it may wait or raise.
    """

    def __init__(
        self, body: bytes, on_range: Callable[[int, int, bytes], bytes] | None = None
    ) -> None:
        self.body = body
        self.version = ObjectVersion(len(body), '"one"')
        self.requests: list[tuple[int, int]] = []
        self.on_range = on_range

    @property
    def fetched(self) -> int:
        """The number of bytes fetched, without the tail."""
        return sum(stop - start for start, stop in self.requests)

    def fetch_tail(self, length: int) -> Fetched:
        """Return the last bytes; see `RemoteObject`."""
        start = max(0, len(self.body) - length)
        return Fetched(start, self.body[start:], self.version)

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> bytes:
        """Return the bytes [start, stop); see `RemoteObject`."""
        assert 0 <= start < stop <= len(self.body), (start, stop, len(self.body))
        assert version == self.version
        self.requests.append((start, stop))
        answer = self.body[start:stop]
        return answer if self.on_range is None else self.on_range(start, stop, answer)


class DaemonPool(Executor):
    """A pool of daemon threads: a call that hangs fails its test, not the whole run.

    Threads end when the queue is empty, so a test need not close the pool.
    """

    def __init__(self, threads: int) -> None:
        self._max_threads = threads
        self._work: deque[Callable[[], None]] = deque()
        self._running = 0
        self._changed = threading.Condition()
        self.submitted = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Queue a call of *fn* for one of the threads."""
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as exc:
                future.set_exception(exc)

        with self._changed:
            self._work.append(call)
            self.submitted += 1
            needs_thread = self._running < self._max_threads
            self._running += needs_thread
        if needs_thread:
            threading.Thread(target=self._run, daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._work:
                    self._running -= 1
                    self._changed.notify_all()
                    return
                call = self._work.popleft()
            call()

    def is_quiet(self, timeout_s: float = 60.0) -> bool:
        """Whether all calls end within *timeout_s*."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout_s)


@dataclass(frozen=True)
class ArchiveHarness:
    """An archive engine with its own caches and pools."""

    resources: ArchiveResources
    store: DaemonPool
    decoding: DaemonPool

    def settle(self) -> None:
        """Wait until no fetch and no decoder runs, so that requests can be counted."""
        assert self.decoding.is_quiet(), "a decoder hangs"
        assert self.store.is_quiet(), "a fetch hangs"

    def open(self, remote: FakeObject, expected_members: int | None = None) -> Archive:
        """Return the archive in *remote*; raise an error if its members cannot be listed."""
        archive = open_archive(remote, ROOT, self.resources, expected_members)
        assert archive.index is not None
        return archive


@contextlib.contextmanager
def make_harness(
    *,
    block_bytes: int = 32 << 20,
    span_bytes: int = 24 << 20,
    window_bytes: int = 16 << 20,
    checkpoints: int = 384,
    interrupted: Callable[[], bool] = lambda: False,
    limit_s: float = 90.0,
) -> Iterator[ArchiveHarness]:
    """Yield an engine. Calls that still wait after the test or *limit_s* are interrupted."""
    closed = threading.Event()
    deadline_s = time.monotonic() + limit_s
    store, decoding = DaemonPool(16), DaemonPool(2)
    resources = ArchiveResources(
        pool=store,
        decoding=decoding,
        saving=DaemonPool(1),
        waiter=Waiter(lambda: closed.is_set() or time.monotonic() > deadline_s or interrupted()),
        stats=Stats(),
        blocks=ExtentCache(block_bytes),
        spans=ExtentCache(span_bytes),
        read_ahead_budget=ReadAheadBudget(window_bytes),
        checkpoint_budget=CheckpointBudget(checkpoints),
        sequential_files_budget=ReadAheadBudget(SEQUENTIAL_FILES_BYTES),
        decode_budget=ReadAheadBudget(DECODE_AHEAD_BYTES),
        idle=IdleDecoderCache(),
        long_builds=LongBuilds(),
    )
    try:
        yield ArchiveHarness(resources, store, decoding)
    finally:
        closed.set()


def member(archive: Archive, path: str) -> Member:
    """Return the member at *path*."""
    found = archive.index.lookup(path)
    assert isinstance(found, Member), path
    return found


def read_all(archive: Archive, path: str, chunk: int = 128 << 10) -> bytes:
    """Return the whole member, read sequentially through one handle."""
    reader = archive.open_member(member(archive, path))
    pieces: list[Buffer] = []
    try:
        at = 0
        while piece := reader.read_at(at, chunk):
            pieces.append(piece)
            at += len(piece)
    finally:
        reader.close()
    return b"".join(pieces)


def run_threads(
    calls: Sequence[Callable[[], object]], timeout_s: float = 60.0, *, name: str = "reader"
) -> None:
    """Run *calls* concurrently; raise the first exception, fail if a call does not end."""
    failures: list[BaseException] = []

    def guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=guarded, args=(call,), daemon=True, name=f"{name}-{number}")
        for number, call in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


def read_in_turns(items: Iterable[T], read: Callable[[T], None], readers: int) -> None:
    """Call *read* for each item with several threads; each takes the next item when it is free."""
    waiting, lock = iter(items), threading.Lock()

    def take_turns() -> None:
        while True:
            with lock:
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            read(item)

    run_threads([take_turns] * readers)


class SlowResponses:
    """Delays responses, and counts how many of them were in flight at once, at most."""

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
