"""`SpanDecoder`: moves the cursors of one member, and caches the spans that they decode."""

import threading

from taskfs.archive.bounds import MAX_STEP_SPANS, SPAN, STRETCH
from taskfs.archive.checkpoint_writer import CheckpointWriter
from taskfs.archive.cursor_pool import CursorPool
from taskfs.archive.decode_cursor import DecodeCursor
from taskfs.archive.decoder_limits import CheckpointBudget
from taskfs.archive.disk_checkpoints import DiskCheckpoints
from taskfs.archive.span_waiters import WaitQueue
from taskfs.cache.memory_cache import Extent, ExtentCache, next_owner
from taskfs.errors import CorruptData, Unsupported


class SpanDecoder:
    """The cursors, checkpoints and decoded spans of one member.

    Safe for concurrent use: `lock` guards `cursors`, `waiters` and the workers. Decoding happens
    outside of it, by the one thread that has marked its cursor busy.
    """

    def __init__(
        self,
        cursors: CursorPool,
        *,
        size: int,
        spans: ExtentCache,
        checkpoint_budget: CheckpointBudget,
        disk: DiskCheckpoints | None,
        writer: CheckpointWriter | None,
    ) -> None:
        self.lock = threading.Lock()
        self.cursors = cursors
        self.waiters = WaitQueue()
        self.size = size
        self.disk = disk
        self.writer = writer
        self.verified = False
        self._spans = spans
        self._checkpoint_budget = checkpoint_budget
        self._id = next_owner()

    def find(self, index: int) -> Extent | None:
        """Return the extent that holds span *index*, or None."""
        return self._spans.find(self._id, index)

    def demote(self, index: int) -> None:
        """Let the extent of span *index* be evicted next, if it has no later span."""
        self._spans.demote(self._id, index)

    def release(self, cursor: DecodeCursor) -> None:
        """Mark *cursor* as idle, and wake the threads that wait."""
        cursor.release_input()
        with self.lock:
            cursor.busy = False
            if cursor.is_at_end:
                self.cursors.discard(cursor)
            self.waiters.wake()

    def step(self, cursor: DecodeCursor, spans: int) -> memoryview | None:
        """Decode one piece of compressed bytes.

        Once the output of *spans* spans, or up to the member's end, is complete, cache and return
        it. Return None before that.

        Raises:
            CorruptData: damaged data, a size or CRC-32 that does not match, or a checkpoint of the
                disk cache that proved wrong.
        """
        try:
            output = cursor.advance(spans)
        except (CorruptData, Unsupported):
            with self.lock:
                self.cursors.discard(cursor)
            raise
        if output is None:
            return None
        with self.lock:
            # Another thread removed the cursor: `drop_disk_checkpoints`.
            if cursor.is_from_disk and cursor not in self.cursors:
                raise CorruptData("the checkpoint proved wrong")
            # In one step, so that a thread that finds the cursor past a span finds the span too.
            index, count = cursor.output_offset // SPAN, -(-len(output) // SPAN)
            self._spans.put(Extent(self._id, index, count, output))
            cursor.commit()
            self.verified = self.verified or cursor.is_at_end
            self.waiters.wake(range(index, index + count))
        if cursor.output_offset % self.cursors.spacing == 0 and not cursor.is_at_end:
            self._add_checkpoint(cursor)
        if self.writer is not None:
            self.writer.note(cursor, output)
        return output

    def largest_step(self, at: int, stop: int) -> int:
        """Return how many spans to decode in one call from byte *at*; 0 if less is left to *stop*.

        A step ends at each checkpoint. It is a power of two, because buffers of such sizes are
        pooled.
        """
        spacing = min(STRETCH, self.cursors.spacing)
        room = min(stop - at, spacing - at % spacing) // SPAN
        return 1 << min(MAX_STEP_SPANS, room).bit_length() - 1 if room > 0 else 0

    def note_use(self) -> None:
        """Note that the member was read: it keeps its checkpoints longer than others."""
        if count := len(self.cursors.checkpoints):
            self._checkpoint_budget.note(self, count)

    @property
    def checkpoint_count(self) -> int:
        """How many checkpoints it holds in memory."""
        return len(self.cursors.checkpoints)

    def forget(self) -> None:
        """Drop the checkpoints in memory and the idle cursors.

        Have the checkpoints saved on disk that cursors have passed.
        """
        if self.writer is not None:
            self.writer.flush()
        with self.lock:
            self.cursors.clear()

    def close(self) -> None:
        """Drop everything in memory; a later read starts again."""
        self.forget()
        self._checkpoint_budget.unregister(self)
        self._spans.drop(self._id, 0, self.size // SPAN)

    def drop_disk_checkpoints(self) -> None:
        """Drop all that may come from a wrong checkpoint of the disk cache.

        These are the checkpoints on disk and in memory, the cursors that began at one from the
        disk, and all decoded spans.
        """
        if self.disk is not None:
            self.disk.drop()
        with self.lock:
            self.cursors.forget_from_disk()
            self._spans.drop(self._id, 0, self.size // SPAN)

    def _add_checkpoint(self, cursor: DecodeCursor) -> None:
        with self.lock:
            if not self.cursors.add_checkpoint(cursor):
                return
        self.note_use()
