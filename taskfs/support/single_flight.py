"""`SingleFlight`: concurrent callers of one request share one run of it.

It remembers whether the last request failed, so that callers with a fallback need not wait.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final

from taskfs.errors import NotFound, TaskFSError, Unavailable
from taskfs.support.clock import age_clock
from taskfs.support.interruptible_wait import Waiter

# Seconds after a failure during which callers with a fallback use it without a wait.
BACKOFF_S: Final = 5.0
# Seconds for which callers with a fallback wait, from the start of the latest request on.
FALLBACK_WAIT_S: Final = 1.0


class SingleFlight:
    """The requests in flight, by key. Safe for concurrent use: the lock guards the table only.

    `is_failing` is set while the last request has failed, or was too slow for a caller with a
    fallback.
    """

    def __init__(
        self, pool: Executor, waiter: Waiter, clock: Callable[[], float] = age_clock
    ) -> None:
        self._pool = pool
        self._waiter = waiter
        self._clock = clock
        self._lock = threading.Lock()
        self._in_flight: dict[Any, Future[None]] = {}
        self._failing_until_s = float("-inf")
        self._wait_until_s = float("-inf")
        self.is_failing = False

    def run(
        self,
        key: Any,
        load: Callable[[], object],
        *,
        has_fallback: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Run *load* in the pool, or join the run in flight, and wait for its end.

        A caller that *has_fallback* waits until `FALLBACK_WAIT_S` after the latest call that began
        a run, of any key, and not at all shortly after a failure. The run continues without it.

        Raises:
            Unavailable: a caller with a fallback has waited long enough, or any for *timeout_s*.
            TaskFSError: the failure of *load*.
        """
        now = self._clock()
        with self._lock:
            future = self._in_flight.get(key)
            if future is None:
                if has_fallback and self.is_failing and now < self._failing_until_s:
                    raise Unavailable("the API did not answer just now")
                future = self._in_flight[key] = self._pool.submit(self._run, key, load)
                self._wait_until_s = now + FALLBACK_WAIT_S
        if not has_fallback:
            return self._waiter.result(future, timeout_s)
        try:
            self._waiter.result(future, max(0.0, self._wait_until_s - now))
        except Unavailable:
            if not future.done():
                self._note_failure()
            raise

    def start(self, key: Any, load: Callable[[], object]) -> None:
        """Run *load* in the pool unless a run is in flight; no caller gets its failure."""
        with self._lock:
            if key not in self._in_flight:
                self._in_flight[key] = self._pool.submit(self._run, key, load)
                self._wait_until_s = self._clock() + FALLBACK_WAIT_S

    def _run(self, key: Any, load: Callable[[], object]) -> None:
        try:
            self.run_inline(load)
        finally:
            with self._lock:
                self._in_flight.pop(key, None)

    def run_inline(self, load: Callable[[], object]) -> None:
        """Run *load* in the calling thread, and remember whether it failed."""
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
        self._failing_until_s = self._clock() + BACKOFF_S
