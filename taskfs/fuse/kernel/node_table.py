"""`NodeTable`: the nodeids that the kernel knows, their paths and lookup counts."""

import sys
import threading
from typing import Final

from taskfs.errors import NotFound
from taskfs.fuse.kernel.protocol import ROOT_ID

# 53 bits, because `.` and `..` show nodeids as inode numbers: see `nodes.INODE_BITS`.
_MASK: Final = (1 << 53) - 1


class NodeTable:
    """Maps nodeids to paths and back. Safe for concurrent use: the lock guards both dicts.

    An entry is the path of the directory and the name. Both strings exist elsewhere, so 100,000
    nodes take little memory. The nodeid is derived from their hash, so no second table is needed; a
    collision takes the next free number. Paths never change, because the file system has no rename.
    `PageCache` distinguishes the versions of an archive; a path has one nodeid for all of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: dict[int, tuple[str, str]] = {}
        self._lookup_count: dict[int, int] = {}  # only counts above 1

    def __len__(self) -> int:
        return len(self._at)

    def path(self, nodeid: int) -> str:
        """Return the path, with a leading slash, empty for the root.

        Raises:
            NotFound: the kernel does not know this nodeid, or has forgotten it.
        """
        if nodeid == ROOT_ID:
            return ""
        try:
            parent, name = self._at[nodeid]
        except KeyError:
            raise NotFound(f"no node has the number {nodeid}") from None
        return f"{parent}/{name}"

    def add_lookup(self, parent: str, name: str) -> int:
        """Return the nodeid of *name* in the directory *parent*, and count one more lookup."""
        node = sys.intern(parent), name  # one string for all nodes of the directory
        nodeid = hash(node) & _MASK
        with self._lock:
            while nodeid <= ROOT_ID or self._at.get(nodeid, node) != node:
                nodeid += 2
            if nodeid in self._at:
                self._lookup_count[nodeid] = self._lookup_count.get(nodeid, 1) + 1
            else:
                self._at[nodeid] = node
        return nodeid

    def forget(self, nodeid: int, count: int) -> None:
        """Subtract *count* lookups; at 0 the kernel has forgotten the nodeid."""
        with self._lock:
            left = self._lookup_count.pop(nodeid, 1) - count
            if left <= 0:
                self._at.pop(nodeid, None)
            elif left > 1:
                self._lookup_count[nodeid] = left
