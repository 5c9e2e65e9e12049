"""Read-ahead that learns: how far to fetch beyond what was asked, from how a reader has moved.

A window starts at nothing, doubles while reads follow each other and falls back to nothing when
they jump. The windows of all readers together are bounded, so memory is.
"""

import threading
import time
from typing import Final

from taskfs.blocks import BLOCK, MAX_RUN, BlockReader

TOTAL_WINDOW: Final = 12 << 20
FIRST_WINDOW: Final = 2 * BLOCK
# The kernel sends the reads of one `cat` out of order, by a few requests of 128 KiB.
SLACK: Final = 1 << 20
PARALLEL: Final = 6
IDLE_S: Final = 1.0


class Windows:
    """The room for read-ahead that all streams of a mount share. Safe for concurrent use."""

    def __init__(self, total_bytes: int = TOTAL_WINDOW) -> None:
        self._total = total_bytes
        self._lock = threading.Lock()
        self._used: dict[int, float] = {}  # when each stream last asked, by its identity

    def share(self, stream: object) -> int:
        """Return how many bytes *stream* may be ahead of its reader now."""
        now = time.monotonic()
        with self._lock:
            self._used[id(stream)] = now
            if len(self._used) > 1:
                self._used = {k: at for k, at in self._used.items() if now - at < IDLE_S}
            return max(4 * BLOCK, self._total // len(self._used))

    def leave(self, stream: object) -> None:
        """*stream* reads ahead no more."""
        with self._lock:
            self._used.pop(id(stream), None)


class Stream:
    """One reader's way through [start, limit) of an object. Safe for concurrent use."""

    def __init__(self, blocks: BlockReader, windows: Windows, start: int, limit: int) -> None:
        self._blocks = blocks
        self._windows = windows
        self._limit = limit
        self._lock = threading.Lock()
        self._expected = start
        self._ahead = start
        self._window = 0
        self._reads = 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Return the bytes [offset, offset + size) of the object, fetching ahead if that pays."""
        stop = min(offset + size, self._limit)
        with self._lock:
            begin, end, run_bytes = self._advance(offset, stop)
        if begin < end:
            self._blocks.schedule(begin, end, run_bytes)
        return self._blocks.read_at(offset, stop - offset)

    def close(self) -> None:
        """Give the stream's share of the room back."""
        with self._lock:
            self._reset()

    def _reset(self) -> None:
        self._window = 0
        self._reads = 0
        self._windows.leave(self)

    def _advance(self, offset: int, stop: int) -> tuple[int, int, int]:
        """Return the range to fetch ahead now, empty for none, and the length of its requests."""
        if not self._expected - SLACK <= offset <= self._expected + SLACK:
            self._reset()
            self._expected = self._ahead = stop
            return 0, 0, 0
        self._expected = max(self._expected, stop)
        self._reads += 1
        if self._reads == 1:
            # One read tells nothing: whoever wants a file's head leaves after it.
            self._ahead = stop
            return 0, 0, 0
        self._window = min(max(FIRST_WINDOW, 2 * self._window), self._windows.share(self))
        target = min(self._limit, self._expected + self._window)
        begin = max(self._ahead, offset)
        run_bytes = min(MAX_RUN, max(BLOCK, self._window // PARALLEL))
        if target - begin < run_bytes and target < self._limit:
            return 0, 0, 0
        self._ahead = max(self._ahead, target)
        return begin, target, run_bytes


class Walk:
    """Members of one archive read to their ends in turn, as `cp -r` and `grep -r` do.

    Then what lies behind the last one is fetched too, at most as much again as was read, so that
    many small files cost few requests. Safe for concurrent use.
    """

    def __init__(self, blocks: BlockReader, windows: Windows) -> None:
        self._blocks = blocks
        self._windows = windows
        self._lock = threading.Lock()
        self._reached = 0
        self._ahead = 0
        self._read = 0

    def passed(self, start: int, stop: int) -> None:
        """Note that the member stored at [start, stop) was read to its end."""
        with self._lock:
            near = max(SLACK, self._ahead - self._reached)
            if not self._reached - near <= start <= max(self._reached, self._ahead) + SLACK:
                self._read = 0
                self._reached = self._ahead = stop
                return
            self._read += stop - start
            self._reached = max(self._reached, stop)
            window = min(self._read, self._windows.share(self))
            target = self._reached + window
            begin = max(self._ahead, self._reached)
            if target - begin < max(BLOCK, window // 2):
                return
            self._ahead = target
        self._blocks.schedule(begin, target)
