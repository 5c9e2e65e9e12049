"""One core for all fsspec instances of a process that have the same configuration.

fsspec creates an instance per thread. All of them share connections, caches and the requests in
flight.
"""

import contextlib
import errno
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from taskfs.config import Config
from taskfs.core import open_core
from taskfs.errors import ConfigError, TaskFSError
from taskfs.support.redaction import redact
from taskfs.support.thread_pool import DaemonPool
from taskfs.tree.handles import Handle
from taskfs.tree.live_nodes import LiveFileNode
from taskfs.tree.nodes import Node

# Threads that read ranges: enough to hide the store's latency, within its connection pool.
RANGE_THREADS: Final = 8


@contextlib.contextmanager
def as_oserror(path: str) -> Iterator[None]:
    """Turn a TaskFSError into the OSError that a mount would give for *path*.

    The cause is dropped, because its text may contain a signed URL.
    """
    try:
        yield
    except ConfigError as exc:  # options are checked on construction, so this is about the key
        raise PermissionError(errno.EACCES, redact(str(exc))) from None
    except TaskFSError as exc:
        raise OSError(exc.errno, redact(str(exc)), path) from None


class SharedCore:
    """A core and the threads that read ranges. It works only in the process that created it.

    `abandoned_handles` are those of files that were garbage-collected while open. The garbage
    collector may run while the core holds its locks, so the next `open` closes them instead.
    """

    def __init__(self, config: Config) -> None:
        self.core = open_core(replace(config, read_only=True, demo=False))
        self.range_pool = DaemonPool(RANGE_THREADS, "taskfs-ranges")
        self.abandoned_handles: deque[Handle] = deque()
        self._pid = os.getpid()
        weakref.finalize(self, _close, self.core.close, self._pid)

    @property
    def is_usable(self) -> bool:
        """Whether this process created it: a forked process inherits no threads."""
        return self._pid == os.getpid()

    def open(self, node: Node) -> Handle:
        """Open *node* for reading; a file in `live/` as it is now, because its size must stay."""
        while self.abandoned_handles:
            self.abandoned_handles.popleft().close()
        if isinstance(node, LiveFileNode):
            return node.open_snapshot()
        return node.open(writing=False)


def _close(close: Callable[[], None], pid: int) -> None:
    if os.getpid() == pid:  # in a forked process, the sockets belong to the parent
        close()


_lock = threading.Lock()
_cores: "weakref.WeakValueDictionary[Config, SharedCore]" = weakref.WeakValueDictionary()


def shared_core(config: Config) -> SharedCore:
    """Return this process's core of *config*; it lives as long as a caller refers to it."""
    with _lock:
        found = _cores.get(config)
        if found is None:
            found = _cores[config] = SharedCore(config)
        return found


def _reset_after_fork() -> None:
    """Forget the parent's cores and its lock, which another thread may have held at the fork."""
    global _lock, _cores
    _lock = threading.Lock()
    _cores = weakref.WeakValueDictionary()


os.register_at_fork(after_in_child=_reset_after_fork)
