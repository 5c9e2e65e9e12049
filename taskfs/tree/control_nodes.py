"""`.taskfs/`: the daemon's statistics and version, and the file that drops its caches."""

import json
import os
import resource
import stat
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Final

from taskfs import __version__
from taskfs.errors import NotFound, Unavailable
from taskfs.support.private_memory import read_statm
from taskfs.tree.context import TreeContext
from taskfs.tree.handles import ControlHandle, Handle
from taskfs.tree.held_texts import Text
from taskfs.tree.nodes import DIRECTORY_MODE, FILE_MODE, Attrs, Directory, Entry, Node, inode
from taskfs.tree.text_node import TextNode

CONTROL_DIR: Final = ".taskfs"
ENVIRONMENT: Final = "environment"
PRIVATE_MODE: Final = stat.S_IFREG | 0o600
COUNTERS: Final = (
    "api_requests",
    "api_retries",
    "api_bytes",
    "store_requests",
    "store_retries",
    "store_bytes",
    "served_bytes",
    "operations",
    "block_hits",
    "block_misses",
    "disk_hits",
    "read_ahead_bytes",
    "read_ahead_used_bytes",
)


class ControlNode(Directory):
    """`.taskfs/`: the daemon's statistics and version, and `refresh`."""

    def __init__(self, context: TreeContext) -> None:
        super().__init__(CONTROL_DIR)
        self._context = context

    def attrs(self) -> Attrs:
        began_ns = self._context.began_ns
        return Attrs(DIRECTORY_MODE, inode(self.path), mtime_ns=began_ns, ctime_ns=began_ns)

    def lookup(self, name: str) -> Node:
        path = self.child_path(name)
        if name == "refresh":
            return RefreshNode(path, self._context)
        if name in self._texts():
            render = self._texts()[name]
            return TextNode(
                path,
                self._context.held_texts,
                lambda: Text(render().encode(), time.time_ns()),
                _mode_of(name),
            )
        raise NotFound(f"there is no {path}")

    def children(self) -> Iterable[Entry]:
        return [self.entry(name, _mode_of(name)) for name in (*self._texts(), "refresh")]

    def _texts(self) -> dict[str, Callable[[], str]]:
        texts: dict[str, Callable[[], str]] = {
            "stats.json": self._stats,
            "version": lambda: f"{__version__}\n",
        }
        if self._context.demo_environment:
            texts[ENVIRONMENT] = self._environment
        return texts

    def _environment(self) -> str:
        variables = self._context.demo_environment or {}
        return "".join(f"{name}={value}\n" for name, value in variables.items())

    def _stats(self) -> str:
        context = self._context
        counts = dict.fromkeys(COUNTERS, 0) | context.stats.snapshot()
        # Prefetched bytes that were not read so far; programs may still read some.
        counts["read_ahead_unused_bytes"] = (
            counts["read_ahead_bytes"] - counts["read_ahead_used_bytes"]
        )
        values = {
            "version": __version__,
            "pid": os.getpid(),
            "mountpoint": context.mountpoint,
            "engine": context.engine_name(),
            "offline": context.offline,
            "uptime_seconds": (time.time_ns() - context.began_ns) // 10**9,
            "open_handles": len(context.handles),
            "memory_peak_bytes": peak_bytes(),
            "memory_bytes": resident_bytes(),
            "listing_pages": context.task_cache.progress.pages,
            "listing_pages_total": context.task_cache.progress.total,
            **counts,
        }
        return json.dumps(values, indent=2) + "\n"


def _mode_of(name: str) -> int:
    """Return the mode of a file; the environment holds the key of the embedded cloud."""
    return PRIVATE_MODE if name == ENVIRONMENT else FILE_MODE


def peak_bytes() -> int:
    """Return the largest amount of memory that this process has had: getrusage(2)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


def resident_bytes() -> int:
    """Return the memory of this process; its peak on a system that tells no other."""
    try:
        return read_statm()[0]
    except OSError:
        return peak_bytes()


class RefreshNode(Node):
    """The file that drops what the mount has cached: a write of any byte does it."""

    def __init__(self, path: str, context: TreeContext) -> None:
        super().__init__(path)
        self._context = context

    def attrs(self) -> Attrs:
        began_ns = self._context.began_ns
        return Attrs(FILE_MODE, inode(self.path), mtime_ns=began_ns, ctime_ns=began_ns)

    def open(self, *, writing: bool) -> Handle:
        return ControlHandle(self._start_refresh, self._context.waiter)

    def change(self) -> None:
        pass

    def _start_refresh(self) -> "Future[None]":
        if self._context.offline:
            raise Unavailable("--offline: what is dropped could not be fetched again")
        return self._context.api_pool.submit(self._refresh)

    def _refresh(self) -> None:
        self._context.task_cache.forget()
        self._context.archives.forget()
        if self._context.live is not None:
            self._context.live.forget()
        self._context.held_texts.release("")
