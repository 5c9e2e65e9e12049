"""`HandleTable`: the open files of a mount by number."""

import itertools
import threading

from taskfs.errors import (
    BadHandle,
)
from taskfs.tree.handles import Handle


class HandleTable:
    """The open files by number. Safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: Handle) -> int:
        """Return a number for *handle* that no other open file has had before."""
        with self._lock:
            number = next(self._numbers)
            self._handles[number] = handle
            return number

    def get(self, number: int) -> Handle:
        """Return the open file with this number.

        Raises:
            BadHandle: there is none.
        """
        try:
            return self._handles[number]
        except KeyError:
            raise BadHandle(f"no open file has the number {number}") from None

    def close(self, number: int) -> None:
        """Close the file and forget its number."""
        with self._lock:
            handle = self._handles.pop(number, None)
        if handle is not None:
            handle.close()
