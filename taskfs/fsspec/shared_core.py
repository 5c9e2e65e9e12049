"""One core for all fsspec instances of a process that have the same configuration.

fsspec makes an instance for every thread; connections, caches and what is under way are shared.
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
from taskfs.tree.nodes import Node

RANGES_AT_ONCE: Final = 8


@contextlib.contextmanager
def as_oserror(path: str) -> Iterator[None]:
    """Let our errors out as the OSErrors that a mount would give, without what they were made of:
    that may quote a signed URL."""
    try:
        yield
    except ConfigError as exc:  # a setting is looked at when it is given: this is the key
        raise PermissionError(errno.EACCES, redact(str(exc))) from None
    except TaskFSError as exc:
        raise OSError(exc.errno, redact(str(exc)), path) from None


class SharedCore:
    """A core, and the threads that read ranges for its callers. It works in one process only.

    `left` holds the open files that nobody closed. They are found by the garbage collection, which
    may come while the core holds its locks: so they are closed later, by whoever opens the next.
    """

    def __init__(self, config: Config) -> None:
        self.core = open_core(replace(config, read_only=True, demo=False))
        self.pool = DaemonPool(RANGES_AT_ONCE, "taskfs-ranges")
        self.left: deque[Handle] = deque()
        self._pid = os.getpid()
        weakref.finalize(self, _close, self.core.close, self._pid)

    @property
    def is_here(self) -> bool:
        """Whether this is its process, and not one forked from it: threads are not inherited."""
        return self._pid == os.getpid()

    def open(self, node: Node) -> Handle:
        """Open *node* for reading."""
        while self.left:
            self.left.popleft().close()
        return node.open(writing=False)


def _close(close: Callable[[], None], pid: int) -> None:
    if os.getpid() == pid:  # in a forked process the sockets are the parent's
        close()


_lock = threading.Lock()
_shared: "weakref.WeakValueDictionary[Config, SharedCore]" = weakref.WeakValueDictionary()


def shared_core(config: Config) -> SharedCore:
    """Return the core of *config* in this process, as long as somebody holds it always the same."""
    with _lock:
        found = _shared.get(config)
        if found is None:
            found = _shared[config] = SharedCore(config)
        return found


def _begin_anew() -> None:
    """In a forked process nothing of the parent's works, and its locks may be held for good."""
    global _lock, _shared
    _lock = threading.Lock()
    _shared = weakref.WeakValueDictionary()


os.register_at_fork(after_in_child=_begin_anew)
