"""Return of memory that glibc's malloc and Python keep, in a long-running daemon."""

import ctypes
import gc
import threading
from collections.abc import Callable
from typing import Final

from taskfs.support.buffers import trim_pools
from taskfs.support.fallback import log_fallback

# mallopt(3)
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
MALLOC: Final = (
    # Each thread gets an arena of its own by default, and each arena keeps freed memory. Most calls
    # hold the interpreter's lock, so one arena suffices.
    (M_ARENA_MAX, 1),
    # Bytes. Larger blocks are mappings of their own, which leave with the block and no gap.
    (M_MMAP_THRESHOLD, 128 << 10),
    # Bytes kept free at the top of the heap. Decoded data comes and goes, and to fault its pages in
    # again costs as much as to copy it.
    (M_TRIM_THRESHOLD, 4 << 20),
)
# Seconds between two trims. One trim takes milliseconds; memory grows over minutes.
TRIM_S: Final = 10.0


def tune() -> None:
    """Make glibc return freed buffers: many threads and large blocks fragment its arenas."""
    mallopt = _c_function("mallopt")
    if mallopt is not None:
        for parameter, value in MALLOC:
            if not mallopt(parameter, value):
                log_fallback("mallopt", parameter)


def _c_function(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; None if it has none, as musl and the BSDs' have not."""
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
        return function
    except (OSError, AttributeError) as exc:
        log_fallback(name, exc)
        return None


def trim_until(ended: threading.Event) -> None:
    """Return free memory to the system every TRIM_S seconds until *ended* is set.

    Malloc keeps the free memory between blocks that are in use, and over weeks of mixed reads it
    adds up. Garbage is collected too: the exception of a failed request and the objects of a closed
    live connection are cycles, which hold buffers.
    """
    trim = _c_function("malloc_trim")
    count = 0  # objects made since the last collections; an idle process makes none
    while not ended.wait(TRIM_S):
        trim_pools()
        if sum(gc.get_count()) != count:
            gc.collect()  # some milliseconds; the modules of the start are frozen
            count = sum(gc.get_count())
        if trim is not None:
            trim(0)
