"""`CursorPool`: the cursors and checkpoints of one member."""

from bisect import bisect_right
from collections.abc import Callable
from operator import attrgetter
from typing import Final

from taskfs.archive.bounds import SPAN
from taskfs.archive.decode_cursor import Checkpoint, CompressedSource, DecodeCursor
from taskfs.archive.decoders import Decoder

# Decoded bytes between two checkpoints, at first.
FIRST_SPACING: Final = 32 * SPAN
# Checkpoints of one member. At this number every other one is dropped and the spacing doubles.
MAX_CHECKPOINTS: Final = 128
# Cursors of one member: a few readers at different offsets. A new one replaces an idle one.
MAX_CURSORS: Final = 6
# Checkpoints from the disk cache that stay in memory, with 32 KiB each.
MAX_FROM_DISK: Final = 4


class CursorPool:
    """Cursors that decode one member, and checkpoints from which new ones start.

    Not safe for concurrent use: the caller holds the lock of the member's `SpanDecoder`.
    """

    def __init__(
        self,
        make_decoder: Callable[[], Decoder],
        open_source: Callable[[int], CompressedSource],
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
        self._from_disk: list[Checkpoint] = []  # the oldest first

    def nearest(self, index: int) -> DecodeCursor:
        """Return the cursor that reaches span *index* with the least decoding; it may be busy.

        A new one is made where a checkpoint, or the member's start, is nearer.
        """
        best, checkpoint = self._nearest_cursor(index), self._nearest_checkpoint(index)
        if best is not None and (
            checkpoint is None or checkpoint.output_offset <= best.output_offset
        ):
            self._cursors.remove(best)
            self._cursors.append(best)
            return best
        if checkpoint is not None:
            return self.add(checkpoint)
        source = self._open_source(0)
        return self._add(DecodeCursor(self._make_decoder(), source, self._size, self._crc))

    def reach(self, index: int) -> int | None:
        """Return the offset at which `nearest` would begin; None if that cursor is busy."""
        best, checkpoint = self._nearest_cursor(index), self._nearest_checkpoint(index)
        reached = checkpoint.output_offset if checkpoint is not None else 0
        if best is None or best.output_offset < reached:
            return reached
        return None if best.busy else best.output_offset

    def _nearest_cursor(self, index: int) -> DecodeCursor | None:
        earlier = [c for c in self._cursors if c.output_offset <= index * SPAN]
        return max(earlier, key=lambda c: c.output_offset + c.decoded, default=None)

    def _nearest_checkpoint(self, index: int) -> Checkpoint | None:
        before = bisect_right(self.checkpoints, index * SPAN, key=attrgetter("output_offset"))
        checkpoints = [m for m in self._from_disk if m.output_offset <= index * SPAN]
        checkpoints += self.checkpoints[before - 1 : before] if before else []
        return max(checkpoints, key=attrgetter("output_offset"), default=None)

    def add_from_disk(self, checkpoint: Checkpoint) -> None:
        """Add a checkpoint from the disk cache; drop the oldest of them if there are too many."""
        self._from_disk = [*self._from_disk[1 - MAX_FROM_DISK :], checkpoint]

    def forget_from_disk(self) -> None:
        """Drop all checkpoints, and the cursors that began at one from the disk cache."""
        self._from_disk = []
        self.checkpoints = []
        for cursor in [c for c in self._cursors if c.is_from_disk]:
            self.discard(cursor)

    def idle_between(self, first: int, stop: int) -> list[DecodeCursor]:
        """Return the idle cursors whose offsets are in [first, stop)."""
        return [c for c in self._cursors if not c.busy and first <= c.output_offset < stop]

    def add(self, checkpoint: Checkpoint) -> DecodeCursor:
        """Return a new cursor that begins at *checkpoint*."""
        source = self._open_source(checkpoint.input_offset)
        return self._add(DecodeCursor.at(checkpoint, source, self._size, self._crc))

    def _add(self, cursor: DecodeCursor) -> DecodeCursor:
        self._cursors.append(cursor)
        idle = [c for c in self._cursors[:-1] if not c.busy]
        for old in idle[: max(0, len(self._cursors) - MAX_CURSORS)]:
            self.discard(old)
        return cursor

    def __contains__(self, cursor: DecodeCursor) -> bool:
        return cursor in self._cursors

    def discard(self, cursor: DecodeCursor) -> None:
        """Close *cursor*, unless that was done before."""
        if cursor in self._cursors:
            self._cursors.remove(cursor)
            cursor.source.close()

    def clear(self) -> None:
        """Drop the checkpoints, and the cursors that are idle."""
        self.checkpoints, self._from_disk = [], []
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
