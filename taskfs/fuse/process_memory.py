"""Memory of a daemon: what glibc keeps of freed buffers, and when Python looks for cycles."""

import ctypes
import gc
import threading
from collections.abc import Callable
from typing import Final

from taskfs.support.buffers import trim_pools
from taskfs.support.fallback import note_refusal

# mallopt(3)
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
MALLOC: Final = (
    (M_ARENA_MAX, 2),
    (M_MMAP_THRESHOLD, 512 << 10),
    # What is decoded comes and goes: to fault its pages in each time costs as much as to copy it.
    (M_TRIM_THRESHOLD, 4 << 20),
)
TRIM_S: Final = 10.0
GC_THRESHOLD: Final = 50_000


def tune() -> None:
    """Have glibc give freed buffers back, and Python look for cycles rarely.

    Many threads and large blocks fragment glibc's arenas. An index is 100,000 objects without a
    cycle, and every request makes a few: looking through all of them again and again costs more
    than answering.
    """
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    mallopt = _libc("mallopt")
    if mallopt is not None:
        for parameter, value in MALLOC:
            if not mallopt(parameter, value):
                note_refusal("mallopt", parameter)


def _libc(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; None where it has none: musl needs none of ours."""
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
        return found
    except (OSError, AttributeError) as exc:
        note_refusal(name, exc)
        return None


def give_back(ended: threading.Event) -> None:
    """Give back what is free between the blocks that stay: in weeks of mixed reading it adds up."""
    trim = _libc("malloc_trim")
    while not ended.wait(TRIM_S):
        trim_pools()
        if trim is not None:
            trim(0)
