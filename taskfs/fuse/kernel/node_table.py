"""`NodeTable`: the paths that the kernel knows by number (nodeid), and how often it was told each."""

import sys
import threading
from typing import Final

from taskfs.errors import NotFound
from taskfs.fuse.kernel.protocol import ROOT_ID

_MASK: Final = (1 << 62) - 1


class NodeTable:
    """From nodeid to path and back. Safe for concurrent use.

    A place is kept as its directory's path and its name: both are somebody else's strings, so
    that 100,000 places take little memory. Its number is made of their hash, so that no second
    table leads back; two that would have the same are told apart. Nothing is ever renamed, so a
    path stays what it is; the bytes of an archive that is replaced are the shelf's to tell apart.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: dict[int, tuple[str, str]] = {}
        self._told: dict[int, int] = {}  # how often, where that is more than once

    def __len__(self) -> int:
        return len(self._at)

    def path(self, nodeid: int) -> str:
        """Return the path, with a leading slash, empty for the root.

        Raises:
            NotFound: the kernel was never told that number, or has forgotten it.
        """
        if nodeid == ROOT_ID:
            return ""
        try:
            parent, name = self._at[nodeid]
        except KeyError:
            raise NotFound(f"no place has the number {nodeid}") from None
        return f"{parent}/{name}"

    def add_lookup(self, parent: str, name: str) -> int:
        """Return the number of *name* in the directory *parent*; the kernel is told once more."""
        place = sys.intern(parent), name  # one string for all that is in the directory
        nodeid = hash(place) & _MASK
        with self._lock:
            while nodeid <= ROOT_ID or self._at.get(nodeid, place) != place:
                nodeid += 2
            if nodeid in self._at:
                self._told[nodeid] = self._told.get(nodeid, 1) + 1
            else:
                self._at[nodeid] = place
        return nodeid

    def forget(self, nodeid: int, count: int) -> None:
        """The kernel forgot the number, *count* times; it knows it as often as it was told."""
        with self._lock:
            left = self._told.pop(nodeid, 1) - count
            if left <= 0:
                self._at.pop(nodeid, None)
            elif left > 1:
                self._told[nodeid] = left
