"""`Waiter`: waits for a future until the caller is interrupted.

All requests run in thread pools, and callers only wait for them. So Ctrl+C ends the wait of a
blocked reader within `POLL_S`, while the request continues and fills the caches.
"""

import concurrent.futures
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from taskfs.errors import Closed, Interrupted, Unavailable
from taskfs.support.wait_hook import announce_wait

T = TypeVar("T")

# Seconds between two checks for an interrupt: the delay of Ctrl+C.
POLL_S: Final = 0.2


def never() -> bool:
    """Return False: the caller is never interrupted."""
    return False


class Waiter:
    """Waits for futures. *interrupted* returns whether the request of the calling thread was
    interrupted.

    Safe for concurrent use, because it is immutable.
    """

    def __init__(self, interrupted: Callable[[], bool] = never) -> None:
        self._interrupted = interrupted

    def result(self, future: "Future[T]", timeout_s: float | None = None) -> T:
        """Return the future's result, or raise its exception.

        Raises:
            Interrupted: the caller was interrupted (EINTR); the work continues.
            Unavailable: there is no result after *timeout_s* seconds; the work continues. Or it was
                cancelled before it began, because the file system is being closed.
        """
        if not future.done():
            announce_wait()
        deadline_s = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
        try:
            while True:
                try:
                    remaining_s = max(0.0, deadline_s - time.monotonic())
                    return future.result(timeout=min(POLL_S, remaining_s))
                except concurrent.futures.CancelledError:
                    raise Closed("the file system is closed") from None
                except concurrent.futures.TimeoutError:
                    if future.done():
                        return future.result()  # its own TimeoutError
                    self.check()
                    if time.monotonic() >= deadline_s:
                        raise Unavailable("there was no answer in time") from None
        finally:
            # The failure's traceback refers to this frame: no cycle may keep what it refers to.
            del future

    def check(self) -> None:
        """Raise Interrupted if the calling thread's request was interrupted."""
        if self._interrupted():
            raise Interrupted("interrupted")
