"""`live/`: the files of a running task, as its machine shows them.

Outside of `LIVE_STATUSES` the directory exists by name, is empty, and nothing asks a machine. A
file that a program still has open when its task ends keeps its name until it is closed.
"""

from collections.abc import Iterable
from functools import partial

from taskfs.errors import NotFound
from taskfs.model import LIVE_STATUSES, Task
from taskfs.tasks.archive_kind import ArchiveKind
from taskfs.tasks.live import LiveFiles
from taskfs.tasks.live_file import HOLE_BYTES
from taskfs.tasks.live_questions import LiveEnded
from taskfs.tasks.live_tasks import LiveTasks
from taskfs.tree.archive_nodes import ArchiveRootNode
from taskfs.tree.context import TreeContext
from taskfs.tree.handles import Handle
from taskfs.tree.lifetime import Lifetime
from taskfs.tree.live_file_handle import LiveFileHandle, SnapshotHandle
from taskfs.tree.nodes import (
    DIRECTORY_MODE,
    FILE_MODE,
    Attrs,
    Directory,
    Entry,
    Node,
    blocks_of,
    inode,
)


def live_attrs(path: str, task: Task, mode: int, size: int = 0) -> Attrs:
    """Return the attributes of a file or directory in `live/` of *task*."""
    began_ns = task.computation_start_ns or task.last_change_ns  # the machine reports no times
    # The hole before the end of a large file has no blocks.
    blocks = blocks_of(size - HOLE_BYTES if size > HOLE_BYTES else size)
    return Attrs(mode, inode(path), size, began_ns, began_ns, blocks, Lifetime.NONE)


class _LiveNode(Node):
    """A node in `live/` of *task*; *inner* is its path on the machine, empty for the top."""

    def __init__(
        self, path: str, inner: bytes, task: Task, live: LiveTasks, context: TreeContext
    ) -> None:
        super().__init__(path)
        self._inner = inner
        self._task = task
        self._live = live
        self._context = context

    def _files(self) -> LiveFiles | None:
        """Return the files on the machine, None after the task has ended."""
        if self._task.status not in LIVE_STATUSES:
            return None
        return self._live.files(self._task.id)

    def _attrs(self, mode: int, size: int = 0) -> Attrs:
        return live_attrs(self.path, self._task, mode, size)


class LiveDirectoryNode(_LiveNode, Directory):
    """`live/`, or a directory in it."""

    def attrs(self) -> Attrs:
        return self._attrs(DIRECTORY_MODE)

    def lookup(self, name: str) -> Node:
        path = self.child_path(name)
        try:
            raw = name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # surrogates that stand for no byte, in the path of a program
            raise NotFound(f"there is no {path!a}") from None
        inner = self._inner + b"/" + raw if self._inner else raw
        task, files = self._task, self._files()
        try:
            if files is not None:
                is_file = files.find(inner) is None
                kind = LiveFileNode if is_file else LiveDirectoryNode
                return kind(path, inner, task, self._live, self._context)
        except LiveEnded:
            # The status was requested above. With an older one, the child would ask the machine.
            cached = self._context.task_cache.get_cached(task.id)
            task = cached.task if cached is not None else task
        opened = self._context.open_live_files
        if opened.newest(path) is not None:
            return LiveFileNode(path, inner, task, self._live, self._context)
        if opened.has_beneath(path):
            return LiveDirectoryNode(path, inner, task, self._live, self._context)
        raise NotFound(f"there is no {path}")

    def children(self) -> Iterable[Entry]:
        files = self._files()
        try:
            folder = None if files is None else files.find(self._inner)
        except LiveEnded:
            return []
        if folder is None:
            return []
        return [
            self.entry(
                name.decode("utf-8", "surrogateescape"),
                FILE_MODE if below is None else DIRECTORY_MODE,
            )
            for name, below in folder.entries.items()
        ]


class LiveFileNode(_LiveNode):
    """A file in `live/`."""

    def attrs(self) -> Attrs:
        files = self._files()
        try:
            if files is not None:
                return self._attrs(FILE_MODE, files.size(self._inner))
        except LiveEnded:
            pass
        handle = self._context.open_live_files.end(self.path)
        if handle is None:
            raise NotFound(f"there is no {self.path}")
        return self._attrs(FILE_MODE, handle.size_after_end())

    def open(self, *, writing: bool) -> Handle:
        files = self._files_to_open(writing)
        opened = self._context.open_live_files
        try:
            live = files.open(self._inner)
        except LiveEnded:
            raise NotFound(f"there is no {self.path}") from None
        handle = LiveFileHandle(
            live,
            partial(self._live.is_live, self._task.id),
            self._open_member,
            partial(opened.remove, self.path),
        )
        opened.add(self.path, handle)
        return handle

    def open_snapshot(self) -> Handle:
        """Return the file as it is now, for a reader that needs a constant size."""
        try:
            return SnapshotHandle(self._files_to_open(False).open(self._inner))
        except LiveEnded:
            raise NotFound(f"there is no {self.path}") from None

    def _files_to_open(self, writing: bool) -> LiveFiles:
        self._refuse_writing(writing)
        files = self._files()
        if files is None:
            raise NotFound(f"there is no {self.path}")
        return files

    def _open_member(self) -> Handle | None:
        """Open the same file in the output archive; return None while there is no archive."""
        context = self._context
        task = context.task_cache.get(self._task.id).task
        if context.archives.get(task, ArchiveKind.OUTPUT) is None:
            return None
        node: Node = ArchiveRootNode(
            f"{task.id}/outputs", task, ArchiveKind.OUTPUT, context.archives, context.page_cache
        )
        for name in self.path.split("/")[2:]:  # after the task's id and `live`
            node = node.lookup(name)
        return node.open(writing=False)
