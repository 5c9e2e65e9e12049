"""`SegmentTable`: the segment files that this process has open."""

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

from taskfs.cache.segment_file import SEGMENT_BLOCKS, Segment

MAX_OPEN: Final = 64  # files: of the 1024 that a process may open by default


class SegmentTable:
    """Open segments by path; the least recently used is closed first.

    Safe for concurrent use: the lock guards the table, and files are opened outside of it. A
    segment that leaves the table is closed once its last reader is done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._segments: OrderedDict[Path, Segment] = OrderedDict()

    def open(self, path: Path, *, create: bool) -> Segment | None:
        """Return the segment at *path*; None if there is no such file and *create* is false.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            segment = self._segments.get(path)
            if segment is not None:
                self._segments.move_to_end(path)
        if segment is not None:
            if not segment.is_removed:
                return segment
            self._remove(path, segment)
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            if not create:
                return None
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
        segment = Segment(path, descriptor)
        segment.read_table(0, SEGMENT_BLOCKS)
        with self._lock:
            segment = self._segments.setdefault(path, segment)
            while len(self._segments) > MAX_OPEN:
                self._segments.popitem(last=False)
        return segment

    def forget(self, path: Path) -> None:
        """Remove the segment at *path* from the table, if it is open."""
        with self._lock:
            self._segments.pop(path, None)

    def _remove(self, path: Path, segment: Segment) -> None:
        with self._lock:
            if self._segments.get(path) is segment:
                del self._segments[path]
