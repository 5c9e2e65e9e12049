"""Seekable decompression: random access to the decoded bytes of one compressed member.

The decoded bytes are cut into spans of `SPAN`. A cursor decodes forward and leaves every span in a
bounded cache, and every few MiB a checkpoint: a copy of the decoder's state, from which a later
read starts instead of from the first byte. All of a member's chains start at its first byte, so
whoever reaches its end knows the CRC-32 of the whole.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

from taskfs.archive.decode_cursor import SPAN, Checkpoint, DecodeCursor, Source
from taskfs.archive.decoder_limits import CheckpointBudget
from taskfs.archive.decoders import Decoder
from taskfs.archive.read_pattern import AHEAD_SPANS, DISORDER, ReadPattern
from taskfs.archive.span_waiters import SpanWaiter, WaitQueue
from taskfs.cache.memory_cache import Extent, ExtentCache, next_owner
from taskfs.cache.readahead import ReadAheadBudget
from taskfs.errors import CorruptData, TaskFSError, Unsupported
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter

FIRST_SPACING: Final = 4 << 20
MAX_CHECKPOINTS: Final = 128  # of one member; then every other one goes and the spacing doubles
MAX_CURSORS: Final = 4
# Spans decoded at once for who reads in order: most are put among the kernel's pages unasked.
STRETCH: Final = 16


class SeekableDecoder:
    """Random access to the decoded bytes of one member.

    Safe for concurrent use: a lock guards the cursors and checkpoints; decoding runs outside of it,
    by the one thread that has marked its cursor busy. Others that need a span this cursor will
    pass wait for it.
    """

    def __init__(
        self,
        make_decoder: Callable[[], Decoder],
        open_source: Callable[[int], Source],
        *,
        size: int,
        crc: int,
        spans: ExtentCache,
        room: CheckpointBudget,
        pool: Executor,
        waiter: Waiter,
        windows: ReadAheadBudget | None = None,
        is_in_turn: bool = False,
    ) -> None:
        self.size = size
        self.verified = False
        self._crc = crc
        self._make_decoder = make_decoder
        self._open_source = open_source
        self._spans = spans
        self._room = room
        self._pool = pool
        self._waiter = waiter
        self._windows = windows or ReadAheadBudget(AHEAD_SPANS * SPAN)
        self._id = next_owner()
        self._lock = threading.Lock()
        self._sleepers = WaitQueue()
        self._cursors: list[DecodeCursor] = []
        self._checkpoints: list[Checkpoint] = []
        self._spacing = FIRST_SPACING
        self._pace = ReadPattern(is_in_turn=is_in_turn)
        self._ahead_until = 0  # a span: the run ahead goes that far
        self._ahead_running = False
        self._ahead_starting = False  # no cursor is driven by it yet

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the decoded bytes [offset, offset + size), fewer only at the member's end.

        Raises:
            CorruptData: damaged data, or a size or CRC-32 that does not match; the CRC is known,
                and checked, before the member's last byte is returned.
            Interrupted: the caller gave up; what was decoded stays.
        """
        stop = min(offset + size, self.size)
        if offset < stop:
            self._note(offset, stop)
        pieces = []
        while offset < stop:
            piece = self._piece(offset, stop)
            pieces.append(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def take_pushable(self) -> range:
        """Return the bytes that a reader in order wants next and that are decoded: told once.

        The member's last span is none of them: who reads to the end is to be known by that.
        """
        with self._lock:
            self._windows.takes_ready = True
            start = self._pace.asked
            last = (self.size - 1) // SPAN * SPAN
            if not self._pace.is_in_order or start >= last:
                return range(0)
            extent = self._spans.find(self._id, start // SPAN)
            if extent is None:
                return range(0)
            self._pace.asked = min(last, extent.first * SPAN + len(extent.body))
            return range(start, self._pace.asked)

    def verify(self) -> None:
        """Decode to the member's end, keeping what fits: raise CorruptData now or never."""
        if not self.verified:
            self._piece(max(0, self.size - 1), self.size)

    @property
    def is_costly(self) -> bool:
        """Whether it holds checkpoints."""
        return bool(self._checkpoints)

    def forget(self) -> None:
        """Let go of the checkpoints and of the cursors that nobody drives."""
        self._windows.unregister(self)
        with self._lock:
            self._checkpoints.clear()
            for cursor in [c for c in self._cursors if not c.busy]:
                self._discard(cursor)

    def close(self) -> None:
        """Give up what is held; reads after that start again."""
        self.forget()
        self._room.unregister(self)
        self._spans.drop(self._id, 0, self.size // SPAN)

    def _piece(self, offset: int, stop: int) -> memoryview:
        """Return the bytes from *offset* on, as far as they lie in one piece, at most to *stop*."""
        index = offset // SPAN
        begin = index * SPAN
        was_patient = False
        while True:
            found = self._claim(index, offset - begin if was_patient else None)
            if isinstance(found, SpanWaiter):
                was_patient = not found.sleep()
                if was_patient:
                    self._waiter.check()
                continue
            if isinstance(found, DecodeCursor):
                stop = min(stop, begin + SPAN)
                try:
                    span = self._drive(found, index, stop - begin)
                finally:
                    self._release(found)
                if self._checkpoints:
                    self._room.note(self, len(self._checkpoints))
            else:
                span = found
            piece = span[offset - begin : stop - begin]
            if self._pace.is_in_order:
                # What readers in order have left behind makes room before what they come to.
                self._spans.demote(self._id, (offset + len(piece)) // SPAN - DISORDER - 1)
            return piece

    def _claim(
        self, index: int, wanted: int | None = None
    ) -> memoryview | DecodeCursor | SpanWaiter:
        """Return the span if it is there, else the cursor that is nearest before it, now busy.

        If another thread drives that, it may be about to pass: return what to wait with. Who has
        waited tells which byte of the span is *wanted*, and gets what is decoded from there on.
        """
        with self._lock:
            extent = self._spans.find(self._id, index)
            if extent is not None:
                return memoryview(extent.body)[(index - extent.first) * SPAN :]
            cursor = self._nearest(index)
            if self._ahead_starting and wanted is None:
                return self._sleepers.add(index)  # it decodes more at once
            if cursor.busy:
                at = index * SPAN - cursor.out
                stop = min(cursor.decoded, self.size - 1 - cursor.out)  # the last byte is checked
                if wanted is not None and at + wanted < stop:
                    return cursor.stretch[at:stop]
                return self._sleepers.add(index)
            cursor.busy = True
            return cursor

    def _release(self, cursor: DecodeCursor) -> None:
        cursor.rest()
        with self._lock:
            cursor.busy = False
            if cursor.is_at_end:
                self._discard(cursor)
            is_to_run = self._may_run()
            self._sleepers.wake()
        if is_to_run:
            self._pool.submit(self._run_ahead)

    def _nearest(self, index: int) -> DecodeCursor:
        """Return the cursor with the shortest way to the span, a new one where that is nearer."""
        behind = [c for c in self._cursors if c.out <= index * SPAN]
        best = max(behind, key=lambda c: c.out + c.decoded, default=None)
        before = bisect_right(self._checkpoints, index * SPAN, key=lambda mark: mark.out)
        mark = self._checkpoints[before - 1] if before else None
        if best is not None and (mark is None or mark.out <= best.out):
            self._cursors.remove(best)
            self._cursors.append(best)
            return best
        if mark is not None:
            cursor = DecodeCursor.at(mark, self._open_source(mark.fed), self.size, self._crc)
        else:
            cursor = DecodeCursor(self._make_decoder(), self._open_source(0), self.size, self._crc)
        self._cursors.append(cursor)
        idle = [c for c in self._cursors[:-1] if not c.busy]
        for old in idle[: max(0, len(self._cursors) - MAX_CURSORS)]:
            self._discard(old)
        return cursor

    def _discard(self, cursor: DecodeCursor) -> None:
        if cursor in self._cursors:
            self._cursors.remove(cursor)
            cursor.source.close()

    def _drive(self, cursor: DecodeCursor, index: int, stop: int) -> memoryview:
        """Decode until the span *index* is there, or as much of it as [0, stop) needs; return it.

        Of a member that is decoded at once, what is not at hand is not waited for beyond that.
        The member's last bytes are there only once its end was seen and its CRC-32 is right.
        """
        start = index * SPAN
        is_last = start + stop >= self.size
        while True:
            at = cursor.out
            spans = self._spans_at_once()
            is_there = start - at + stop <= cursor.decoded and not is_last
            if is_there and (spans == 1 or not cursor.may_go_on):
                return cursor.stretch[start - at :]
            stretch = self._step(cursor, spans)
            if stretch is not None and (start < cursor.out or cursor.is_at_end):
                return stretch[start - at :]
            self._waiter.check()

    def _is_at_once(self) -> bool:
        """Whether who reads in order decodes all there is: it is little, and goes to the kernel as
        one piece, so that no other thread has to be woken, nor this one again."""
        is_little = self.size <= STRETCH * SPAN
        return is_little and self._windows.takes_ready and self._pace.is_in_order

    def _spans_at_once(self) -> int:
        """Return how many spans a reader decodes at once that only waits for the first of them."""
        if not self._is_at_once():
            return 1
        # It goes out as soon as it is decoded: what is decoded ahead stays for longer.
        return max(1, min(STRETCH, 2 * self._windows.allowance(self) // SPAN))

    def _step(self, cursor: DecodeCursor, spans: int) -> memoryview | None:
        """Decode what one piece gives; return the stretch if that completed it, and keep it."""
        try:
            stretch = cursor.advance(spans)
        except (CorruptData, Unsupported):
            with self._lock:
                self._discard(cursor)
            raise
        if stretch is None:
            return None
        with self._lock:
            # At once: who finds the cursor past a span must find the span too.
            index, count = cursor.out // SPAN, -(-len(stretch) // SPAN)
            self._spans.put(Extent(self._id, index, count, stretch))
            cursor.go_on()
            self.verified = self.verified or cursor.is_at_end
            self._sleepers.wake(range(index, index + count))
        if cursor.out % self._spacing == 0 and not cursor.is_at_end:
            self._mark(cursor)
        return stretch

    def _mark(self, cursor: DecodeCursor) -> None:
        """Leave a checkpoint where the cursor is, if there is none yet."""
        with self._lock:
            if any(mark.out == cursor.out for mark in self._checkpoints):
                return
            mark = cursor.checkpoint()
            if mark is None:
                return
            self._checkpoints.append(mark)
            self._checkpoints.sort(key=lambda mark: mark.out)
            while len(self._checkpoints) > MAX_CHECKPOINTS:
                self._spacing *= 2
                kept = [mark for mark in self._checkpoints if mark.out % self._spacing == 0]
                self._checkpoints = kept
            count = len(self._checkpoints)
        self._room.note(self, count)

    def _note(self, offset: int, stop: int) -> None:
        """Follow how the member is read: one read in order is decoded ahead."""
        with self._lock:
            pace = self._pace
            pace.note(offset, stop)
            if pace.has_jumped:
                self._ahead_until = 0
            if pace.reached * SPAN >= self.size:
                self._windows.unregister(self)  # the next one's: this one has come to its end
                return
            if not pace.is_in_order:
                return
            if self._is_at_once():
                self._windows.register(self)
                return
            # Decoded ahead is only what stays until it is read, however many members are.
            share = self._windows.allowance(self) // (1 if self._windows.takes_ready else 4)
            ahead = min(pace.ahead, share // SPAN)
            # To wake a thread costs as much as to decode a span: it sleeps while half is there.
            is_enough = pace.reached + ahead // 2 <= self._ahead_until
            if not ahead or (is_enough and not self._ahead_running):
                return
            self._windows.register(self)
            self._ahead_until = pace.reached + ahead
            is_to_run = self._may_run()
        if is_to_run:
            self._pool.submit(self._run_ahead)

    def _may_run(self) -> bool:
        """Whether a run ahead is to be started: then it counts as running."""
        if self._ahead_running:
            return False
        cursor = self._idle_near(self._pace.reached)
        if cursor is None or cursor.out >= self._ahead_stop() * SPAN:
            return False
        self._ahead_running = self._ahead_starting = True
        return True

    def _run_ahead(self) -> None:
        """Decode the spans before the reader, until far enough ahead or anything is wrong."""
        try:
            while (cursor := self._claim_ahead()) is not None:
                try:
                    while (room := self._ahead_stop() - cursor.out // SPAN) > 0:
                        to_mark = (self._spacing - cursor.out % self._spacing) // SPAN
                        # A power of two: such buffers are used again.
                        spans = 1 << min(STRETCH, room, to_mark).bit_length() - 1
                        while self._step(cursor, spans) is None:
                            self._waiter.check()
                        if cursor.is_at_end:
                            break
                finally:
                    self._release(cursor)
        except BaseException as exc:
            with self._lock:
                self._ahead_running = False
            if not isinstance(exc, TaskFSError):
                raise
            # Whoever reads there meets the same failure, and is told.

    def _claim_ahead(self) -> DecodeCursor | None:
        """Return the cursor that decodes ahead, now busy; None, the run being over, if none need.

        Never back: what a small cache lost again is the reader's to decode.
        """
        with self._lock:
            self._ahead_starting = False
            cursor = self._idle_near(self._pace.reached)
            if cursor is None or cursor.out >= self._ahead_stop() * SPAN:
                self._ahead_running = False
                self._sleepers.wake()
                return None
            cursor.busy = True
            return cursor

    def _ahead_stop(self) -> int:
        """Return the span before which the run ahead ends."""
        return min(self._ahead_until, -(-self.size // SPAN))

    def _idle_near(self, index: int) -> DecodeCursor | None:
        """Return a cursor that nobody drives and that the reader of *index* has just used."""
        first, last = (index - AHEAD_SPANS) * SPAN, (index + AHEAD_SPANS) * SPAN
        near = [c for c in self._cursors if not c.busy and first <= c.out <= last]
        return max(near, key=lambda c: c.out, default=None)
