"""The clock for the age of cached data, which does not stop during a suspend."""

import sys
import time

from taskfs.support.fallback import log_fallback


def age_clock() -> float:
    """Return seconds of CLOCK_BOOTTIME (clock_gettime(2)), suspended time included.

    On macOS, CLOCK_MONOTONIC is that clock, while `time.monotonic` stops during a suspend. If the
    system lacks it, return `time.monotonic`. The timeouts of operations use `time.monotonic`, which
    stops during a suspend, so that a waiting operation keeps its retries.
    """
    try:
        if sys.platform == "darwin":
            return time.clock_gettime(time.CLOCK_MONOTONIC)
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError) as exc:
        log_fallback("CLOCK_BOOTTIME", exc)
        return time.monotonic()
