"""Which clock counts what: a laptop sleeps, and wakes up with what it knew."""

import time


def age_clock() -> float:
    """Return seconds that pass while the machine sleeps as well: for how old something is.

    CLOCK_BOOTTIME (clock_gettime(2)). `time.monotonic`, which stands still meanwhile, is for how
    long something may take: who waits across a sleep has its tries left.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
