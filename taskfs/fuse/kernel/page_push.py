"""`PagePush`: which bytes may be pushed into the kernel's page cache without a deadlock.

The kernel locks the pages of a read until the read is answered, and a push to a locked page waits.
So nothing is pushed where a read is in flight. A push therefore waits only for reads that arrived
after it began. Another thread answers such a read. If that thread pushes first, its push waits only
for reads that arrived even later. So there is no cycle of waits.

A push at the open of a file never waits if no other open file has the same pages: the kernel sends
all reads of a file before its release, so no read is in flight.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from taskfs.errors import TaskFSError
from taskfs.support.buffers import Buffer
from taskfs.support.redaction import redact
from taskfs.support.wait_hook import announce_wait
from taskfs.tree.handles import PushableHandle

log = logging.getLogger(__name__)

# Pushes after reads at the same time. The kernel has a limited number of reads in flight
# (session.BACKGROUND), so some threads must be left to answer them.
MAX_PUSHES: Final = 4


class PagePush:
    """The reads in flight and the open files, by file, and the number of pushes after reads.

    Safe for concurrent use: the lock guards all, and is never held during a read or a push.
    *write_pages* puts bytes into the kernel's page cache of a file. It gets a nodeid, an offset and
    the bytes.
    """

    def __init__(self, write_pages: Callable[[int, int, Buffer], None]) -> None:
        self._write_pages = write_pages
        self._lock = threading.Lock()
        self._reads: dict[int, list[tuple[int, int]]] = {}
        self._pushing = 0
        self._open: Counter[int] = Counter()

    def note_open(self, nodeid: int) -> bool:
        """Note that the file is opened; return whether no other open file has its pages."""
        with self._lock:
            self._open[nodeid] += 1
            return self._open[nodeid] == 1

    def note_release(self, nodeid: int) -> None:
        """Note that an open file of `note_open` is closed."""
        with self._lock:
            self._open[nodeid] -= 1
            if not self._open[nodeid]:
                del self._open[nodeid]

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

    def push_at_open(self, nodeid: int, handle: PushableHandle) -> None:
        """Push the ready bytes of a file of which `note_open` returned True: they are one piece.

        This waits for no read, so it does not count as one of `MAX_PUSHES`.
        """
        try:
            if ready := handle.take_pushable():
                piece = handle.read_for_push(ready.start, len(ready))
                self._write_pages(nodeid, ready.start, piece)
        except (OSError, TaskFSError) as exc:
            _note_failure(exc)

    def push_after_read(self, nodeid: int, handle: PushableHandle) -> None:
        """Push every piece that is ready after the bytes that were read last.

        This happens before the answer, because the program asks for these bytes right after it.
        """
        try:
            is_ready = True
            while is_ready:
                with self.push(nodeid, handle.take_pushable) as ready:
                    if is_ready := bool(ready):
                        announce_wait()
                        piece = handle.read_for_push(ready.start, len(ready))
                        self._write_pages(nodeid, ready.start, piece)
        except (OSError, TaskFSError) as exc:
            _note_failure(exc)


def _note_failure(exc: Exception) -> None:
    """Log why nothing was pushed; a later read of the same bytes gets the error."""
    log.warning("nothing is pushed: %s", redact(str(exc)))
