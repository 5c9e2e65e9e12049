"""`RecentFailures`: the failures of a machine that are reported again without a question."""

import threading
from collections.abc import Callable
from typing import Final

from taskfs.errors import TaskFSError

# In seconds: how long a failure is remembered. Else lookups of many names would wait for each.
FAILURE_S: Final = 10.0


class RecentFailures:
    """Failures by key, each for `FAILURE_S` seconds. Safe for concurrent use."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[bytes | None, tuple[float, TaskFSError]] = {}

    def remember(self, key: bytes | None, error: TaskFSError) -> None:
        """Have `check` raise *error* for a while."""
        with self._lock:
            now = self._clock()
            expired = [other for other, (until_s, _) in self._failures.items() if until_s <= now]
            for other in expired:
                del self._failures[other]
            self._failures[key] = now + FAILURE_S, error

    def check(self, key: bytes | None) -> None:
        """Raise the failure of *key* again if it is less than `FAILURE_S` seconds old."""
        with self._lock:
            until_s, error = self._failures.get(key, (0.0, None))
        if error is not None and self._clock() < until_s:
            again = type(error)(str(error))
            again.is_logged = True  # the operation that met the failure has logged it
            raise again

    def clear(self) -> None:
        """Forget all failures."""
        with self._lock:
            self._failures.clear()
