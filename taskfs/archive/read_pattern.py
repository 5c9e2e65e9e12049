"""`ReadPattern`: how one member is read, in order or not, and how far ahead of that to decode."""

from typing import Final

from taskfs.archive.decode_cursor import SPAN

FIRST_AHEAD: Final = 8
AHEAD_SPANS: Final = 32
# The kernel sends the reads of one `cat` out of order, a few spans at most.
DISORDER: Final = 8
STREAK: Final = 2
# The kernel asks for so much first where a program reads 36 KiB or more at once; else for less.
BULK: Final = 128 << 10


def is_bulk(offset: int, stop: int) -> bool:
    """Whether who begins with [offset, stop) is to read on: it does not look at a file's head."""
    return not offset and stop >= BULK


class ReadPattern:
    """What the readers of one member asked for. Not safe for concurrent use.

    One *in turn*, after others that were read to their ends, is expected to be read in order too.
    """

    def __init__(self, *, is_in_turn: bool = False) -> None:
        self.asked = 0  # what lies before this byte was read, or told to be ready
        self.reached = 0  # the span behind the last one that was read
        self.has_jumped = False  # with the last read
        # Reads that went on without a jump.
        self._streak = STREAK if is_in_turn else 0
        self._start = 0  # the span that they began with

    @property
    def is_in_order(self) -> bool:
        """Whether the member is read on and on."""
        return self._streak >= STREAK

    @property
    def ahead(self) -> int:
        """How many spans ahead of the readers it pays to decode: as many again, and more."""
        return min(AHEAD_SPANS, max(FIRST_AHEAD, 2 * (self.reached - self._start)))

    def note(self, offset: int, stop: int) -> None:
        """Note that somebody reads [offset, stop)."""
        is_near = abs(offset - self.asked) <= DISORDER * SPAN
        self.asked = max(self.asked, stop) if is_near else stop
        first, behind = offset // SPAN, -(-stop // SPAN)
        self.has_jumped = False
        if first < self.reached + DISORDER and self.reached < behind:
            self._streak += 1
            self.reached = behind
        elif not self.reached - DISORDER <= first + 1 <= self.reached:
            self.has_jumped = True
            self._streak = 0
            self.reached, self._start = behind, first
        if is_bulk(offset, stop):
            self._streak = max(self._streak, STREAK)
