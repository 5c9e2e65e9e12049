"""The memory that a call takes."""

import tracemalloc
from collections.abc import Callable

# `tracemalloc` counts all threads of the process, and those of earlier tests may still run.
TRIES = 3


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most bytes that were in use at once while *call* ran."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def takes_less(call: Callable[[], object], max_bytes: float) -> bool:
    """Whether *call* takes fewer than *max_bytes*, in one of `TRIES` runs."""
    return any(peak_bytes(call) < max_bytes for _ in range(TRIES))
