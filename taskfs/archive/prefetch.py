"""`Prefetcher`: what to fetch beyond the members that programs read, from the order of the members.

It follows the order in which the members of one archive are opened, read and closed. `read_pattern`
follows the reads of one member; `bounds` has the figures of both.
"""

import contextlib
import enum
import threading
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence

from taskfs.archive.bounds import (
    BACKWARD_MEMBERS,
    HEAD_BYTES,
    HEAD_READ,
    HEADS_AHEAD,
    MAX_OPEN_BYTES,
    RECENT_MEMBERS,
    SAMPLE_EVERY,
    SEQUENTIAL_FILES_GROWTH,
)
from taskfs.archive.index import ArchiveIndex
from taskfs.archive.local_header import LocalHeaders
from taskfs.archive.member import Member
from taskfs.cache.block_reader import MAX_RUN, BlockReader
from taskfs.cache.readahead import (
    FIRST_RUN,
    SLACK,
    SLACK_READS,
    ReadAheadBudget,
    SequentialDetector,
)
from taskfs.errors import CacheChanged


class AccessPattern(enum.Enum):
    """How programs go through the members of one archive."""

    RANDOM = enum.auto()
    SEQUENTIAL = enum.auto()  # members are read to their ends, one after another
    HEADS = enum.auto()  # only their first bytes are read


class SequentialMembers:
    """Fetches the next members while members are read to their ends, one after another.

    Many small files then cost few requests. Safe for concurrent use.

    With *backward*, the next members are those before: ripgrep, for example, reads the files of a
    directory from the last to the first. All offsets are negated then.
    """

    def __init__(
        self, blocks: BlockReader, budget: ReadAheadBudget, *, backward: bool = False
    ) -> None:
        self._blocks = blocks
        self._budget = budget
        self._backward = backward
        self._lock = threading.Lock()
        self._detector = SequentialDetector(0)
        self._ahead = 0  # the end of the bytes that were requested
        self._run = 0  # members of the sequence so far
        self._recent: deque[int] = deque(maxlen=RECENT_MEMBERS)  # where they start

    def note_read_to_end(self, start: int, stop: int, open_bytes: int) -> int | None:
        """Note that the member at [start, stop) was read; return the length of the sequence so far.

        The length is in bytes beyond the first member; 0 means that there is no sequence. Return
        None for a member that was read lately: it does not show whether the sequence continues.
        *open_bytes* is the size of the other members that are open for reading.
        """
        open_bytes = min(open_bytes, MAX_OPEN_BYTES)
        if self._backward:
            start, stop = -stop, -start
        with self._lock:
            if start in self._recent:
                return None
            self._recent.append(start)
            # Several readers finish out of order, within what they read and what was fetched.
            slack = max(SLACK, self._ahead - self._detector.end_offset, open_bytes)
            advance = self._detector.note(start, stop, slack)
            self._run = self._run + 1 if advance else 0
            if self._backward and self._run < BACKWARD_MEMBERS:
                advance = 0
            if not advance:
                self._ahead = self._detector.end_offset
            return advance

    def fetch_ahead(self, advance: int, open_bytes: int) -> None:
        """Fetch the next members of a sequence that is *advance* bytes long."""
        open_bytes = min(open_bytes, MAX_OPEN_BYTES)
        with self._lock:
            reached = self._detector.end_offset
            window = min(SEQUENTIAL_FILES_GROWTH * advance, self._budget.allowance(self))
            # The open members were fetched for their readers: only the bytes after them are ahead.
            target = reached + min(open_bytes, window) + window
            begin = max(self._ahead, reached)
            if target - begin < min(MAX_RUN, max(FIRST_RUN // 2, window // 2)):
                return
            # If there is enough for a request of the greatest length, send only such requests.
            target -= (target - begin) % MAX_RUN if target - begin > MAX_RUN else 0
            self._ahead = target
        if self._backward:
            begin, target = max(0, -target), -begin
        if self._blocks.prefetch(begin, target):
            self._budget.register(self)


class HeadPrefetcher:
    """Fetches the heads of the next members while only heads of members are read.

    A head is the first bytes of a member, with its local header.

    Each would cost a round trip of its own. Safe for concurrent use.
    """

    def __init__(self, blocks: BlockReader, index: ArchiveIndex) -> None:
        self._blocks = blocks
        self._index = index
        self._lock = threading.Lock()
        self._starts: Sequence[int] = ()  # of all members, in the order of their bytes
        self.memory_bytes = 0  # of the offsets, where the index does not have them in this order
        self._detector = SequentialDetector(0)  # counts members
        self._ahead = 0

    def note_read(self, start: int) -> None:
        """Note that no more than the head of the member at *start* was read."""
        # No reader needs what is fetched here, so none fails if the index is lost.
        with contextlib.suppress(CacheChanged):
            for following in self._following(start):
                self._blocks.prefetch(following, following + HEAD_BYTES)

    def _following(self, start: int) -> Sequence[int]:
        """Return where the members begin whose heads are to be fetched now."""
        with self._lock:
            if not self._starts:
                self._starts = starts = self._index.sorted_starts()
                if isinstance(starts, array):
                    self.memory_bytes = len(starts) * starts.itemsize
            position = bisect_left(self._starts, start)
            advance = self._detector.note(position, position + 1, SLACK_READS)
            reached = self._detector.end_offset
            begin = max(self._ahead, reached) if advance else reached
            self._ahead = max(begin, reached + min(advance, HEADS_AHEAD))
            return self._starts[begin : self._ahead]


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
        self._forward = SequentialMembers(blocks, budget)
        self._backward = SequentialMembers(blocks, budget, backward=True)
        self._heads = HeadPrefetcher(blocks, index)
        # By member number: pushed when it was opened.
        self._pushed = bytearray(index.number_stop)

    @property
    def memory_bytes(self) -> int:
        """The memory that grows with the number of members, in bytes."""
        return len(self._pushed) + self._heads.memory_bytes

    @property
    def is_sequential(self) -> bool:
        """Whether the next member is expected to be read to its end as well."""
        return self.pattern is AccessPattern.SEQUENTIAL

    def note_read_to_end(self, member: Member) -> None:
        """Note that *member* was read to its end, or is about to be."""
        start = member.header_offset
        stop = start + member.compressed_size
        open_bytes = self._other_open_bytes(member)
        advance = self._forward.note_read_to_end(start, stop, open_bytes)
        if advance is None:
            return
        # Readers that finish out of order make a short sequence in the other direction too.
        direction = self._forward
        backward = self._backward.note_read_to_end(start, stop, open_bytes) or 0
        if backward > advance:
            direction, advance = self._backward, backward
        if advance:
            direction.fetch_ahead(advance, open_bytes)
        self.pattern = AccessPattern.SEQUENTIAL if advance else AccessPattern.RANDOM

    def note_closed(self, member: Member, reached: int) -> None:
        """Note that a handle on *member* was closed, whose reads ended before byte *reached*."""
        if 0 < reached <= min(HEAD_READ, member.size - 1):
            self.pattern = AccessPattern.HEADS
            self._heads.note_read(member.header_offset)
        elif member.size and not reached and not self._pushed[member.number]:
            self.pattern = AccessPattern.RANDOM

    def should_push_on_open(self, member: Member) -> bool:
        """Whether to push the whole member into the page cache on open; true at most once.

        True while members are read to their ends and the bytes are in memory. Every 16th member is
        skipped: if the kernel does not ask for its bytes, programs only open the files.
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
