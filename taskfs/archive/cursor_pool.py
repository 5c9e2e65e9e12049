"""`CursorPool`: the cursors and checkpoints of one member."""

from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from typing import Final

from taskfs.archive.bounds import MAX_AHEAD_SPANS, SPAN
from taskfs.archive.decode_cursor import Checkpoint, DecodeCursor, Source
from taskfs.archive.decoders import Decoder

# Decoded bytes between two checkpoints, at first.
FIRST_SPACING: Final = 4 << 20
# Checkpoints of one member; beyond it every other one is dropped and the spacing doubles.
MAX_CHECKPOINTS: Final = 128
MAX_CURSORS: Final = 4


class CursorPool:
    """Cursors that decode one member, and checkpoints from which new ones start.

    Not safe for concurrent use: the caller holds the lock of the member's `SeekableDecoder`.
    """

    def __init__(
        self,
        make_decoder: Callable[[], Decoder],
        open_source: Callable[[int], Source],
        size: int,
        crc: int,
    ) -> None:
        self.checkpoints: list[Checkpoint] = []  # in the order of their output
        self.spacing = FIRST_SPACING
        self._make_decoder = make_decoder
        self._open_source = open_source
        self._size = size
        self._crc = crc
        self._cursors: list[DecodeCursor] = []  # the least recently used first

    def nearest(self, index: int) -> DecodeCursor:
        """Return the cursor that reaches span *index* with the least decoding; it may be busy.

        A new one is made where a checkpoint, or the member's start, is nearer.
        """
        earlier = [c for c in self._cursors if c.output_offset <= index * SPAN]
        best = max(earlier, key=lambda c: c.output_offset + c.decoded, default=None)
        before = bisect_right(self.checkpoints, index * SPAN, key=attrgetter("output_offset"))
        checkpoint = self.checkpoints[before - 1] if before else None
        if best is not None and (
            checkpoint is None or checkpoint.output_offset <= best.output_offset
        ):
            self._cursors.remove(best)
            self._cursors.append(best)
            return best
        if checkpoint is not None:
            cursor = DecodeCursor.at(
                checkpoint, self._open_source(checkpoint.input_offset), self._size, self._crc
            )
        else:
            cursor = DecodeCursor(self._make_decoder(), self._open_source(0), self._size, self._crc)
        self._cursors.append(cursor)
        idle = [c for c in self._cursors[:-1] if not c.busy]
        for old in idle[: max(0, len(self._cursors) - MAX_CURSORS)]:
            self.discard(old)
        return cursor

    def idle_near(self, index: int) -> DecodeCursor | None:
        """Return the foremost idle cursor near span *index*, where a sequential reader is."""
        first, last = (index - MAX_AHEAD_SPANS) * SPAN, (index + MAX_AHEAD_SPANS) * SPAN
        near = [c for c in self._cursors if not c.busy and first <= c.output_offset <= last]
        return max(near, key=attrgetter("output_offset"), default=None)

    def discard(self, cursor: DecodeCursor) -> None:
        """Close *cursor*, unless that was done before."""
        if cursor in self._cursors:
            self._cursors.remove(cursor)
            cursor.source.close()

    def clear(self) -> None:
        """Drop the checkpoints, and the cursors that are idle."""
        self.checkpoints = []
        for cursor in [c for c in self._cursors if not c.busy]:
            self.discard(cursor)

    def add_checkpoint(self, cursor: DecodeCursor) -> bool:
        """Keep a checkpoint where *cursor* is; return False if one exists or none can be made."""
        if any(checkpoint.output_offset == cursor.output_offset for checkpoint in self.checkpoints):
            return False
        checkpoint = cursor.checkpoint()
        if checkpoint is None:
            return False
        self.checkpoints = sorted([*self.checkpoints, checkpoint], key=attrgetter("output_offset"))
        while len(self.checkpoints) > MAX_CHECKPOINTS:
            self.spacing *= 2
            self.checkpoints = [m for m in self.checkpoints if m.output_offset % self.spacing == 0]
        return True
