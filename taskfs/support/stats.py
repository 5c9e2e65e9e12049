"""`Stats`: named counters of one mount or command, such as requests, bytes and cache hits."""

import threading
from collections import Counter


class Stats:
    """Named counters. Safe for concurrent use: one lock, held only for the addition."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Add *count* to the counter *name*."""
        with self._lock:
            self._counts[name] += count

    def snapshot(self) -> dict[str, int]:
        """Return all counters as they are now."""
        with self._lock:
            return dict(self._counts)
