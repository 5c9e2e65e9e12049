"""`DecodeAhead`: how far one member is decoded ahead of a sequential reader."""

from taskfs.archive.bounds import MAX_AHEAD_SPANS, MAX_STEP_SPANS, SPAN, STRETCH
from taskfs.archive.read_pattern import ReadPattern
from taskfs.cache.readahead import ReadAheadBudget


class DecodeAhead:
    """Decides how much of one member to decode before its readers request it.

    It decides only; `AheadWorkers` decode. Not safe for concurrent use: the caller holds the
    lock of the member's `SpanDecoder`, except for the methods that say otherwise. Readers look at
    `pattern.is_in_order` without the lock: an outdated value costs only time.
    """

    def __init__(
        self, size: int, budget: ReadAheadBudget, *, in_sequence: bool, push_enabled: bool
    ) -> None:
        self.pattern = ReadPattern(in_sequence=in_sequence)
        # Threads that decode one stretch each. The window holds their stretches and the one that is
        # being read.
        self.workers = 1
        self._size = size
        self._budget = budget
        self._push_enabled = push_enabled
        self._stop = 0  # the span before which decoding ahead ends

    def note(self, offset: int, stop: int, *, is_active: bool) -> bool:
        """Note a read of the decoded bytes [offset, stop); return whether to decode ahead."""
        pattern = self.pattern
        pattern.note(offset, stop)
        if pattern.has_jumped:
            self._stop = 0
        if pattern.next_span * SPAN >= self._size:
            self.close()  # leave the budget to the next member: this one was read to its end
            return False
        if not pattern.is_in_order:
            return False
        if self._decodes_at_once():
            self._budget.register(self)
            return False
        # Decode ahead only what stays in memory until it is read, however many members are open.
        is_parallel = self.workers > 1
        allowance = self._budget.allowance(self) // (1 if self._push_enabled or is_parallel else 4)
        stretches = STRETCH // SPAN * (self.workers + 1)
        pattern.max_spans = stretches if is_parallel else MAX_AHEAD_SPANS
        ahead = min(pattern.readahead_spans, allowance // SPAN)
        # Waking a thread costs as much as decoding a span, so wake it when half is used up.
        is_enough = pattern.next_span + ahead // 2 <= self._stop
        if not ahead or (is_enough and not is_active):
            return False
        self._budget.register(self)
        self._stop = pattern.next_span + ahead
        return True

    @property
    def stop_span(self) -> int:
        """The span before which decoding ahead ends. Needs no lock."""
        return min(self._stop, -(-self._size // SPAN))

    def step_spans(self) -> int:
        """Return how many spans a reader that waits for the first of them decodes in one call.

        Needs no lock.
        """
        if not self._decodes_at_once():
            return 1
        # The output goes to the kernel as soon as it is decoded, so it may exceed the allowance.
        return max(1, min(MAX_STEP_SPANS, 2 * self._budget.allowance(self) // SPAN))

    def close(self) -> None:
        """Return this member's share of the budget. Needs no lock."""
        self._budget.unregister(self)

    def _decodes_at_once(self) -> bool:
        """Whether a sequential reader decodes the whole member itself.

        A short member goes to the kernel in one push: no second thread has to be woken.
        """
        is_short = self._size <= MAX_STEP_SPANS * SPAN
        return is_short and self._push_enabled and self.pattern.is_in_order
