"""`Tree`: from a path to a `Node`. It defines the file system, and knows no FUSE.

A name that cannot exist causes no request.
"""

import time
from collections.abc import Iterable
from typing import Final

from taskfs.errors import NotFound
from taskfs.tasks.task_table import FIELDS, to_csv
from taskfs.tree.archive_nodes import ArchiveDirectoryNode, ArchiveRootNode
from taskfs.tree.context import TreeContext
from taskfs.tree.control_nodes import CONTROL_DIR, ControlNode
from taskfs.tree.date_view import BY_DATE, DateNames, DateViewNode
from taskfs.tree.handles import HandleTable
from taskfs.tree.held_texts import Text
from taskfs.tree.nodes import DIRECTORY_MODE, LINK_MODE, Attrs, Directory, Entry, Link, Node, inode
from taskfs.tree.task_node import TaskNode, task_attrs
from taskfs.tree.text_node import TextNode
from taskfs.tree.view_nodes import VIEWS, ViewNode

LATEST: Final = ".latest"
TASKS_FILE: Final = "tasks.csv"  # found by name, and not listed among the tasks
MAX_DIRECTORIES: Final = 256
DIRECTORY_TTL_S: Final = 1.0  # the default attr timeout of the kernel


class Tree:
    """The whole tree. Safe for concurrent use: its parts are, and a node never changes."""

    def __init__(self, context: TreeContext) -> None:
        self.context = context
        self._root = RootNode(context)
        # Directories of archives that were resolved just now, with their expiry and the registry's
        # epoch: a walk looks up one name after another. Single operations of a dict need no lock.
        self._directories: dict[str, tuple[float, int, ArchiveDirectoryNode]] = {}

    def resolve(self, path: str) -> Node:
        """Return the node at *path*, which starts with a slash.

        Raises:
            NotFound: there is none.
            NotADirectory: the path continues beneath a file.
        """
        parent, _, last = path.rpartition("/")
        directory = self._directory(parent)
        if directory is not None and last:
            return directory.lookup(last)
        epoch = self.context.archives.epoch
        node: Node = self._root
        for name in parent.split("/"):
            if name:
                node = node.lookup(name)
        if isinstance(node, ArchiveRootNode):
            node = node.directory() or node
        if isinstance(node, ArchiveDirectoryNode):
            if len(self._directories) >= MAX_DIRECTORIES:
                self._directories.clear()
            self._directories[parent] = (time.monotonic() + DIRECTORY_TTL_S, epoch, node)
        return node.lookup(last) if last else node

    def attrs(self, path: str) -> Attrs:
        """Return the attributes of the node at *path*; raise as `resolve` does."""
        parent, _, last = path.rpartition("/")
        directory = self._directory(parent)
        return (
            directory.attrs_of(last)
            if directory is not None and last
            else self.resolve(path).attrs()
        )

    def _directory(self, path: str) -> ArchiveDirectoryNode | None:
        """Return the directory of an archive at *path* if it was resolved just now."""
        cached = self._directories.get(path)
        if cached is None:
            return None
        expiry_s, epoch, directory = cached
        is_valid = time.monotonic() <= expiry_s and epoch == self.context.archives.epoch
        return directory if is_valid else None

    @property
    def handles(self) -> HandleTable:
        """The open files."""
        return self.context.handles


class RootNode(Directory):
    """The mountpoint: a directory for each task, the views, `.taskfs/` and `tasks.csv`.

    The last two are not listed.
    """

    def __init__(self, context: TreeContext) -> None:
        super().__init__("")
        self._context = context
        self._date_names = DateNames(context.task_cache)

    def attrs(self) -> Attrs:
        newest_ns = self._context.task_cache.newest_ns() or self._context.began_ns
        return Attrs(DIRECTORY_MODE, inode(""), mtime_ns=newest_ns, ctime_ns=newest_ns)

    def lookup(self, name: str) -> Node:
        if name.startswith("."):
            if name == CONTROL_DIR:
                return ControlNode(self._context)
            if name in VIEWS:
                return ViewNode(name, self._context.views, self._context.began_ns)
            if name == BY_DATE:
                return DateViewNode(self._date_names, self._context.began_ns)
            if name == LATEST:
                return self._latest()
            raise NotFound(f"there is no {name}")
        if name == TASKS_FILE:
            return TextNode(name, self._context.held_texts, self._render_tasks)
        return TaskNode(name, self._context, self._context.task_cache.get(name))

    def _render_tasks(self) -> Text:
        tasks = self._context.task_cache.listing()
        now_ns = time.time_ns()
        times = [task.last_change_ns if task.is_terminated else now_ns for task in tasks]
        body = to_csv(tasks, tuple(FIELDS), now_ns).encode("utf-8", "replace")
        return Text(body, max(times, default=self._context.began_ns))

    def _latest(self) -> Link:
        ids = self._context.task_cache.ids()
        if not ids:
            raise NotFound("there are no tasks")
        return Link(LATEST, ids[0], self._context.task_cache.newest_ns())

    def known_attrs(self, name: str) -> Attrs | None:
        times = self._context.task_cache.finished_times(name)
        return None if times is None else task_attrs(name, *times)

    def children(self) -> Iterable[Entry]:
        ids = self._context.task_cache.ids()
        entries = [self.entry(task_id, DIRECTORY_MODE) for task_id in ids]
        entries += [self.entry(name, DIRECTORY_MODE) for name in (*VIEWS, BY_DATE)]
        if ids:
            entries.append(self.entry(LATEST, LINK_MODE))
        return entries
