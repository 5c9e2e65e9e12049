"""`ReadPattern`: whether one member is read in order, and how far ahead of that to decode."""

from taskfs.archive.bounds import (
    DISORDER_SPANS,
    LONG_FIRST_READ,
    MAX_AHEAD_SPANS,
    MIN_AHEAD_SPANS,
    SPAN,
    STREAK_READS,
)


def is_long_first_read(offset: int, stop: int) -> bool:
    """Whether a read of [offset, stop) begins a member and is so long that its program reads on."""
    return not offset and stop >= LONG_FIRST_READ


class ReadPattern:
    """The reads of one member, through all handles. Not safe for concurrent use.

    A member that is opened *in_sequence*, after others that were read to their ends, is expected to
    be read in order too.
    """

    def __init__(self, *, in_sequence: bool = False) -> None:
        self.next_offset = 0  # the bytes before it were read, or pushed
        self.next_span = 0  # the span after the last one that was read
        self.has_jumped = False  # with the last read
        self.max_spans = MAX_AHEAD_SPANS
        self._streak = STREAK_READS if in_sequence else 0  # reads since the last jump
        self._first_span = 0  # of the streak

    @property
    def is_in_order(self) -> bool:
        """Whether the member is read sequentially."""
        return self._streak >= STREAK_READS

    @property
    def readahead_spans(self) -> int:
        """How many spans ahead of the readers to decode: twice what was read since the jump."""
        read = self.next_span - self._first_span
        return min(self.max_spans, max(MIN_AHEAD_SPANS, 2 * read))

    def note(self, offset: int, stop: int) -> None:
        """Note a read of the decoded bytes [offset, stop)."""
        is_near = abs(offset - self.next_offset) <= DISORDER_SPANS * SPAN
        self.next_offset = max(self.next_offset, stop) if is_near else stop
        first, after = offset // SPAN, -(-stop // SPAN)
        self.has_jumped = False
        if first < self.next_span + DISORDER_SPANS and self.next_span < after:
            self._streak += 1
            self.next_span = after
        elif not self.next_span - DISORDER_SPANS <= first + 1 <= self.next_span:
            self.has_jumped = True
            self._streak = 0
            self.next_span, self._first_span = after, first
        if is_long_first_read(offset, stop):
            self._streak = max(self._streak, STREAK_READS)
