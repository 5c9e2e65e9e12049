"""`PagePush`: which bytes may be pushed into the kernel's page cache without a deadlock.

The kernel locks the pages of a read until the read is answered, and a push to a locked page waits.
So nothing is pushed where a read is in flight. A push therefore waits only for reads that arrived
after it began. Another thread answers such a read. If that thread pushes first, its push waits only
for reads that are later still. So there is no cycle, and the last read waits for nothing.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

# Pushes at the same time. The kernel has a limited number of reads in flight (session.BACKGROUND),
# so some threads must be left to answer them.
MAX_PUSHES: Final = 4


class PagePush:
    """The reads in flight, by file, and the number of pushes.

    Safe for concurrent use: the lock guards both, and is never held during a read or a push.
    """

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
