"""Threads that wait for a span which the cursor of another thread will reach."""

import threading
from typing import Final

from taskfs.support.wait_hook import announce_wait

# Seconds. A reader waits this long for another thread's cursor to reach its span; then it stops
# waiting, so that a slow store does not delay bytes that are decoded already.
SPAN_WAIT_S: Final = 0.02


class SpanWaiter:
    """One thread that waits for one span. All methods but `wait` need the lock of its queue."""

    __slots__ = ("_lock", "has_left", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.has_left = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self) -> bool:
        """Return True once woken, or False after `SPAN_WAIT_S`: then it waits no longer."""
        announce_wait()
        self.has_left = not self._lock.acquire(timeout=SPAN_WAIT_S)
        return not self.has_left

    def wake(self) -> None:
        """Let `wait` return True."""
        self._lock.release()


class WaitQueue:
    """The threads that wait for spans of one member. Not safe for concurrent use."""

    def __init__(self) -> None:
        self._waiters: list[SpanWaiter] = []

    def add(self, index: int) -> SpanWaiter:
        """Return a waiter for the span *index*."""
        self._waiters = [waiter for waiter in self._waiters if not waiter.has_left]
        self._waiters.append(SpanWaiter(index))
        return self._waiters[-1]

    def wake(self, spans: range | None = None) -> None:
        """Wake the threads that wait for one of *spans*, or all of them."""
        woken = [w for w in self._waiters if spans is None or w.index in spans]
        if woken:
            self._waiters = [w for w in self._waiters if w not in woken]
            for waiter in woken:
                waiter.wake()
