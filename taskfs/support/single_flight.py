"""`SingleFlight`: a request is made once, however many wait for it, and who need not wait does not.

It also knows whether the other side seems to be away, from the outcome of the last request.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final

from taskfs.errors import NotFound, TaskFSError, Unavailable
from taskfs.support.clock import age_clock
from taskfs.support.interruptible_wait import Waiter

# After a failure, who has something else to show shows it for so long before another try.
BACKOFF_S: Final = 5.0
# That other try is waited for so long, by all of them together.
FALLBACK_WAIT_S: Final = 1.0


class SingleFlight:
    """The requests under way, by key. Safe for concurrent use: the lock guards the table only.

    `is_failing` tells that the last request failed, or left who could do without it unanswered.
    """

    def __init__(
        self, pool: Executor, waiter: Waiter, clock: Callable[[], float] = age_clock
    ) -> None:
        self._pool = pool
        self._waiter = waiter
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: dict[Any, Future[None]] = {}
        self._away_until_s = float("-inf")
        self._patient_until_s = float("-inf")
        self.is_failing = False

    def run(self, key: Any, load: Callable[[], None], *, has_fallback: bool = False) -> None:
        """Run *load* in the pool, joining one that is under way, and wait for its end.

        A *spare* caller has something else to show. It waits a second, and not at all where others
        have waited for the same, or just after a failure; the request goes on without it.

        Raises:
            whatever *load* failed with; Unavailable for a spare caller that waited long enough.
        """
        now = self._clock()
        with self._lock:
            future = self._under_way.get(key)
            if future is None:
                if has_fallback and self.is_failing and now < self._away_until_s:
                    raise Unavailable("the API did not answer just now")
                future = self._under_way[key] = self._pool.submit(self._run, key, load)
                self._patient_until_s = now + FALLBACK_WAIT_S
        if not has_fallback:
            return self._waiter.result(future)
        try:
            self._waiter.result(future, max(0.0, self._patient_until_s - now))
        except Unavailable:
            if not future.done():
                self._note_failure()
            raise

    def _run(self, key: Any, load: Callable[[], None]) -> None:
        try:
            self.run_inline(load)
        finally:
            with self._lock:
                self._under_way.pop(key, None)

    def run_inline(self, load: Callable[[], None]) -> None:
        """Run *load* in the caller's thread, and note whether the other side answered."""
        try:
            load()
            self.is_failing = False
        except NotFound:
            self.is_failing = False
            raise
        except TaskFSError:
            self._note_failure()
            raise

    def _note_failure(self) -> None:
        self.is_failing = True
        self._away_until_s = self._clock() + BACKOFF_S
