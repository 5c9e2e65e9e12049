"""Threads that wait for a span that another one's cursor will pass."""

import threading
from typing import Final

# So long does who waits for a span wait for the whole stretch, which is there sooner by far unless
# the store is slow: then what is decoded of it is enough.
PATIENCE_S: Final = 0.02


class SpanWaiter:
    """One thread that waits for one span. Only `sleep` is called without its list's lock."""

    __slots__ = ("_lock", "index", "is_gone")

    def __init__(self, index: int) -> None:
        self.index = index
        self.is_gone = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self) -> bool:
        """Return whether it was woken, else some time has passed and it does not wait any more."""
        self.is_gone = not self._lock.acquire(timeout=PATIENCE_S)
        return not self.is_gone

    def wake(self) -> None:
        """Let `sleep` return."""
        self._lock.release()


class WaitQueue:
    """Who waits for the spans of one member. Not safe for concurrent use."""

    def __init__(self) -> None:
        self._all: list[SpanWaiter] = []

    def add(self, index: int) -> SpanWaiter:
        """Return what the caller is to sleep with until the span *index* is there."""
        self._all = [sleeper for sleeper in self._all if not sleeper.is_gone]
        self._all.append(SpanWaiter(index))
        return self._all[-1]

    def wake(self, spans: range | None = None) -> None:
        """Wake who waits for one of *spans*, or everybody."""
        woken = [s for s in self._all if spans is None or s.index in spans]
        if woken:
            self._all = [s for s in self._all if s not in woken]
            for sleeper in woken:
                sleeper.wake()
