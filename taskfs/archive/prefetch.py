"""Heuristics for what to fetch and decode before a program requests it.

This module holds the bounds of all access heuristics of the package. `ReadPattern` follows the
reads of one member; `Prefetcher` follows the order in which members are opened, read and closed.
"""

import enum
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from taskfs.archive.index import ArchiveIndex
from taskfs.archive.local_header import LocalHeaders
from taskfs.archive.member import Member
from taskfs.cache.block_reader import MAX_RUN, BlockReader
from taskfs.cache.memory_cache import BLOCK
from taskfs.cache.readahead import (
    FIRST_RUN,
    SLACK,
    SLACK_READS,
    ReadAheadBudget,
    SequentialDetector,
)

# --- One member, in decoded bytes. A span is the unit of decoding.
SPAN: Final = 128 << 10
# The kernel sends the reads of one sequential program out of order, a few spans at most.
DISORDER_SPANS: Final = 8
# Reads without a jump after which a member counts as read in order.
STREAK_READS: Final = 2
# Decode ahead twice what was read since the last jump, between these bounds.
MIN_AHEAD_SPANS: Final = 8
MAX_AHEAD_SPANS: Final = 32
# The kernel's first request is this long if the program reads 36 KiB or more at once, else shorter.
BULK_READ: Final = 128 << 10
# Decode up to this many spans in one call: most are pushed into the kernel's pages.
MAX_STEP_SPANS: Final = 16
# Bytes that all members together are decoded ahead: about half of the spans' memory.
DECODE_AHEAD_BYTES: Final = 8 << 20

# --- One member, in compressed bytes.
# A bulk read fetches a member of up to this size whole, in one request with its local header …
WHOLE_MEMBER: Final = 16 * BLOCK
# … and this much of a longer one.
EAGER_BYTES: Final = 4 * BLOCK
# The compressed bytes reach the decoder in pieces that double up to this size.
MAX_PIECE: Final = 16 * BLOCK

# --- Members that are read to their ends in turn (`cp -r`, `grep -r`).
# Bytes that all archives together fetch ahead of the members being read.
SEQUENTIAL_FILES_BYTES: Final = 12 << 20
# Fetch ahead this many times what was read in turn.
SEQUENTIAL_FILES_GROWTH: Final = 4
# Members read lately: a member that is read again does not advance the walk.
RECENT_MEMBERS: Final = 64
# Bytes of members that other readers hold open which count as fetched: more is no walk.
MAX_OPEN_BYTES: Final = 8 << 20
# One small member in this many is not pushed on open: if the kernel does not ask for it, no program
# reads the members.
SAMPLE_EVERY: Final = 16

# --- Members of which only the beginning is read in turn (file(1), a file manager).
# A close after at most this many decoded bytes counts as reading the beginning: one kernel request.
HEAD_READ: Final = 128 << 10
# Compressed bytes of a beginning with its local header, mostly enough.
HEAD_BYTES: Final = 8 << 10
# Beginnings that are fetched at once.
HEADS_AHEAD: Final = 16


class AccessPattern(enum.Enum):
    """How programs go through the members of one archive."""

    RANDOM = enum.auto()
    SEQUENTIAL = enum.auto()  # members are read to their ends in turn
    HEADS = enum.auto()  # only their beginnings are read


class SequentialMembers:
    """Fetches the bytes behind members that are read to their ends in turn.

    Many small files then cost few requests. Safe for concurrent use.
    """

    def __init__(self, blocks: BlockReader, budget: ReadAheadBudget) -> None:
        self._blocks = blocks
        self._budget = budget
        self._lock = threading.Lock()
        self._detector = SequentialDetector(0)
        self._ahead = 0  # the end of the bytes that were requested
        self._recent: deque[int] = deque(maxlen=RECENT_MEMBERS)  # where they start

    def note_read_to_end(self, start: int, stop: int, open_bytes: int) -> bool | None:
        """Note that the member at [start, stop) was read; return whether this continues a walk.

        *open_bytes* is the size of the other members that are open for reading. Return None for a
        member that was read lately: it does not show whether a walk continues.
        """
        open_bytes = min(open_bytes, MAX_OPEN_BYTES)
        with self._lock:
            if start in self._recent:
                return None
            self._recent.append(start)
            # Several readers finish out of order, within what they read and what was fetched.
            slack = max(SLACK, self._ahead - self._detector.end_offset, open_bytes)
            advance = self._detector.note(start, stop, slack)
            reached = self._detector.end_offset
            if not advance:
                self._ahead = reached
                return False
            window = min(SEQUENTIAL_FILES_GROWTH * advance, self._budget.allowance(self))
            # The open members were fetched for their readers: only what lies behind is ahead.
            target = reached + min(open_bytes, window) + window
            begin = max(self._ahead, reached)
            if target - begin < min(MAX_RUN, max(FIRST_RUN // 2, window // 2)):
                return True
            # Whole requests of the longest kind, where there is enough for one.
            target -= (target - begin) % MAX_RUN if target - begin > MAX_RUN else 0
            self._ahead = target
        if self._blocks.prefetch(begin, target):
            self._budget.register(self)
        return True


class HeadPrefetcher:
    """Fetches the beginnings of the next members where only beginnings are read in turn.

    Each would cost a round trip of its own. Safe for concurrent use.
    """

    def __init__(self, blocks: BlockReader, index: ArchiveIndex) -> None:
        self._blocks = blocks
        self._index = index
        self._lock = threading.Lock()
        self._starts: Sequence[int] = ()  # of all members, in the order of their bytes
        self._detector = SequentialDetector(0)  # counts members
        self._ahead = 0

    def note_read(self, start: int) -> None:
        """Note that no more than the beginning of the member at *start* was read."""
        with self._lock:
            if not self._starts:
                self._starts = self._index.sorted_starts()
            place = bisect_left(self._starts, start)
            advance = self._detector.note(place, place + 1, SLACK_READS)
            reached = self._detector.end_offset
            begin = max(self._ahead, reached) if advance else reached
            self._ahead = max(begin, reached + min(advance, HEADS_AHEAD))
            starts = self._starts[begin : self._ahead]
        for start in starts:
            self._blocks.prefetch(start, start + HEAD_BYTES)


class Prefetcher:
    """How the members of one archive are read, and what to fetch beyond them.

    `pattern` is the state; its parts are safe for concurrent use, and a state that lags behind a
    reader costs a request at most.
    """

    def __init__(
        self,
        blocks: BlockReader,
        headers: LocalHeaders,
        budget: ReadAheadBudget,
        index: ArchiveIndex,
        other_open_bytes: Callable[[Member], int],
    ) -> None:
        self.pattern = AccessPattern.RANDOM
        self._blocks = blocks
        self._headers = headers
        self._other_open_bytes = other_open_bytes
        self._sequential = SequentialMembers(blocks, budget)
        self._heads = HeadPrefetcher(blocks, index)
        # By member number: pushed when it was opened.
        self._pushed = bytearray(index.number_stop)

    @property
    def is_sequential(self) -> bool:
        """Whether the next member is expected to be read to its end as well."""
        return self.pattern is AccessPattern.SEQUENTIAL

    def note_read_to_end(self, member: Member) -> None:
        """Note that *member* was read to its end, or is about to be."""
        start = member.header_offset
        stop = start + member.compressed_size
        continues = self._sequential.note_read_to_end(start, stop, self._other_open_bytes(member))
        if continues is not None:
            self.pattern = AccessPattern.SEQUENTIAL if continues else AccessPattern.RANDOM

    def note_closed(self, member: Member, reached: int) -> None:
        """Note that a handle on *member* was closed, whose reads ended before byte *reached*."""
        if 0 < reached <= min(HEAD_READ, member.size - 1):
            self.pattern = AccessPattern.HEADS
            self._heads.note_read(member.header_offset)
        elif member.size and not reached and not self._pushed[member.number]:
            self.pattern = AccessPattern.RANDOM

    def should_push_on_open(self, member: Member) -> bool:
        """Whether to push the whole member into the page cache on open; true at most once.

        It is where members are read in turn and the bytes are in memory. Every 16th member is
        skipped: if the kernel does not ask for it, no program reads the members.
        """
        if (
            not self.is_sequential
            or member.number % SAMPLE_EVERY == 0
            or self._pushed[member.number]
            or not self._blocks.is_cached(member.header_offset, self._headers.stop_guess(member))
        ):
            return False
        self._pushed[member.number] = True
        self.note_read_to_end(member)
        return True
