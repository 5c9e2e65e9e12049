"""The bounds of a daemon's resources over a soak run."""

from __future__ import annotations

from collections import Counter
from typing import Final

from .daemon import Usage

# Bytes of private memory of a daemon: interpreter, imports, caches, buffers, tasks in use.
MAX_MEMORY: Final = 160_000_000
# Threads and open files of a daemon with all pools full and all files of the disk cache open.
MAX_THREADS: Final = 64
MAX_DESCRIPTORS: Final = 144
# A shorter run is still filling caches and pools, so growth in it is no leak.
LONG_RUN_S: Final = 240.0
# Growth allowed in a long run. The memory is compared between the second and the last quarter, the
# others between the middle and the end; pools and the disk cache open threads and files on demand.
MAX_MEMORY_GROWTH: Final = 16 << 20
MAX_THREAD_GROWTH: Final = 12
MAX_DESCRIPTOR_GROWTH: Final = 72


def find_leaks(middle: Usage, end: Usage, second: int, last: int, *, is_long: bool) -> list[str]:
    """Return a line for each resource beyond a bound; *second* and *last* are from `MemorySampler`.

    Growth is checked only in a run that *is_long*.
    """
    leaks = []
    if last > MAX_MEMORY:
        leaks.append(f"memory {megabytes(last)}, more than {megabytes(MAX_MEMORY)}")
    if end.threads > MAX_THREADS:
        leaks.append(f"{end.threads} threads, more than {MAX_THREADS}")
    if end.descriptors > MAX_DESCRIPTORS:
        leaks.append(f"{end.descriptors} descriptors, more than {MAX_DESCRIPTORS}")
    if is_long and last > second * 1.1 + MAX_MEMORY_GROWTH:
        leaks.append(f"memory grew from {megabytes(second)} to {megabytes(last)}")
    if is_long and end.threads > middle.threads + MAX_THREAD_GROWTH:
        leaks.append(f"threads grew from {middle.threads} to {end.threads}")
    if is_long and end.descriptors > middle.descriptors + MAX_DESCRIPTOR_GROWTH:
        leaks.append(f"descriptors grew from {middle.descriptors} to {end.descriptors}")
    return leaks


def megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
