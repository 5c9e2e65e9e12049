"""The clock for ages, which also counts the time that a machine is suspended."""

import time

from taskfs.support.fallback import note_refusal


def age_clock() -> float:
    """Return seconds that include suspends, for the age of cached data.

    CLOCK_BOOTTIME (clock_gettime(2)). Timeouts use `time.monotonic`, which stands still during a
    suspend: an operation that is waiting then still has its retries left.
    Where the system has no CLOCK_BOOTTIME, ages use `time.monotonic` too.
    """
    try:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError) as exc:
        note_refusal("CLOCK_BOOTTIME", exc)
        return time.monotonic()
