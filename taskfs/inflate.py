"""Seekable decompression: random access to the decoded bytes of one compressed member.

The decoded bytes are cut into spans of `SPAN`. A cursor decodes forward and leaves every span in a
bounded cache, and every few MiB a checkpoint: a copy of the decoder's state, from which a later
read starts instead of from the first byte. All of a member's chains start at its first byte, so
whoever reaches its end knows the CRC-32 of the whole.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Protocol

from taskfs.blocks import BlockCache, Extent, next_owner
from taskfs.buffers import Buffer
from taskfs.decoders import Decoder, crc32
from taskfs.errors import CorruptData, TaskFSError
from taskfs.readahead import Windows
from taskfs.rooms import CheckpointRoom
from taskfs.waiting import POLL_S, Waiter

SPAN: Final = 128 << 10
FIRST_SPACING: Final = 4 << 20
MAX_CHECKPOINTS: Final = 128  # of one member; then every other one goes and the spacing doubles
MAX_CURSORS: Final = 4
AHEAD_SPANS: Final = 16


class Source(Protocol):
    """The compressed bytes of one member, read forward by one cursor."""

    def piece(self, offset: int) -> Buffer:
        """Return some bytes from *offset* of the compressed data on; empty only at its end."""
        ...

    def close(self) -> None:
        """No more pieces are wanted."""
        ...


@dataclass(slots=True)
class _Checkpoint:
    out: int  # a multiple of SPAN
    fed: int
    thaw: Callable[[], Decoder]
    crc: int


class _Cursor:
    """One decoder on its way; `busy` while a thread drives it, and then only that thread may."""

    def __init__(self, decoder: Decoder, source: Source) -> None:
        self.decoder = decoder
        self.source = source
        self.out = 0  # where `span` begins, a multiple of SPAN
        self.fed = 0
        self.span = bytearray()  # the one at `out`, as far as `decoded`; never moved or resized
        self.decoded = 0
        self.is_hungry = True
        self.crc = 0
        self.busy = False


class Inflater:
    """Random access to the decoded bytes of one member.

    Safe for concurrent use: a condition guards the cursors and checkpoints; decoding runs outside
    of it, by the one thread that has marked its cursor busy. Others that need a span this cursor
    will pass wait for it.
    """

    def __init__(
        self,
        make_decoder: Callable[[], Decoder],
        open_source: Callable[[int], Source],
        *,
        size: int,
        crc: int,
        spans: BlockCache,
        room: CheckpointRoom,
        pool: Executor,
        waiter: Waiter,
        windows: Windows | None = None,
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
        self._windows = windows or Windows(AHEAD_SPANS * SPAN)
        self._id = next_owner()
        self._changed = threading.Condition()
        self._cursors: list[_Cursor] = []
        self._checkpoints: list[_Checkpoint] = []
        self._spacing = FIRST_SPACING
        self._last_span = -1
        self._streak = 0
        self._ahead = 0  # how many spans are decoded ahead
        self._ahead_until = 0  # a span: the run ahead goes that far
        self._ahead_running = False

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the decoded bytes [offset, offset + size), fewer only at the member's end.

        Raises:
            CorruptData: damaged data, or a size or CRC-32 that does not match; the CRC is known,
                and checked, before the member's last byte is returned.
            Interrupted: the caller gave up; what was decoded stays.
        """
        stop = min(offset + size, self.size)
        pieces = []
        while offset < stop:
            index = offset // SPAN
            end = min(stop, (index + 1) * SPAN)
            pieces.append(self._piece(index, offset - index * SPAN, end - index * SPAN))
            offset = end
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def verify(self) -> None:
        """Decode to the member's end, keeping what fits: raise CorruptData now or never."""
        if not self.verified:
            last = max(0, self.size - 1)
            self._piece(last // SPAN, 0, last % SPAN + 1 if self.size else 0)

    @property
    def is_costly(self) -> bool:
        """Whether it holds checkpoints."""
        return bool(self._checkpoints)

    def forget(self) -> None:
        """Let go of the checkpoints and of the cursors that nobody drives."""
        with self._changed:
            self._checkpoints.clear()
            for cursor in [c for c in self._cursors if not c.busy]:
                self._discard(cursor)

    def reset(self) -> None:
        """Forget everything decoded so far: it came from bytes that proved wrong."""
        self.forget()
        self.verified = False
        self._spans.drop(self._id, 0, self.size // SPAN)

    def close(self) -> None:
        """Give up what is held; reads after that start again."""
        self.forget()
        self._room.leave(self)
        self._spans.drop(self._id, 0, self.size // SPAN)

    def _piece(self, index: int, start: int, stop: int) -> memoryview:
        """Return the bytes [start, stop) of one span."""
        while True:
            span, cursor = self._claim(index)
            if span is not None:
                self._note_use(index)
                return memoryview(span)[start:stop]
            if cursor is None:
                self._waiter.check()
                continue
            try:
                span = self._drive(cursor, index, stop)
            finally:
                self._release(cursor)
            if self._checkpoints:
                self._room.note(self, len(self._checkpoints))
            self._note_use(index)
            return memoryview(span)[start:stop]

    def _claim(self, index: int) -> tuple[Buffer | None, _Cursor | None]:
        """Return the span if it is there, else the cursor that is nearest before it, now busy.

        Neither, after some waiting, if another thread drives that: it may be about to pass.
        """
        with self._changed:
            extent = self._spans.find(self._id, index)
            if extent is not None:
                return extent.body, None
            cursor = self._nearest(index)
            if cursor.busy:
                self._changed.wait(POLL_S)
                return None, None
            cursor.busy = True
            return None, cursor

    def _release(self, cursor: _Cursor) -> None:
        with self._changed:
            cursor.busy = False
            if cursor.out >= self.size:
                self._discard(cursor)
            self._changed.notify_all()

    def _nearest(self, index: int) -> _Cursor:
        """Return the cursor with the shortest way to the span, a new one where that is nearer."""
        behind = [c for c in self._cursors if c.out <= index * SPAN]
        best = max(behind, key=lambda c: c.out + c.decoded, default=None)
        marks = [c for c in self._checkpoints if c.out <= index * SPAN]
        mark = marks[-1] if marks else None
        if best is not None and (mark is None or mark.out <= best.out):
            self._cursors.remove(best)
            self._cursors.append(best)
            return best
        decoder = mark.thaw() if mark else self._make_decoder()
        cursor = _Cursor(decoder, self._open_source(mark.fed if mark else 0))
        if mark is not None:
            cursor.out, cursor.fed, cursor.crc = mark.out, mark.fed, mark.crc
            cursor.is_hungry = False
        self._cursors.append(cursor)
        idle = [c for c in self._cursors[:-1] if not c.busy]
        for old in idle[: max(0, len(self._cursors) - MAX_CURSORS)]:
            self._discard(old)
        return cursor

    def _discard(self, cursor: _Cursor) -> None:
        if cursor in self._cursors:
            self._cursors.remove(cursor)
            cursor.source.close()

    def _drive(self, cursor: _Cursor, index: int, stop: int) -> bytearray:
        """Decode until the span *index* is there, or as much of it as [0, stop) needs.

        The member's last bytes are there only once its end was seen and its CRC-32 is right.
        """
        is_last = index * SPAN + stop >= self.size
        try:
            while True:
                at = cursor.out
                if at == index * SPAN and cursor.decoded >= stop and not is_last:
                    return cursor.span
                span = self._step(cursor)
                if span is not None and at == index * SPAN:
                    return span
                self._waiter.check()
        except CorruptData:
            with self._changed:
                self._discard(cursor)
            raise

    def _step(self, cursor: _Cursor) -> bytearray | None:
        """Decode what one piece gives; return the span if that completed it, and keep it."""
        if not cursor.decoded:
            cursor.span = bytearray(min(SPAN, self.size - cursor.out))
        span = cursor.span
        if cursor.decoded < len(span):
            count, at_end = self._decode(cursor, memoryview(span)[cursor.decoded :])
            cursor.decoded += count
            if not count and (at_end or cursor.decoder.ended):
                reached = cursor.out + cursor.decoded
                raise CorruptData(f"the data ends after {reached} of {self.size} bytes")
            if cursor.decoded < len(span):
                return None
        crc = crc32(span, cursor.crc)
        if cursor.out + len(span) == self.size:
            self._finish(cursor, crc)
        cursor.crc = crc
        with self._changed:
            # At once: who finds the cursor past a span must find the span too.
            self._spans.put(Extent(self._id, cursor.out // SPAN, 1, span))
            cursor.out += len(span)
            cursor.decoded = 0
            self._changed.notify_all()
        if cursor.out % self._spacing == 0 and cursor.out < self.size:
            self._mark(cursor)
        return span

    @staticmethod
    def _decode(cursor: _Cursor, out: memoryview) -> tuple[int, bool]:
        """Fill some of *out*; return how much, and whether there is no more input to come."""
        at_end = False
        if cursor.is_hungry and not cursor.decoder.ended:
            piece = cursor.source.piece(cursor.fed)
            at_end = not len(piece)
            if not at_end:
                cursor.decoder.feed(piece)
                cursor.fed += len(piece)
        count = cursor.decoder.decode(out)
        cursor.is_hungry = count < len(out)
        return count, at_end

    def _finish(self, cursor: _Cursor, crc: int) -> None:
        """Check that the data ends here and is what the directory says."""
        while cursor.decoder.marks_end and not cursor.decoder.ended:
            count, at_end = self._decode(cursor, memoryview(bytearray(1)))
            if count:
                raise CorruptData(f"more data than the {self.size} bytes of the directory")
            if at_end and not cursor.decoder.ended:
                raise CorruptData("the data ends without an end mark")
        if crc != self._crc:
            raise CorruptData(f"CRC-32 {crc:08x} instead of {self._crc:08x}")
        self.verified = True

    def _mark(self, cursor: _Cursor) -> None:
        """Leave a checkpoint where the cursor is, if there is none yet."""
        with self._changed:
            if any(mark.out == cursor.out for mark in self._checkpoints):
                return
            thaw = cursor.decoder.freeze()
            if thaw is None:
                return
            fed = cursor.fed - cursor.decoder.unused
            mark = _Checkpoint(cursor.out, fed, thaw, cursor.crc)
            self._checkpoints.append(mark)
            self._checkpoints.sort(key=lambda mark: mark.out)
            if len(self._checkpoints) > MAX_CHECKPOINTS:
                self._spacing *= 2
                kept = [mark for mark in self._checkpoints if mark.out % self._spacing == 0]
                self._checkpoints = kept
            count = len(self._checkpoints)
        self._room.note(self, count)

    def _note_use(self, index: int) -> None:
        """Follow how the member is read: one read in order is decoded ahead."""
        with self._changed:
            if index != self._last_span:
                if index == self._last_span + 1:
                    self._streak += 1
                else:
                    self._streak = self._ahead_until = 0
                self._last_span = index
            if self._streak < 2 or (index + 1) * SPAN >= self.size:
                return
            if self._ahead_running:
                self._ahead_until = index + 1 + self._ahead
                return
            # To wake a thread costs as much as to decode a span: it sleeps while half is there.
            if index + self._ahead // 2 < self._ahead_until:
                return
            # Decoded ahead is only what stays until it is read, however many members are.
            self._ahead = min(AHEAD_SPANS, self._windows.share(self) // SPAN)
            if not self._ahead:
                return
            self._windows.enter(self)
            self._ahead_until = index + 1 + self._ahead
            self._ahead_running = True
        self._pool.submit(self._run_ahead)

    def _run_ahead(self) -> None:
        """Decode the spans before the reader, until far enough ahead or anything is wrong."""
        reached = 0
        try:
            while True:
                with self._changed:
                    # Never back: what a small cache lost again is the reader's to decode.
                    reached = max(reached, self._last_span + 1)
                    cursor = self._idle_near(reached) if reached < self._ahead_stop() else None
                    if cursor is None:
                        self._ahead_running = False
                        return
                    reached = max(reached, cursor.out // SPAN)
                    if reached >= self._ahead_stop():
                        self._ahead_running = False
                        return
                    cursor.busy = True
                try:
                    self._drive(cursor, reached, min(SPAN, self.size - reached * SPAN))
                finally:
                    self._release(cursor)
                reached += 1
        except BaseException as exc:
            with self._changed:
                self._ahead_running = False
            if not isinstance(exc, TaskFSError):
                raise
            # Whoever reads there meets the same failure, and is told.

    def _ahead_stop(self) -> int:
        """Return the span before which the run ahead ends."""
        return min(self._ahead_until, -(-self.size // SPAN)) if self._streak else 0

    def _idle_near(self, index: int) -> _Cursor | None:
        """Return a cursor that nobody drives and that the reader of *index* has just used."""
        first, last = (index - AHEAD_SPANS) * SPAN, (index + AHEAD_SPANS) * SPAN
        near = [c for c in self._cursors if not c.busy and first <= c.out <= last]
        return max(near, key=lambda c: c.out, default=None)
