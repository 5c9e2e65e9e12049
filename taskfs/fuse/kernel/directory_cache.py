"""`DirectoryCache`: the directories whose listings the kernel may keep and use again."""

import threading

from taskfs.fuse.kernel.protocol import OpenFlag


class DirectoryCache:
    """The listings that the kernel keeps and the directories that are open, by nodeid.

    The kernel fills its copy of a listing from the reads of an open with CACHE_DIR, and uses it for
    later opens with KEEP_CACHE. While the directory is also open with other contents, both flags
    would mix the two listings, so an open gets neither. Safe for concurrent use: the lock guards
    both tables.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[int, object] = {}  # what identifies the contents: see `Node.contents`
        self._open: dict[int, list[object]] = {}

    def open(self, nodeid: int, contents: object) -> int:
        """Note that a directory with *contents* is opened; return its flags (`OpenFlag`)."""
        with self._lock:
            opened = self._open.setdefault(nodeid, [])
            is_only = all(other == contents for other in opened)
            opened.append(contents)
            if contents is None or not is_only:
                self._kept.pop(nodeid, None)
                return 0
            if self._kept.get(nodeid) == contents:
                return OpenFlag.CACHE_DIR | OpenFlag.KEEP_CACHE
            self._kept[nodeid] = contents
            return OpenFlag.CACHE_DIR

    def close(self, nodeid: int, contents: object) -> None:
        """Note that an open directory with *contents* is closed."""
        with self._lock:
            opened = self._open[nodeid]
            opened.remove(contents)
            if not opened:
                del self._open[nodeid]

    def forget(self, nodeid: int) -> None:
        """Note that the kernel may have forgotten the directory, and so its listing."""
        self._kept.pop(nodeid, None)
