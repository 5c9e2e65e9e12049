"""Seekable decompression: random access to the decoded bytes of one compressed member.

The decoded bytes are cut into spans of `SPAN` bytes. A cursor decodes forward, puts every span into
a bounded cache, and every few MiB leaves a checkpoint: a copy of the decoder's state, from which a
later read starts instead of from the first byte. Each chain of decoding starts at the member's
first byte, so the cursor that reaches the end knows the CRC-32 of the whole member.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor

from taskfs.archive.bounds import DISORDER_SPANS, MAX_STEP_SPANS, SPAN
from taskfs.archive.cursor_pool import CursorPool
from taskfs.archive.decode_ahead import AheadState, DecodeAhead
from taskfs.archive.decode_cursor import DecodeCursor, Source
from taskfs.archive.decoder_limits import CheckpointBudget
from taskfs.archive.decoders import Decoder
from taskfs.archive.span_waiters import WaitQueue
from taskfs.cache.memory_cache import Extent, ExtentCache, next_owner
from taskfs.cache.readahead import ReadAheadBudget
from taskfs.errors import CorruptData, TaskFSError, Unsupported
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.wait_hook import announce_wait


class SeekableDecoder:
    """Random access to the decoded bytes of one member.

    Safe for concurrent use: one lock guards the cursors, the checkpoints and the state of
    decoding ahead.
    Decoding happens outside of it, by the one thread that has marked its cursor busy. Other
    threads that need a span of that cursor wait for it.
    """

    def __init__(
        self,
        make_decoder: Callable[[], Decoder],
        open_source: Callable[[int], Source],
        *,
        size: int,
        crc: int,
        spans: ExtentCache,
        checkpoints: CheckpointBudget,
        pool: Executor,
        waiter: Waiter,
        budget: ReadAheadBudget,
        in_sequence: bool = False,
        push_enabled: bool = False,
    ) -> None:
        self.size = size
        self.verified = False
        self._spans = spans
        self._checkpoint_budget = checkpoints
        self._pool = pool
        self._waiter = waiter
        self._id = next_owner()
        self._lock = threading.Lock()
        self._waiters = WaitQueue()
        self._cursors = CursorPool(make_decoder, open_source, size, crc)
        self._ahead = DecodeAhead(size, budget, in_sequence=in_sequence, push_enabled=push_enabled)

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the decoded bytes [offset, offset + size), fewer only at the member's end.

        Raises:
            CorruptData: damaged data, or a size or CRC-32 that does not match. The CRC-32 is known,
                and checked, before the member's last byte is returned.
            Interrupted: the caller's request was interrupted; what was decoded stays cached.
        """
        stop = min(offset + size, self.size)
        if offset < stop:
            with self._lock:
                starts_ahead = self._ahead.note(offset, stop) and self._start_ahead()
            if starts_ahead:
                self._pool.submit(self._decode_ahead)
        pieces = []
        while offset < stop:
            piece = self._piece(offset, stop)
            pieces.append(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def take_pushable(self) -> range:
        """Return decoded bytes that a sequential reader needs next; each byte is returned once.

        The last span is never among them: a read of it shows that the member is read to its end.
        """
        with self._lock:
            pattern = self._ahead.pattern
            start = pattern.next_offset
            last = (self.size - 1) // SPAN * SPAN
            if not pattern.is_in_order or start >= last:
                return range(0)
            extent = self._spans.find(self._id, start // SPAN)
            if extent is None:
                return range(0)
            pattern.next_offset = min(last, extent.first * SPAN + len(extent.body))
            return range(start, pattern.next_offset)

    def verify(self) -> None:
        """Decode to the member's end; raise CorruptData if the member is damaged."""
        if not self.verified:
            self._piece(max(0, self.size - 1), self.size)

    @property
    def checkpoint_count(self) -> int:
        """How many checkpoints it holds."""
        return len(self._cursors.checkpoints)

    def forget(self) -> None:
        """Drop the checkpoints and the idle cursors."""
        self._ahead.close()
        with self._lock:
            self._cursors.clear()

    def close(self) -> None:
        """Drop everything it holds; a later read starts again."""
        self.forget()
        self._checkpoint_budget.unregister(self)
        self._spans.drop(self._id, 0, self.size // SPAN)

    def _piece(self, offset: int, stop: int) -> memoryview:
        """Return the bytes from *offset* on that lie in one piece, at most up to *stop*."""
        index = offset // SPAN
        begin = index * SPAN
        has_waited = False
        while True:
            with self._lock:
                span = self._find_span(index, offset - begin if has_waited else None)
                cursor = self._claim_cursor(index, has_waited) if span is None else None
                if span is None and cursor is None:
                    waiter = self._waiters.add(index)
            if cursor is not None:
                stop = min(stop, begin + SPAN)
                announce_wait()
                try:
                    span = self._decode_until(cursor, index, stop - begin)
                finally:
                    self._release(cursor)
                if count := self.checkpoint_count:
                    self._checkpoint_budget.note(self, count)
            elif span is None:
                has_waited = not waiter.wait()
                if has_waited:
                    self._waiter.check()
                continue
            piece = span[offset - begin : stop - begin]
            if self._ahead.pattern.is_in_order:
                # Spans before a sequential reader's position are evicted before those after it.
                passed = (offset + len(piece)) // SPAN - DISORDER_SPANS - 1
                self._spans.demote(self._id, passed)
            return piece

    def _find_span(self, index: int, wanted: int | None) -> memoryview | None:
        """Return the span *index* if it is cached. The caller holds the lock.

        A thread that waited too long for another thread's cursor passes the byte of the span that
        it has *wanted*. It gets what that cursor has decoded of the span, if the byte is there.
        """
        extent = self._spans.find(self._id, index)
        if extent is not None:
            return memoryview(extent.body)[(index - extent.first) * SPAN :]
        if wanted is None:
            return None
        cursor = self._cursors.nearest(index)
        at = index * SPAN - cursor.output_offset
        # Without the member's last byte: the CRC-32 is checked before it is returned.
        stop = min(cursor.decoded, self.size - 1 - cursor.output_offset)
        return cursor.output[at:stop] if cursor.busy and at + wanted < stop else None

    def _claim_cursor(self, index: int, has_waited: bool) -> DecodeCursor | None:
        """Return the nearest cursor before span *index*, now busy. The caller holds the lock.

        Return None if another thread uses that cursor, or is about to: decoding ahead decodes more
        at once.
        """
        cursor = self._cursors.nearest(index)
        if cursor.busy or (self._ahead.state is AheadState.STARTING and not has_waited):
            return None
        cursor.busy = True
        return cursor

    def _release(self, cursor: DecodeCursor) -> None:
        cursor.release_input()
        with self._lock:
            cursor.busy = False
            if cursor.is_at_end:
                self._cursors.discard(cursor)
            starts_ahead = self._start_ahead()
            self._waiters.wake()
        if starts_ahead:
            self._pool.submit(self._decode_ahead)

    def _decode_until(self, cursor: DecodeCursor, index: int, stop: int) -> memoryview:
        """Decode until the bytes [0, stop) of the span *index* are there; return the span so far.

        A member that is decoded at once gives more, as far as its input is in memory. The member's
        last bytes are returned only after its end was seen and its CRC-32 is right.
        """
        start = index * SPAN
        is_last = start + stop >= self.size
        while True:
            spans = self._ahead.step_spans()
            is_there = start - cursor.output_offset + stop <= cursor.decoded and not is_last
            if is_there and (spans == 1 or not cursor.has_input):
                return cursor.output[start - cursor.output_offset :]
            at = cursor.output_offset
            output = self._step(cursor, spans)
            if output is not None and (start < cursor.output_offset or cursor.is_at_end):
                return output[start - at :]
            self._waiter.check()

    def _step(self, cursor: DecodeCursor, spans: int) -> memoryview | None:
        """Decode what one piece gives; if that completed the output, cache it and return it."""
        try:
            output = cursor.advance(spans)
        except (CorruptData, Unsupported):
            with self._lock:
                self._cursors.discard(cursor)
            raise
        if output is None:
            return None
        with self._lock:
            # In one step, so that a thread that finds the cursor past a span finds the span too.
            index, count = cursor.output_offset // SPAN, -(-len(output) // SPAN)
            self._spans.put(Extent(self._id, index, count, output))
            cursor.commit()
            self.verified = self.verified or cursor.is_at_end
            self._waiters.wake(range(index, index + count))
        if cursor.output_offset % self._cursors.spacing == 0 and not cursor.is_at_end:
            self._add_checkpoint(cursor)
        return output

    def _add_checkpoint(self, cursor: DecodeCursor) -> None:
        with self._lock:
            if not self._cursors.add_checkpoint(cursor):
                return
            count = self.checkpoint_count
        self._checkpoint_budget.note(self, count)

    def _start_ahead(self) -> bool:
        """Whether to decode ahead; if so, it counts as starting. The caller holds the lock."""
        if self._ahead.state is not AheadState.IDLE or self._cursor_to_advance() is None:
            return False
        self._ahead.state = AheadState.STARTING
        return True

    def _cursor_to_advance(self) -> DecodeCursor | None:
        """Return the reader's idle cursor if it should decode ahead. The caller holds the lock.

        It never goes back: a span that a small cache has evicted again is left to the reader.
        """
        cursor = self._cursors.idle_near(self._ahead.pattern.next_span)
        if cursor is None or cursor.output_offset >= self._ahead.stop_span * SPAN:
            return None
        return cursor

    def _decode_ahead(self) -> None:
        """Decode the spans before the reader, until far enough ahead or until a failure."""
        try:
            while (cursor := self._claim_cursor_ahead()) is not None:
                try:
                    while (left := self._ahead.stop_span - cursor.output_offset // SPAN) > 0:
                        spacing = self._cursors.spacing
                        to_checkpoint = (spacing - cursor.output_offset % spacing) // SPAN
                        # A power of two, because buffers of such sizes are pooled.
                        spans = 1 << min(MAX_STEP_SPANS, left, to_checkpoint).bit_length() - 1
                        while self._step(cursor, spans) is None:
                            self._waiter.check()
                        if cursor.is_at_end:
                            break
                finally:
                    self._release(cursor)
        except BaseException as exc:
            with self._lock:
                self._ahead.state = AheadState.IDLE
            if not isinstance(exc, TaskFSError):
                raise
            # A reader of these bytes meets the same failure, and reports it.

    def _claim_cursor_ahead(self) -> DecodeCursor | None:
        """Return the cursor to decode ahead with, now busy, or None at its end."""
        with self._lock:
            cursor = self._cursor_to_advance()
            if cursor is None:
                self._ahead.state = AheadState.IDLE
                self._waiters.wake()
                return None
            self._ahead.state = AheadState.RUNNING
            cursor.busy = True
            return cursor
