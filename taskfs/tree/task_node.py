"""A task's directory: its text files, `kill`, and the way to its archives."""

import contextlib
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Final

from taskfs.errors import AlreadyTerminated, NotFound, ReadOnly, TaskFSError
from taskfs.model import TaskStatus
from taskfs.tasks.archives import ArchiveKind
from taskfs.tasks.task_cache import CachedTask
from taskfs.tree.archive_nodes import MembersNode, RawArchiveNode
from taskfs.tree.context import TreeContext
from taskfs.tree.handles import CommandHandle, Handle
from taskfs.tree.metadata_xattrs import MetadataAttributes
from taskfs.tree.nodes import DIRECTORY_MODE, FILE_MODE, Attrs, Directory, Entry, Node, inode
from taskfs.tree.text_files import TEXT_FILES, TaskView, TextFile
from taskfs.tree.text_node import TextNode
from taskfs.tree.text_pins import Text

_TEXTS: Final = {file.name: file for file in TEXT_FILES}
_FOLDERS: Final = {"outputs": ArchiveKind.OUTPUT, "inputs": ArchiveKind.INPUT}
_RAW: Final = {"output.zip": ArchiveKind.OUTPUT, "input.zip": ArchiveKind.INPUT}
KILL: Final = "kill"


class TaskNode(MetadataAttributes, Directory):
    """A task's directory."""

    def __init__(self, task_id: str, context: TreeContext, known: CachedTask) -> None:
        Directory.__init__(self, task_id)
        MetadataAttributes.__init__(self, task_id, context)
        self._context = context
        self._known = known

    def attrs(self) -> Attrs:
        task = self._known.task
        return Attrs(
            DIRECTORY_MODE,
            inode(self.path),
            mtime_ns=task.last_change_ns,
            ctime_ns=task.create_ns or task.last_change_ns,
        )

    def lookup(self, name: str) -> Node:
        path = self.child_path(name)
        if (file := _TEXTS.get(name)) is not None:
            return TextNode(path, self._context.pins, lambda: self._render(file))
        if name == KILL:
            return KillNode(path, self._known, self._context)
        task, archives = self._known.task, self._context.archives
        if (kind := _FOLDERS.get(name)) is not None:
            return MembersNode(path, task, kind, archives)
        if (kind := _RAW.get(name)) is not None:
            archive = archives.await_archive(task, kind)
            if archive is not None:
                return RawArchiveNode(path, task, kind, archives, archive)
        raise NotFound(f"there is no {path}")

    def children(self) -> Iterable[Entry]:
        files = [self.entry(name, FILE_MODE) for name in (*_TEXTS, KILL)]
        return [*files, *(self.entry(name, DIRECTORY_MODE) for name in _FOLDERS)]

    def _render(self, file: TextFile) -> Text:
        # Asked for again: this node may have been resolved for what a pin answers.
        task_id, task_cache = self._known.task.id, self._context.task_cache
        known = task_cache.get_full(task_id) if file.needs_record else task_cache.get(task_id)
        view = TaskView(known, lambda: self._context.archives.get(known.task, ArchiveKind.OUTPUT))
        as_of_s = float("inf") if known.task.is_terminated else known.as_of_s
        body = file.render(view).encode("utf-8", "surrogateescape")
        return Text(body, file.mtime_ns(view), as_of_s)


class KillNode(Node):
    """The file that kills: it reads as empty, and the first byte written sends the request."""

    def __init__(self, path: str, known: CachedTask, context: TreeContext) -> None:
        super().__init__(path)
        self._known = known
        self._context = context

    def attrs(self) -> Attrs:
        created_ns = self._known.task.create_ns or 0
        return Attrs(FILE_MODE, inode(self.path), mtime_ns=created_ns, ctime_ns=created_ns)

    def open(self, *, writing: bool) -> Handle:
        self._check_writable(writing)
        return CommandHandle(_Kill(self._known.task.id, self._context))

    def change(self) -> None:
        self._check_writable(True)

    def _check_writable(self, writing: bool) -> None:
        if writing and self._context.read_only:
            raise ReadOnly("the mount is read-only")


class _Kill:
    """The kill of one task through one open file: sent once, however often it is waited for."""

    def __init__(self, task_id: str, context: TreeContext) -> None:
        self._task_id = task_id
        self._context = context
        self._sent: Future[TaskStatus] | None = None

    def __call__(self) -> None:
        """Send the request unless it is on its way; return once the API accepted it."""
        context, task_id = self._context, self._task_id
        if self._sent is None:
            task = context.task_cache.get(task_id).task
            if task.is_terminated:
                raise AlreadyTerminated(f"task {task_id} is {task.status}")
            self._sent = context.pool.submit(self._send)
        try:
            if context.waiter.result(self._sent).is_terminated:
                self._reload()  # a status alone does not tell when it ended, nor what it left
        except (AlreadyTerminated, NotFound):
            self._reload()
            raise

    def _send(self) -> TaskStatus:
        """Send it and note its effect, also for a caller who was interrupted and left."""
        try:
            answer = self._context.api.kill_task(self._task_id)
            self._context.task_cache.note_status(answer)
            return answer
        finally:
            self._context.pins.release(f"{self._task_id}/")

    def _reload(self) -> None:
        """Have what is read next agree with what the write was told: our record was behind."""
        with contextlib.suppress(TaskFSError):
            self._context.task_cache.reload(self._task_id)
        self._context.pins.release(f"{self._task_id}/")
