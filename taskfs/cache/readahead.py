"""Read-ahead: how far to fetch beyond a read, from the reads before it.

The window is at most twice what was read since the last jump, so at most twice the bytes that are
read are fetched and not used. A jump closes the window. The windows of all readers together are
bounded, and so is memory.
"""

import threading
import time
from typing import Final

from taskfs.cache.block import BLOCK
from taskfs.cache.block_reader import MAX_RUN, BlockReader
from taskfs.support.buffers import Buffer
from taskfs.support.private_memory import MemoryLimit, UnlimitedMemory

# Bytes of all windows together: less than two thirds of the block cache, which also holds what was
# read.
TOTAL_WINDOW: Final = 20 << 20
# The kernel sends the reads of one `cat` out of order, by up to 8 requests of 128 KiB.
SLACK_READS: Final = 8
SLACK: Final = 1 << 20  # bytes
PARALLEL: Final = 5  # requests that share one window
# Bytes of the shortest request: the round trip of a shorter one costs more than its bytes.
FIRST_RUN: Final = 4 * BLOCK
IDLE_S: Final = 2.0  # a reader counts for this long after it last fetched ahead


class ReadAheadBudget:
    """The bytes of read-ahead that all readers of a process share.

    They are a quarter of *total_bytes* while *memory* is tight. Safe for concurrent use.
    """

    def __init__(self, total_bytes: int, memory: MemoryLimit | None = None) -> None:
        self._total = total_bytes
        self._memory = memory or UnlimitedMemory()
        self._lock = threading.Lock()
        self._used: dict[int, float] = {}  # when each reader last fetched ahead, by its identity

    def allowance(self, reader: object) -> int:
        """Return how many bytes *reader* may be ahead now: an equal share."""
        now = time.monotonic()
        with self._lock:
            mine = id(reader)
            others = sum(now - at < IDLE_S for key, at in self._used.items() if key != mine)
            return self._memory.bound(self._total) // (others + 1)

    def register(self, reader: object) -> None:
        """Count *reader* for a while: it has just fetched ahead."""
        now = time.monotonic()
        with self._lock:
            self._used[id(reader)] = now
            if len(self._used) > 1:
                self._used = {k: at for k, at in self._used.items() if now - at < IDLE_S}

    def unregister(self, reader: object) -> None:
        """Stop counting *reader*."""
        with self._lock:
            self._used.pop(id(reader), None)


class SequentialDetector:
    """Measures how far a reader has read since its last jump. Not safe for concurrent use."""

    def __init__(self, start: int) -> None:
        self.end_offset = start
        self._first_stop = start
        self._read = 0

    def note(self, start: int, stop: int, slack: int) -> int:
        """Note a read of [start, stop); return how many bytes it is past its first read.

        Return 0 after a jump of more than *slack*, and while less than half of the bytes between
        were read: a reader that skips most bytes is not sequential.
        """
        if self._read == 0 or not self.end_offset - slack <= start <= self.end_offset + slack:
            self.end_offset = self._first_stop = stop
            self._read = stop - start
            return 0
        self.end_offset = max(self.end_offset, stop)
        advance = self.end_offset - self._first_stop
        self._read = min(self._read + stop - start, advance + slack)
        return advance if 2 * self._read >= advance else 0


class ReadAheadReader:
    """Reads [start, limit) of an object, and fetches ahead of a sequential reader.

    Safe for concurrent use.
    """

    def __init__(
        self, blocks: BlockReader, budget: ReadAheadBudget, start: int, limit: int
    ) -> None:
        self._blocks = blocks
        self._budget = budget
        self._limit = limit
        self._lock = threading.Lock()
        self._detector = SequentialDetector(start)
        self._ahead = start  # the end of the bytes that were requested
        self._passed = start  # the end of the bytes that were demoted

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of the object, and fetch ahead."""
        size = self._note(offset, size)
        return self._blocks.read_at(offset, size)

    def read_some(self, offset: int, size: int) -> Buffer:
        """Return the first of these bytes, as `BlockReader.read_some` does, and fetch ahead."""
        size = self._note(offset, size)
        return self._blocks.read_some(offset, size)

    def close(self) -> None:
        """Return the reader's share of the budget."""
        self._budget.unregister(self)

    def _note(self, offset: int, size: int) -> int:
        """Fetch ahead of a read of *size* bytes at *offset*; return how many of them exist."""
        stop = min(offset + size, self._limit)
        with self._lock:
            begin, end, run_bytes = self._advance(offset, stop)
            passed = self._passed
            self._passed = behind = max(passed, self._detector.end_offset - SLACK)
        # Blocks before a sequential reader's position are evicted before those after it.
        self._blocks.demote(passed, behind)
        # Blocks in memory, or in flight for another reader, use no share of this one.
        if begin < end and self._blocks.prefetch(begin, end, run_bytes):
            self._budget.register(self)
        return stop - offset

    def _advance(self, offset: int, stop: int) -> tuple[int, int, int]:
        """Return the range to fetch ahead now, possibly empty, and the length of its requests."""
        slack = min(SLACK, max(BLOCK, SLACK_READS * (stop - offset)))
        advance = self._detector.note(offset, stop, slack)
        end_offset = self._detector.end_offset
        if not advance:
            self._ahead = self._passed = end_offset
            return 0, 0, 0
        window = min(2 * advance, self._budget.allowance(self))
        target = min(self._limit, end_offset + window)
        begin = max(self._ahead, offset)
        run_bytes = min(MAX_RUN, max(FIRST_RUN, window // PARALLEL // BLOCK * BLOCK))
        if target < self._limit:
            target -= (target - begin // BLOCK * BLOCK) % run_bytes  # whole requests
        if window < BLOCK or target <= begin:
            return 0, 0, 0
        self._ahead = max(self._ahead, target)
        return begin, target, run_bytes
