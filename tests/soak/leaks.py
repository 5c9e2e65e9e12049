"""The bounds of a daemon's resources over a soak run."""

from __future__ import annotations

from collections import Counter
from typing import Final

from .daemon import Usage

# Bytes of resident memory that a daemon may use: interpreter, imports, caches and buffers.
MAX_MEMORY: Final = 160 << 20
# A shorter run is still filling its caches, so the growth of its memory says nothing.
LONG_RUN_S: Final = 240.0
# Bytes that the memory may grow between the second and the last quarter of a long run.
MAX_GROWTH: Final = 16 << 20
# Threads that may be added between the middle and the end: the thread pools start them on demand.
MAX_NEW_THREADS: Final = 12
# Descriptors that may be added between the middle and the end: the disk cache keeps up to 64 open.
MAX_NEW_DESCRIPTORS: Final = 72


def find_leaks(middle: Usage, end: Usage, second: int, last: int, *, is_long: bool) -> list[str]:
    """Return a line for each resource that grew; *second* and *last* are `MemorySampler.growth`."""
    leaks = []
    if last > MAX_MEMORY:
        leaks.append(f"memory {megabytes(last)}, more than {megabytes(MAX_MEMORY)}")
    if is_long and last > second * 1.1 + MAX_GROWTH:
        leaks.append(f"memory grew from {megabytes(second)} to {megabytes(last)}")
    if end.threads > middle.threads + MAX_NEW_THREADS:
        leaks.append(f"threads grew from {middle.threads} to {end.threads}")
    if end.descriptors > middle.descriptors + MAX_NEW_DESCRIPTORS:
        leaks.append(f"descriptors grew from {middle.descriptors} to {end.descriptors}")
    return leaks


def megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
