"""`AheadWorkers`: decodes one member ahead of a sequential reader, several stretches at once."""

from concurrent.futures import Executor
from operator import attrgetter
from typing import Final

from taskfs.archive.bounds import MAX_AHEAD_SPANS, SPAN, STRETCH
from taskfs.archive.decode_ahead import DecodeAhead
from taskfs.archive.decode_cursor import Checkpoint, DecodeCursor, PassedRange
from taskfs.archive.span_decoder import SpanDecoder
from taskfs.errors import CorruptData, TaskFSError
from taskfs.support.interruptible_wait import Waiter

# Decoded bytes. A cursor that is this close to a checkpoint gets there sooner than another one
# could start from it.
NEAR: Final = 4 * SPAN


class AheadWorkers:
    """The workers that decode one member ahead. Each moves one cursor after another.

    Without checkpoints in the disk cache there is one worker at a time. With them, *max_workers*
    decode one stretch each, in threads of *pool*.

    The lock of the `SpanDecoder` guards all attributes; methods that need it say so.
    """

    def __init__(
        self,
        decoder: SpanDecoder,
        ahead: DecodeAhead,
        pool: Executor,
        waiter: Waiter,
        max_workers: int,
    ) -> None:
        self._decoder = decoder
        self._ahead = ahead
        self._pool = pool
        self._waiter = waiter
        self._max_workers = max_workers if decoder.disk is not None else 1
        self._starting = 0  # workers that were submitted and move no cursor yet
        self._running = 0
        self._passed: list[PassedRange] = []  # what the workers passed since the reader's last jump
        self._tried: set[int] = set()  # numbers of checkpoints that were looked for

    @property
    def is_starting(self) -> bool:
        """Whether the only worker was submitted and moves no cursor yet. Needs the lock."""
        return bool(self._starting) and not self._running

    @property
    def is_active(self) -> bool:
        """Whether there is a worker. Needs the lock."""
        return bool(self._starting or self._running)

    def note_jump(self) -> None:
        """Forget what was decoded ahead: the reader has jumped. Needs the lock."""
        self._passed = []
        self._tried = set()
        self._ahead.workers = 1

    def may_start(self) -> bool:
        """Whether to submit a worker; then it counts as starting. Needs the lock."""
        is_full = self._starting or self._running >= self._max_workers
        if is_full or (self._next_cursor() is None and self._next_number() is None):
            return False
        self._starting += 1
        return True

    def start(self) -> None:
        """Submit a worker after `may_start`."""
        try:
            self._pool.submit(self._run)
        except RuntimeError:  # the mount is ending, or the system has no thread left
            with self._decoder.lock:
                self._starting -= 1

    def _run(self) -> None:
        """Decode the spans before the reader, until far enough ahead or until a failure."""
        with self._decoder.lock:
            self._starting -= 1
            self._running += 1
        try:
            while (cursor := self._take()) is not None:
                try:
                    self._decode(cursor)
                finally:
                    self._decoder.release(cursor)
        except BaseException as exc:
            with self._decoder.lock:
                self._running -= 1
            if not isinstance(exc, TaskFSError):
                raise
            # The reader that comes there meets the same failure, and reports it.

    def _take(self) -> DecodeCursor | None:
        """Return the cursor to decode ahead with, now busy, or None: then the worker ends."""
        decoder = self._decoder
        while True:
            with decoder.lock:
                cursor = self._next_cursor()
                number = None if cursor is not None else self._next_number()
                if cursor is not None:
                    return self._begin(cursor)
                if number is None:
                    self._running -= 1
                    decoder.waiters.wake()
                    return None
                self._tried.add(number)
            assert decoder.disk is not None
            checkpoint = decoder.disk.load(number)
            if checkpoint is not None:
                with decoder.lock:
                    self._ahead.workers = self._max_workers
                    if self._is_ahead(checkpoint):
                        return self._begin(decoder.cursors.add(checkpoint))

    def _begin(self, cursor: DecodeCursor) -> DecodeCursor:
        """Mark *cursor* as busy, and note the range of the member that it is about to decode.

        Needs the lock.
        """
        cursor.busy = True
        first = (self._ahead.pattern.next_span - MAX_AHEAD_SPANS) * SPAN
        self._passed = [each for each in self._passed if each.end >= first]
        if cursor.passed not in self._passed:
            self._passed.append(cursor.passed)
        return cursor

    def _decode(self, cursor: DecodeCursor) -> None:
        """Decode with *cursor* until another cursor has decoded what follows, or far enough."""
        while not cursor.is_at_end:
            at = cursor.output_offset
            with self._decoder.lock:
                if self._is_passed(at, cursor.passed):
                    self._decoder.cursors.discard(cursor)
                    return
                following = self._following(at)
                stop = self._ahead.stop_span * SPAN
                stop = stop if following is None else min(stop, following.begin)
                if stop <= at:
                    return
                spans = self._decoder.largest_step(at, stop)
                cursor.passed.end = at + spans * SPAN  # so that no other begins there meanwhile
            while self._decoder.step(cursor, spans) is None:
                self._waiter.check()
            if following is not None and cursor.output_offset == following.begin:
                self._hand_over(cursor, following)
                return

    def _hand_over(self, cursor: DecodeCursor, following: PassedRange) -> None:
        """Close *cursor*, which arrived where another one began; compare their checksums."""
        try:
            cursor.check(following)
        except CorruptData:
            self._decoder.drop_disk_checkpoints()
            raise
        with self._decoder.lock:
            self._decoder.cursors.discard(cursor)

    def _following(self, at: int) -> PassedRange | None:
        """Return the next range that begins after byte *at*. Needs the lock."""
        later = [each for each in self._passed if each.begin > at]
        return min(later, key=attrgetter("begin"), default=None)

    def _is_passed(self, at: int, own: PassedRange | None = None) -> bool:
        """Whether another cursor has passed the decoded byte *at*, or is about to.

        Needs the lock.
        """
        return any(p.begin <= at < p.end for p in self._passed if p is not own)

    def _next_cursor(self) -> DecodeCursor | None:
        """Return the idle cursor that a worker should move. Needs the lock.

        Workers never move back: a span that a small cache has evicted again is left to the reader.
        """
        next_span, stop = self._ahead.pattern.next_span, self._ahead.stop_span * SPAN
        at = next_span * SPAN
        near = self._decoder.cursors.idle_between((next_span - MAX_AHEAD_SPANS) * SPAN, stop)
        near = [c for c in near if not self._is_passed(max(at, c.output_offset), c.passed)]
        reached = [c for c in near if c.output_offset <= at]
        if reached:
            return max(reached, key=attrgetter("output_offset"))
        return min(near, key=attrgetter("output_offset"), default=None)

    def _next_number(self) -> int | None:
        """Return the number of the next checkpoint at which a worker could begin.

        Needs the lock.
        """
        if self._max_workers < 2:
            return None
        begin = self._ahead.pattern.next_span * SPAN // STRETCH + 1
        stop = -(-self._ahead.stop_span * SPAN // STRETCH)
        for number in range(begin, stop):
            at = number * STRETCH
            is_known = number in self._tried or self._is_passed(at)
            if not is_known and not any(at - NEAR < p.end <= at for p in self._passed):
                return number
        return None

    def _is_ahead(self, checkpoint: Checkpoint) -> bool:
        """Whether a cursor that begins at *checkpoint* decodes bytes that no other cursor does.

        Needs the lock.
        """
        at, stop = checkpoint.output_offset, self._ahead.stop_span * SPAN
        begins = {each.begin for each in self._passed}
        return at < stop and at not in begins and not self._is_passed(at)
