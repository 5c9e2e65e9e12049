"""Which clock counts what: a laptop sleeps, and wakes up with what it knew."""

import time

from taskfs.support.fallback import note_refusal


def age_clock() -> float:
    """Return seconds that pass while the machine sleeps as well: for how old something is.

    CLOCK_BOOTTIME (clock_gettime(2)). `time.monotonic`, which stands still meanwhile, is for how
    long something may take: who waits across a sleep has its tries left. It is used for ages too
    where the system has no CLOCK_BOOTTIME: a system refuses it always or never.
    """
    try:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError) as exc:
        note_refusal("CLOCK_BOOTTIME", exc)
        return time.monotonic()
