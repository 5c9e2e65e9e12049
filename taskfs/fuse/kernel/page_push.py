"""`PagePush`: which bytes may go among the kernel's pages of a file unasked, without a deadlock.

The kernel holds the pages that a read is to fill until that read is answered, and whoever puts
bytes there waits for it. So nothing is pushed where a read is under way already: a push waits only
for reads that came after it was begun, those wait at most for later ones still, and the last waits
for nobody. And the kernel gives out so many reads at once: a few may wait like that, never all.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

AT_ONCE: Final = 4


class PagePush:
    """The reads under way, by file. Safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[int, list[tuple[int, int]]] = {}
        self._pushing = 0

    @contextmanager
    def read(self, nodeid: int, offset: int, stop: int) -> Iterator[None]:
        """Until the block ends, nothing is pushed into the bytes [offset, stop) of the file."""
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
    def push(self, nodeid: int, claim: Callable[[], range]) -> Iterator[range]:
        """Yield what may be pushed during the block: of what *claim* returns, asked once."""
        with self._lock:
            may_push = self._pushing < AT_ONCE
            self._pushing += 1
        try:
            ready = claim() if may_push else range(0)
            with self._lock:
                for start, stop in self._reads.get(nodeid, ()):
                    if start < ready.stop and ready.start < stop:
                        ready = range(ready.start, max(ready.start, start))
            yield ready
        finally:
            with self._lock:
                self._pushing -= 1
