"""`LongBuilds`: lets the builds of the indexes of long directories run one at a time."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

from taskfs.support.thread_pool import let_another_run, restart_clock

# Seconds between two checks of whether an index is still wanted, while another one is built.
WANTED_POLL_S: Final = 0.1


class NotWanted(Exception):
    """The archive is not wanted any more, and its index was not built."""


class LongBuilds:
    """One build at a time, because each takes some 10 MB of memory.

    Safe for concurrent use: the lock is held during a build, and guards the flag.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_built = False  # whether the last build succeeded

    @contextlib.contextmanager
    def turn(self, is_wanted: Callable[[], bool]) -> Iterator[None]:
        """Run the block when no other one runs.

        A pool starts another thread in place of one that waits, so short directories are read
        meanwhile. The caller's timeout does not include the wait, unless the build before has
        failed: if the store is silent, the last of many gets its error soon after the first.

        Raises:
            NotWanted: *is_wanted* has returned False during the wait.
        """
        if not self._lock.acquire(blocking=False):
            let_another_run()
            while not self._lock.acquire(timeout=WANTED_POLL_S):
                if not is_wanted():
                    raise NotWanted
            if self._has_built:
                restart_clock()
        try:
            self._has_built = False
            yield
            self._has_built = True
        finally:
            self._lock.release()
