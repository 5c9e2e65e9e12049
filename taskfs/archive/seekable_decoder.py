"""Seekable decompression: random access to the decoded bytes of one compressed member.

The decoded bytes are cut into spans of `SPAN` bytes. A cursor decodes forward, puts every span into
a bounded cache, and every few MiB leaves a checkpoint: a copy of the decoder's state, from which a
later read starts instead of from the first byte. Checkpoints in the disk cache serve other
processes, and later ones. A checkpoint carries the CRC-32 of the bytes before it, so a cursor that
reaches the end knows the CRC-32 of the whole member, wherever it started.
"""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

from taskfs.archive.ahead_workers import AheadWorkers
from taskfs.archive.bounds import DISORDER_SPANS, SPAN, STRETCH
from taskfs.archive.checkpoint_writer import SAVE_DELAY, CheckpointWriter
from taskfs.archive.cursor_pool import CursorPool
from taskfs.archive.decode_ahead import DecodeAhead
from taskfs.archive.decode_cursor import CompressedSource, DecodeCursor
from taskfs.archive.decoder_limits import CheckpointBudget
from taskfs.archive.decoders import Decoder
from taskfs.archive.disk_checkpoints import DiskCheckpoints
from taskfs.archive.span_decoder import SpanDecoder
from taskfs.cache.memory_cache import ExtentCache
from taskfs.cache.readahead import ReadAheadBudget
from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.wait_hook import announce_wait


class _LockedElsewhere(Exception):
    """Another process, or another reader, decodes the next stretch."""


def _raise_locked() -> None:
    raise _LockedElsewhere


class SeekableDecoder:
    """Random access to the decoded bytes of one member.

    Safe for concurrent use: the lock of its `SpanDecoder` guards the cursors, the checkpoints and
    the workers. Threads that need a span of a busy cursor wait for it.
    """

    def __init__(
        self,
        make_decoder: Callable[[], Decoder],
        open_source: Callable[[int], CompressedSource],
        *,
        size: int,
        crc: int,
        spans: ExtentCache,
        checkpoint_budget: CheckpointBudget,
        pool: Executor,
        waiter: Waiter,
        decode_budget: ReadAheadBudget,
        in_sequence: bool,
        push_enabled: bool,
        disk: DiskCheckpoints | None,
        saving: Executor,
        max_workers: int,
    ) -> None:
        """Create a decoder of the compressed bytes that *open_source* opens, by *make_decoder*.

        With *disk*, checkpoints are read from there, and saved there in threads of *saving*. Up to
        *max_workers* stretches are then decoded ahead at once, in threads of *pool*.
        """
        self.size = size
        self._waiter = waiter
        self._ahead = DecodeAhead(
            size, decode_budget, in_sequence=in_sequence, push_enabled=push_enabled
        )
        self._writer = None if disk is None else CheckpointWriter(disk, open_source, saving)
        self._decoder = SpanDecoder(
            CursorPool(make_decoder, open_source, size, crc),
            size=size,
            spans=spans,
            checkpoint_budget=checkpoint_budget,
            disk=disk,
            writer=self._writer,
        )
        self._workers = AheadWorkers(self._decoder, self._ahead, pool, waiter, max_workers)

    @property
    def verified(self) -> bool:
        """Whether a cursor has reached the end of the member, with the right CRC-32."""
        return self._decoder.verified

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the decoded bytes [offset, offset + size), fewer only at the member's end.

        Raises:
            CorruptData: damaged data, or a size or CRC-32 that does not match. The CRC-32 is known,
                and checked, before the member's last byte is returned.
            Interrupted: the caller's request was interrupted; what was decoded stays cached.
        """
        stop = min(offset + size, self.size)
        if offset < stop:
            with self._decoder.lock:
                starts = self._ahead.note(offset, stop, is_active=self._workers.is_active)
                if self._ahead.pattern.has_jumped:
                    self._workers.note_jump()
                starts = starts and self._workers.may_start()
            if starts:
                self._workers.start()
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
        with self._decoder.lock:
            pattern = self._ahead.pattern
            start = pattern.next_offset
            last = (self.size - 1) // SPAN * SPAN
            if not pattern.is_in_order or start >= last:
                return range(0)
            extent = self._decoder.find(start // SPAN)
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
        """How many checkpoints it holds in memory."""
        return self._decoder.checkpoint_count

    def drop_disk_checkpoints(self) -> None:
        """Drop all that may come from a wrong checkpoint of the disk cache.

        These are the checkpoints on disk and in memory, the cursors that began at one from the
        disk, and all decoded spans.
        """
        self._decoder.drop_disk_checkpoints()

    def close(self) -> None:
        """Drop everything it holds; a later read starts again."""
        self._ahead.close()
        self._decoder.close()

    def _piece(self, offset: int, stop: int) -> memoryview:
        """Return the bytes from *offset* on that lie in one piece, at most up to *stop*."""
        index = offset // SPAN
        begin = index * SPAN
        has_waited = False
        while True:
            cursor = reached = None
            with self._decoder.lock:
                span = self._find_span(index, offset - begin if has_waited else None)
                if span is None:
                    reached = self._distant_start(index)
                    if reached is None:
                        cursor = self._claim_cursor(index, has_waited)
                    if reached is None and cursor is None:
                        waiter = self._decoder.waiters.add(index)
            if reached is not None:
                announce_wait()
                self._approach(index, reached)
                continue
            if cursor is not None:
                stop = min(stop, begin + SPAN)
                announce_wait()
                span = self._decode_span(cursor, index, stop - begin)
                if span is None:
                    continue
            elif span is None:
                has_waited = not waiter.wait()
                if has_waited:
                    self._waiter.check()
                continue
            piece = span[offset - begin : stop - begin]
            if self._ahead.pattern.is_in_order:
                # Spans before a sequential reader's position are evicted before those after it.
                passed = (offset + len(piece)) // SPAN - DISORDER_SPANS - 1
                self._decoder.demote(passed)
            return piece

    def _find_span(self, index: int, offset: int | None) -> memoryview | None:
        """Return the span *index* if it is cached. The caller holds the lock.

        *offset* is a byte of the span; a thread that waited too long for another thread's cursor
        passes it. If that cursor has decoded the byte there, return the decoded part of the span.
        """
        extent = self._decoder.find(index)
        if extent is not None:
            return memoryview(extent.body)[(index - extent.first) * SPAN :]
        if offset is None:
            return None
        cursor = self._decoder.cursors.nearest(index)
        at = index * SPAN - cursor.output_offset
        # Without the member's last byte: the CRC-32 is checked before it is returned.
        stop = min(cursor.decoded, self.size - 1 - cursor.output_offset)
        return cursor.output[at:stop] if cursor.busy and at + offset < stop else None

    def _distant_start(self, index: int) -> int | None:
        """Return where decoding would start, if the disk may have a checkpoint nearer to the span.

        It would start at a cursor, at a checkpoint in memory, or at 0. Return None if that cursor
        is busy, or the start is less than a stretch before span *index*. The caller holds the lock.
        """
        if self._decoder.disk is None:
            return None
        reached = self._decoder.cursors.reach(index)
        return reached if reached is not None and index * SPAN - reached >= STRETCH else None

    def _claim_cursor(self, index: int, has_waited: bool) -> DecodeCursor | None:
        """Return the nearest cursor before span *index*, now busy. The caller holds the lock.

        Return None if another thread uses that cursor, or if a worker is about to take it: a worker
        decodes in longer steps.
        """
        cursor = self._decoder.cursors.nearest(index)
        if cursor.busy or (self._workers.is_starting and not has_waited):
            return None
        cursor.busy = True
        return cursor

    def _approach(self, index: int, reached: int) -> None:
        """Bring a checkpoint or a cursor nearer to span *index* than the byte *reached*.

        Without a checkpoint, decode one stretch after another. Another process that has to decode
        one of them as well waits for the checkpoint after it.
        """
        disk = self._decoder.disk
        assert disk is not None
        checkpoint = disk.nearest(index * SPAN, reached)
        if checkpoint is not None:
            with self._decoder.lock:
                self._decoder.cursors.add_from_disk(checkpoint)
            return
        with contextlib.ExitStack() as held:
            # Before the cursor is busy, because this may wait, and others may need the cursor.
            held.enter_context(disk.lock(reached // STRETCH + 1, self._waiter.check))
            if disk.nearest(index * SPAN, reached) is not None:
                return  # another process has made it meanwhile
            with self._decoder.lock:
                cursor = self._decoder.cursors.nearest(index)
                if cursor.busy or cursor.output_offset > reached:
                    return
                cursor.busy = True
            # The cursor stays busy from stretch to stretch, because to release it copies its input.
            with contextlib.suppress(_LockedElsewhere), self._moving(cursor):
                self._decode_stretch(cursor, index, held)
                while index * SPAN - cursor.output_offset >= STRETCH:
                    number = cursor.output_offset // STRETCH + 1
                    held.enter_context(disk.lock(number, _raise_locked))
                    if disk.nearest(index * SPAN, cursor.output_offset) is not None:
                        return
                    self._decode_stretch(cursor, index, held)

    def _decode_stretch(self, cursor: DecodeCursor, index: int, held: contextlib.ExitStack) -> None:
        """Decode `SAVE_DELAY` past the next checkpoint, so that it is saved, or up to span *index*.

        Release the lock in *held* once the checkpoint is saved.
        """
        number = cursor.output_offset // STRETCH + 1
        last = (number * STRETCH + SAVE_DELAY) // SPAN - 1  # the span that ends at that byte
        self._decode_until(cursor, min(index, last), 1)
        if self._writer is not None:
            self._writer.when_saved(number, held.pop_all().close)
        else:
            held.close()

    def _decode_span(self, cursor: DecodeCursor, index: int, stop: int) -> memoryview | None:
        """Decode as `_decode_until`, and release *cursor*.

        Return None if a checkpoint of the disk cache proved wrong: it was dropped.
        """
        span = None
        with self._moving(cursor):
            span = self._decode_until(cursor, index, stop)
        return span

    @contextlib.contextmanager
    def _moving(self, cursor: DecodeCursor) -> Iterator[None]:
        """Release *cursor* after the body, which moves it.

        If a checkpoint of the disk cache proved wrong in the body, drop it and end the body.
        """
        try:
            yield
        except CorruptData:
            if not cursor.is_from_disk:
                raise
            self._decoder.drop_disk_checkpoints()
        finally:
            self._decoder.release(cursor)
            with self._decoder.lock:
                starts = self._workers.may_start()
            if starts:
                self._workers.start()
        self._decoder.note_use()

    def _decode_until(self, cursor: DecodeCursor, index: int, stop: int) -> memoryview:
        """Decode until the bytes [0, stop) of the span *index* are there; return the span so far.

        A member that is decoded in one go, to be pushed, gives more, as far as its input is in
        memory. The member's last bytes are returned only after its end was seen and its CRC-32 is
        right.
        """
        start = index * SPAN
        is_last = start + stop >= self.size
        while True:
            needed = self._decoder.largest_step(cursor.output_offset, start + SPAN)
            spans = max(self._ahead.step_spans(), needed)
            is_there = start - cursor.output_offset + stop <= cursor.decoded and not is_last
            if is_there and (spans == 1 or not cursor.has_input):
                return cursor.output[start - cursor.output_offset :]
            at = cursor.output_offset
            output = self._decoder.step(cursor, spans)
            if output is not None and (start < cursor.output_offset or cursor.is_at_end):
                return output[start - at :]
            self._waiter.check()
