"""Read-ahead that learns: how far to fetch beyond what was asked, from how a reader has moved.

The window is a multiple of what a reader has read on without a jump, so what is fetched in vain is
bounded by what was wanted, and it falls back to nothing with a jump. The windows of all readers
together are bounded, so memory is.
"""

import threading
import time
from typing import Final

from taskfs.cache.block_reader import MAX_RUN, BlockReader
from taskfs.cache.memory_cache import BLOCK
from taskfs.support.buffers import Buffer

# Less than half of the blocks' memory: what is read stays there beside what will be.
TOTAL_WINDOW: Final = 20 << 20
# The kernel sends the reads of one `cat` out of order, by up to 8 requests of 128 KiB.
SLACK_READS: Final = 8
SLACK: Final = 1 << 20
PARALLEL: Final = 5
FIRST_RUN: Final = 4 * BLOCK  # shorter requests cost more than they bring
IDLE_S: Final = 2.0


class ReadAheadBudget:
    """The room for read-ahead that all streams of a mount share. Safe for concurrent use.

    `takes_ready` tells that whoever reads takes what is there ahead of it at once.
    """

    def __init__(self, total_bytes: int = TOTAL_WINDOW) -> None:
        self.takes_ready = False
        self._total = total_bytes
        self._lock = threading.Lock()
        self._used: dict[int, float] = {}  # when each stream last asked, by its identity

    def allowance(self, stream: object) -> int:
        """Return how many bytes *stream* may be ahead of its reader now."""
        now = time.monotonic()
        with self._lock:
            mine = id(stream)
            others = sum(now - at < IDLE_S for key, at in self._used.items() if key != mine)
            return self._total // (others + 1)

    def register(self, stream: object) -> None:
        """*stream* has just asked for bytes ahead of its reader: it counts for a while."""
        now = time.monotonic()
        with self._lock:
            self._used[id(stream)] = now
            if len(self._used) > 1:
                self._used = {k: at for k, at in self._used.items() if now - at < IDLE_S}

    def unregister(self, stream: object) -> None:
        """*stream* reads ahead no more."""
        with self._lock:
            self._used.pop(id(stream), None)


class SequentialDetector:
    """How far a reader has read on without a jump. Not safe for concurrent use."""

    def __init__(self, start: int) -> None:
        self.reached = start
        self._first_stop = start
        self._read = 0

    def note(self, start: int, stop: int, slack: int) -> int:
        """Note a read of [start, stop); return the bytes read on since the first one.

        0 after a jump of more than *slack* bytes, and while less than half of what lies between
        was read: a reader that picks is not one that reads on.
        """
        if self._read == 0 or not self.reached - slack <= start <= self.reached + slack:
            self.reached = self._first_stop = stop
            self._read = stop - start
            return 0
        self.reached = max(self.reached, stop)
        gained = self.reached - self._first_stop
        self._read = min(self._read + stop - start, gained + slack)
        return gained if 2 * self._read >= gained else 0


class ReadAheadReader:
    """One reader's way through [start, limit) of an object. Safe for concurrent use."""

    def __init__(
        self, blocks: BlockReader, windows: ReadAheadBudget, start: int, limit: int
    ) -> None:
        self._blocks = blocks
        self._windows = windows
        self._limit = limit
        self._lock = threading.Lock()
        self._progress = SequentialDetector(start)
        self._ahead = start  # what lies before it was asked for

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of the object, fetching ahead if that pays."""
        size = self._note(offset, size)
        return self._blocks.read_at(offset, size)

    def read_some(self, offset: int, size: int) -> Buffer:
        """Return the first of these bytes, as `BlockReader.read_some`, fetching ahead as well."""
        size = self._note(offset, size)
        return self._blocks.read_some(offset, size)

    read_for_push = read_at

    def take_pushable(self) -> range:
        """Return the bytes that a reader in order wants next and that cost no wait: told once."""
        return range(0)

    def close(self) -> None:
        """Give the stream's share of the room back."""
        self._windows.unregister(self)

    def _note(self, offset: int, size: int) -> int:
        """Fetch ahead for who reads *size* bytes from *offset* on; return how many there are."""
        stop = min(offset + size, self._limit)
        with self._lock:
            begin, end, run_bytes = self._advance(offset, stop)
        # What is here already, or on its way for somebody else, takes no room of this stream's.
        if begin < end and self._blocks.prefetch(begin, end, run_bytes):
            self._windows.register(self)
        return stop - offset

    def _advance(self, offset: int, stop: int) -> tuple[int, int, int]:
        """Return the range to fetch ahead now, empty for none, and the length of its requests."""
        slack = min(SLACK, max(BLOCK, SLACK_READS * (stop - offset)))
        gained = self._progress.note(offset, stop, slack)
        reached = self._progress.reached
        if not gained:
            self._ahead = reached
            return 0, 0, 0
        window = min(2 * gained, self._windows.allowance(self))
        target = min(self._limit, reached + window)
        begin = max(self._ahead, offset)
        run_bytes = min(MAX_RUN, max(FIRST_RUN, window // PARALLEL // BLOCK * BLOCK))
        if target < self._limit:
            target -= (target - begin // BLOCK * BLOCK) % run_bytes  # whole requests
        if window < BLOCK or target <= begin:
            return 0, 0, 0
        self._ahead = max(self._ahead, target)
        return begin, target, run_bytes
