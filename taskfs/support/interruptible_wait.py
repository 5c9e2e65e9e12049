"""Waiting for what is under way without holding a caller that was interrupted.

All that goes out runs in pools; a caller only waits. So Ctrl+C frees a blocked reader at once while
the request goes on and fills the caches.
"""

import concurrent.futures
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from taskfs.errors import Interrupted, Unavailable

T = TypeVar("T")

POLL_S: Final = 0.2


def never() -> bool:
    """A caller that nobody interrupts."""
    return False


class Waiter:
    """Waits for futures; `interrupted` tells whether the calling thread's request was given up."""

    def __init__(self, interrupted: Callable[[], bool] = never) -> None:
        self._interrupted = interrupted

    def result(self, future: "Future[T]", patience_s: float | None = None) -> T:
        """Return the future's result, or raise what it failed with.

        Raises:
            Interrupted: the caller was interrupted; the future goes on (EINTR).
            Unavailable: there is none after *patience_s* seconds; the future goes on.
        """
        deadline_s = time.monotonic() + patience_s if patience_s is not None else float("inf")
        while True:
            try:
                remaining_s = max(0.0, deadline_s - time.monotonic())
                return future.result(timeout=min(POLL_S, remaining_s))
            except concurrent.futures.TimeoutError:
                if future.done():
                    return future.result()  # it failed with a TimeoutError of its own
                self.check()
                if time.monotonic() >= deadline_s:
                    raise Unavailable("there is no answer yet") from None

    def check(self) -> None:
        """Raise Interrupted if the calling thread's request was given up."""
        if self._interrupted():
            raise Interrupted("interrupted")
