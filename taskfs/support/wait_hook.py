"""`announce_wait`: calls the function that a thread has registered to run before it waits.

A thread that reads the requests of a mount lets another one read before it waits: see
`fuse.kernel.lead`. Elsewhere the call does nothing.
"""

import threading
from collections.abc import Callable

_before_waits = threading.local()


def call_before_waits(call: Callable[[], None]) -> None:
    """Have the calling thread call *call* each time before it waits."""
    _before_waits.call = call


def announce_wait() -> None:
    """Note that the calling thread is about to wait, or to compute for long."""
    call = getattr(_before_waits, "call", None)
    if call is not None:
        call()
