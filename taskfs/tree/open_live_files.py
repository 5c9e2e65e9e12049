"""`OpenLiveFiles`: which files of `live/` are open."""

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskfs.tree.live_file_handle import LiveFileHandle


class OpenLiveFiles:
    """The open files of `live/` by path: a file that is open keeps its name when its task ends.

    Safe for concurrent use: the lock guards the table.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: dict[str, list[LiveFileHandle]] = {}

    def add(self, path: str, handle: "LiveFileHandle") -> None:
        """Note that *path* is open."""
        with self._lock:
            self._handles.setdefault(path, []).append(handle)

    def remove(self, path: str, handle: "LiveFileHandle") -> None:
        """Note that *handle* is closed."""
        with self._lock:
            handles = self._handles.get(path, [])
            if handle in handles:
                handles.remove(handle)
            if not handles:
                self._handles.pop(path, None)

    def newest(self, path: str) -> "LiveFileHandle | None":
        """Return the handle of *path* that was opened last, None if it is not open."""
        with self._lock:
            handles = self._handles.get(path)
            return handles[-1] if handles else None

    def end(self, path: str) -> "LiveFileHandle | None":
        """Note that the task of *path* has ended; return what `newest` returns."""
        with self._lock:
            handles = self._handles.get(path, [])
            for handle in handles:
                handle.end()  # else a stat would report bytes that a read does not return
            return handles[-1] if handles else None

    def has_beneath(self, path: str) -> bool:
        """Whether any file beneath the directory *path* is open."""
        with self._lock:
            return any(other.startswith(f"{path}/") for other in self._handles)
