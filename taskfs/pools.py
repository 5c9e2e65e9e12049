"""`Pool`: threads that know since when what they run was asked for.

Who waits in a queue waits all the same: while nobody answers, the last of a crowd must not wait
for the timeouts of all before it.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_running = threading.local()


def asked_s() -> float | None:
    """Return since when (`time.monotonic`) what the calling thread runs is waited for, if known."""
    return getattr(_running, "asked_s", None)


class Pool(ThreadPoolExecutor):
    """A ThreadPoolExecutor in whose threads `asked_s` tells when the work was submitted.

    What is submitted from within such a thread is as old as the work that it is a part of.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        since_s = asked_s() or time.monotonic()

        def run() -> T:
            _running.asked_s = since_s
            try:
                return fn(*args, **kwargs)
            finally:
                _running.asked_s = None

        return super().submit(run)
