"""`.taskfs/`: what the daemon tells of itself, and how to make it forget."""

import json
import os
import resource
import stat
import time
from collections.abc import Callable, Iterable
from typing import Final

from taskfs import __version__
from taskfs.errors import NotFound, Unavailable
from taskfs.handles import CommandHandle, Handle
from taskfs.nodes import DIRECTORY_MODE, FILE_MODE, Attrs, Directory, Entry, Node, inode
from taskfs.parts import Parts
from taskfs.textnode import TextNode
from taskfs.texts import Text

SERVICE: Final = ".taskfs"
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
    "block_hits",
    "block_misses",
    "disk_hits",
    "read_ahead_bytes",
    "read_ahead_used_bytes",
)


class ServiceNode(Directory):
    """`.taskfs/`: what the daemon tells of itself, and how to make it forget."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(SERVICE)
        self._parts = parts

    def attrs(self) -> Attrs:
        began_ns = self._parts.began_ns
        return Attrs(DIRECTORY_MODE, inode(self.path), mtime_ns=began_ns, ctime_ns=began_ns)

    def lookup(self, name: str) -> Node:
        path = self.child_path(name)
        if name == "refresh":
            return RefreshNode(path, self._parts)
        if name in self._texts():
            render = self._texts()[name]
            return TextNode(
                path,
                self._parts.pins,
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
        if self._parts.demo_environment:
            texts[ENVIRONMENT] = self._environment
        return texts

    def _environment(self) -> str:
        variables = self._parts.demo_environment or {}
        return "".join(f"{name}={value}\n" for name, value in variables.items())

    def _stats(self) -> str:
        parts = self._parts
        counts = dict.fromkeys(COUNTERS, 0) | parts.stats.snapshot()
        # What was fetched ahead and is not read yet may still be.
        counts["read_ahead_unused_bytes"] = (
            counts["read_ahead_bytes"] - counts["read_ahead_used_bytes"]
        )
        told = {
            "version": __version__,
            "pid": os.getpid(),
            "mountpoint": parts.mountpoint,
            "offline": parts.offline,
            "uptime_seconds": (time.time_ns() - parts.began_ns) // 10**9,
            "open_handles": len(parts.handles),
            "memory_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "memory_bytes": _resident_bytes(),
            **counts,
        }
        return json.dumps(told, indent=2) + "\n"


def _mode_of(name: str) -> int:
    """Return the mode of a file; the environment holds the key of the embedded cloud."""
    return PRIVATE_MODE if name == ENVIRONMENT else FILE_MODE


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


class RefreshNode(Node):
    """The file that makes the mount forget what it keeps of the remote side."""

    def __init__(self, path: str, parts: Parts) -> None:
        super().__init__(path)
        self._parts = parts

    def attrs(self) -> Attrs:
        began_ns = self._parts.began_ns
        return Attrs(FILE_MODE, inode(self.path), mtime_ns=began_ns, ctime_ns=began_ns)

    def open(self, *, writing: bool) -> Handle:
        return CommandHandle(self._forget)

    def change(self) -> None:
        pass

    def _forget(self) -> None:
        if self._parts.offline:
            raise Unavailable("--offline: what is forgotten could not be asked for again")
        self._parts.records.forget()
        self._parts.shelf.forget()
        self._parts.pins.release("")
