"""`PagePush`: which bytes may be pushed into the kernel's page cache without a deadlock.

The kernel locks the pages of a read until the read is answered, and a push to a locked page waits.
So nothing is pushed where a read is in flight. A push then waits only for reads that arrived after
it began; those wait at most for later ones, and the last waits for none. The kernel sends a limited
number of reads at once, so only a few threads may push at the same time.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

MAX_PUSHES: Final = 4  # at the same time


class PagePush:
    """The reads in flight, by file. Safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[int, list[tuple[int, int]]] = {}
        self._pushing = 0

    @contextmanager
    def read(self, nodeid: int, offset: int, stop: int) -> Iterator[None]:
        """Prevent pushes into the bytes [offset, stop) of the file while the block runs."""
        mine = offset, stop
        with self._lock:
            self._reads.setdefault(nodeid, []).append(mine)
        try:
            yield
        finally:
            with self._lock:
                reads = self._reads[nodeid]
                reads.remove(mine)
                if not reads:
                    del self._reads[nodeid]

    @contextmanager
    def push(self, nodeid: int, take: Callable[[], range]) -> Iterator[range]:
        """Yield the bytes to push in the block: those that *take* returns and no read holds."""
        with self._lock:
            may_push = self._pushing < MAX_PUSHES
            self._pushing += 1
        try:
            ready = take() if may_push else range(0)
            with self._lock:
                for start, stop in self._reads.get(nodeid, ()):
                    if start < ready.stop and ready.start < stop:
                        ready = range(ready.start, max(ready.start, start))
            yield ready
        finally:
            with self._lock:
                self._pushing -= 1
