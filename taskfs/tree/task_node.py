"""A task's directory: its text files, `kill`, `outputs/`, `inputs/`, `live/`, the raw archives."""

import contextlib
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Final

from taskfs.errors import AlreadyTerminated, NotFound, ReadOnly, TaskFSError
from taskfs.tasks.archive_kind import ArchiveKind
from taskfs.tasks.known_tasks import CachedTask
from taskfs.tree.context import LIVE, TreeContext
from taskfs.tree.handles import ControlHandle, Handle
from taskfs.tree.held_texts import Text
from taskfs.tree.metadata_xattrs import MetadataAttributes
from taskfs.tree.nodes import DIRECTORY_MODE, FILE_MODE, Attrs, Directory, Entry, Node, inode
from taskfs.tree.text_files import TEXT_FILES, TaskView, TextFile
from taskfs.tree.text_node import TextNode

_TEXTS: Final = {file.name: file for file in TEXT_FILES}
DIRECTORIES: Final = {kind.directory: kind for kind in ArchiveKind}
_RAW: Final = {"output.zip": ArchiveKind.OUTPUT, "input.zip": ArchiveKind.INPUT}
KILL: Final = "kill"


def task_attrs(path: str, created_ns: int, changed_ns: int) -> Attrs:
    """Return the attributes of a task's directory."""
    ctime_ns = created_ns or changed_ns
    return Attrs(DIRECTORY_MODE, inode(path), mtime_ns=changed_ns, ctime_ns=ctime_ns)


class TaskNode(MetadataAttributes, Directory):
    """A task's directory."""

    def __init__(self, task_id: str, context: TreeContext, cached: CachedTask) -> None:
        Directory.__init__(self, task_id)
        MetadataAttributes.__init__(self, task_id, context)
        self._cached = cached

    def attrs(self) -> Attrs:
        task = self._cached.task
        return task_attrs(self.path, task.create_ns or 0, task.last_change_ns)

    def lookup(self, name: str) -> Node:
        path = self.child_path(name)
        if (file := _TEXTS.get(name)) is not None:
            return TextNode(path, self._context.held_texts, lambda: self._render(file))
        if name == KILL:
            return KillNode(path, self._cached, self._context)
        task, archives = self._cached.task, self._context.archives
        if (kind := DIRECTORIES.get(name)) is not None:
            from taskfs.tree.archive_nodes import ArchiveRootNode

            return ArchiveRootNode(path, task, kind, archives, self._context.page_cache)
        if name == LIVE and self._context.live is not None:
            from taskfs.tree.live_nodes import LiveDirectoryNode

            return LiveDirectoryNode(path, b"", task, self._context.live, self._context)
        if (kind := _RAW.get(name)) is not None:
            archive = archives.await_archive(task, kind, raw=True)
            if archive is not None:
                from taskfs.tree.raw_archive_node import RawArchiveNode

                page_cache = self._context.page_cache
                return RawArchiveNode(path, task, kind, archive, archives, page_cache)
        raise NotFound(f"there is no {path}")

    def children(self) -> Iterable[Entry]:
        files = [self.entry(name, FILE_MODE) for name in (*_TEXTS, KILL)]
        live = (LIVE,) if self._context.lists_live(self._cached.task) else ()
        return [*files, *(self.entry(name, DIRECTORY_MODE) for name in (*DIRECTORIES, *live))]

    def _render(self, file: TextFile) -> Text:
        # Get the record again, because this node may have been made before the record changed.
        task_id, task_cache = self._cached.task.id, self._context.task_cache
        cached = task_cache.get_full(task_id) if file.needs_record else task_cache.get(task_id)
        archives = self._context.archives
        view = TaskView(cached, lambda: archives.get(cached.task, ArchiveKind.OUTPUT))
        as_of_s = float("inf") if cached.task.is_terminated else cached.as_of_s
        text = file.render(view)
        body = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        return Text(body, file.mtime_ns(view), as_of_s)


class KillNode(Node):
    """The file that kills the task: it reads as empty; the first byte written sends the request."""

    def __init__(self, path: str, cached: CachedTask, context: TreeContext) -> None:
        super().__init__(path)
        self._cached = cached
        self._context = context

    def attrs(self) -> Attrs:
        created_ns = self._cached.task.create_ns or 0
        return Attrs(FILE_MODE, inode(self.path), mtime_ns=created_ns, ctime_ns=created_ns)

    def open(self, *, writing: bool) -> Handle:
        self._check_writable(writing)
        return ControlHandle(self._start_kill, self._context.waiter)

    def change(self) -> None:
        self._check_writable(True)

    def _check_writable(self, writing: bool) -> None:
        if writing and self._context.read_only:
            raise ReadOnly("the mount is read-only")

    def _start_kill(self) -> "Future[None]":
        """Send the kill request in the background, and do not wait.

        Only a cached terminal status is checked here, because it is final; `kill_task` reads the
        current status itself.

        Raises:
            AlreadyTerminated: there is nothing to kill.
        """
        task = (self._context.task_cache.get_cached(self._cached.task.id) or self._cached).task
        if task.is_terminated:
            raise AlreadyTerminated(f"task {task.id} is {task.status}")
        return self._context.api_pool.submit(self._kill, task.id)

    def _kill(self, task_id: str) -> None:
        """Send the request and record its effect, also if the writer was interrupted."""
        context = self._context
        try:
            status = context.api.kill_task(task_id)
            context.task_cache.note_status(status)
            if status.is_terminated:
                self._load(task_id)  # a status alone has neither the end time nor the outputs
        except (AlreadyTerminated, NotFound):
            self._load(task_id)  # the cached task was out of date
            raise
        finally:
            context.held_texts.release(f"{task_id}/")

    def _load(self, task_id: str) -> None:
        with contextlib.suppress(TaskFSError):
            self._context.task_cache.load(task_id)
