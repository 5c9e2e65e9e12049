"""`EventOperations`: the operations of a mount whose changes are announced to the kernel.

The kernel sends inotify events for calls that go through the mount. `EventSender` makes such a call
in a process of its own. This class lets the call succeed if that process makes it, and if it has
the announced path and kind. All other callers are refused as before.
"""

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from taskfs.fuse.attributes import AttributePolicy, DepartedAttributes, FileAttributes
from taskfs.fuse.operations import OpenResult, TaskOperations
from taskfs.tree.context import LIVE
from taskfs.tree.handles import TextHandle
from taskfs.tree.lifetime import Lifetime
from taskfs.tree.nodes import DIRECTORY_MODE, Attrs, inode
from taskfs.tree.page_cache import PageCacheMode
from taskfs.tree.tree import Tree
from taskfs.tree.tree_events import EventKind, TreeEvent

_MAKES: Final = {
    EventKind.MAKE_DIRECTORY: frozenset({"mkdir"}),
    EventKind.MAKE_FILE: frozenset({"mknod", "create"}),  # libfuse tries `create` first
    EventKind.MAKE_LINK: frozenset({"symlink"}),
}
_REMOVES: Final = {
    EventKind.REMOVE_DIRECTORY: "rmdir",
    EventKind.REMOVE_LINK: "unlink",
}


class _Announcement:
    """One event, and how many of the helper's calls for it have been answered."""

    def __init__(self, event: TreeEvent, attrs: FileAttributes) -> None:
        self.event = event
        self._attrs = attrs
        self._was_looked_up = False
        self._is_done = False

    def answer(self, op: str) -> Any:
        """Answer the operation *op* of the helper on the event's path.

        Raises:
            OSError: the helper's call does not belong to the event, or must be repeated (EBUSY).
        """
        kind = self.event.kind
        if kind in _MAKES:
            if op in _MAKES[kind]:
                self._is_done = True
            elif not self._is_done:
                raise OSError(errno.ENOENT, "the name is about to come")
            return self._attrs
        if op == "getattr":
            if self._is_done:
                raise OSError(errno.ENOENT, "the name is gone")
            self._was_looked_up = True
            return DepartedAttributes(*self._attrs)
        if op != _REMOVES.get(kind):
            raise OSError(errno.EROFS, "")
        if not self._was_looked_up:
            # The kernel still has the name from an earlier lookup. The call would mark that inode
            # as removed, and it may be the working directory of a program.
            raise OSError(errno.EBUSY, "")
        self._is_done = True
        return None


class EventOperations(TaskOperations):
    """`TaskOperations` that answer the calls of the helper process.

    *calling_pid* returns the process whose request the calling thread serves.

    Safe for concurrent use: one thread announces, and the table of requests in flight changes by
    single operations of a dict.
    """

    def __init__(self, tree: Tree, policy: AttributePolicy, calling_pid: Callable[[], int]) -> None:
        super().__init__(tree, policy, tree.context.stats)
        self._calling_pid = calling_pid
        self._helper_pid = 0
        self._announcement: _Announcement | None = None
        self._running: dict[int, tuple[str, str]] = {}  # operation and path by thread
        # Set by each request of another process than the helper.
        self.requested = threading.Event()
        # Whether lookups are noted for `is_quiet`: while a program watches the mount.
        self.tracks_lookups = False

    def __call__(self, op: str, path: str, *args: Any) -> Any:
        if self._helper_pid and self._calling_pid() == self._helper_pid:
            return self._answer_helper(op, path, *args)
        if not self.requested.is_set():
            self.requested.set()
        if op != "readdir" and not (self.tracks_lookups and op == "getattr"):
            return super().__call__(op, path, *args)
        thread = threading.get_ident()
        self._running[thread] = op, path
        try:
            return super().__call__(op, path, *args)
        finally:
            self._running.pop(thread, None)

    @contextlib.contextmanager
    def announced(self, event: TreeEvent, helper_pid: int) -> Iterator[None]:
        """Let the process *helper_pid* make the call of *event* while the block runs."""
        self._announcement = _Announcement(event, self._policy.apply(event.attrs))
        self._helper_pid = helper_pid
        try:
            yield
        finally:
            self._helper_pid = 0
            self._announcement = None

    def is_quiet(self, directory: str) -> bool:
        """Whether no request is in flight for which the kernel holds the lock of *directory*.

        A call that changes the directory would wait for that request, and others for the call.
        """
        for op, path in list(self._running.values()):
            inner = path.strip("/")
            if op == "readdir" and inner == directory:
                return False
            if op == "getattr" and inner.rpartition("/")[0] == directory:
                return False
        return True

    def _answer_helper(self, op: str, path: str, *args: Any) -> Any:
        announcement = self._announcement
        if announcement is None or path.strip("/") != announcement.event.path:
            if op == "getattr" and announcement is not None and _is_within_live(path):
                attrs = Attrs(DIRECTORY_MODE, inode(path.strip("/")), lifetime=Lifetime.NONE)
                return self._policy.apply(attrs)
            return super().__call__(op, path, *args)  # a directory of the event's path
        if announcement.event.kind.changes_directory:
            return announcement.answer(op)
        if op == "getattr" and announcement.event.attrs.lifetime is Lifetime.NONE:
            return self._policy.apply(announcement.event.attrs)  # a machine may be silent
        if op == "open":  # for IN_CLOSE_WRITE; the kernel sends the release without a caller
            return OpenResult(self._tree.handles.add(TextHandle(b"")), PageCacheMode.DIRECT)
        return None if op == "utimens" else super().__call__(op, path, *args)


def _is_within_live(path: str) -> bool:
    """Whether *path* is beneath a task's `live/`, where a lookup may ask the task's machine."""
    names = path.strip("/").split("/")
    return len(names) > 2 and names[1] == LIVE
