"""`.by-date`: a link to each task, with a name that has its time, simulator and status."""

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final

from taskfs.errors import NotFound
from taskfs.model import Task
from taskfs.tasks.task_cache import TaskCache
from taskfs.tree.nodes import DIRECTORY_MODE, LINK_MODE, Attrs, Directory, Entry, Link, Node, inode
from taskfs.tree.view_nodes import view_name

BY_DATE: Final = ".by-date"
ID_LENGTH: Final = 8  # letters of the id in a name: enough for commands, which take prefixes


def link_name(task: Task, id_length: int = ID_LENGTH) -> str:
    """Return `2026-11-28T21-31_openfoam_failed_<id>`, with the local time of the creation."""
    created = time.localtime((task.create_ns or 0) / 1e9)
    words = (
        time.strftime("%Y-%m-%dT%H-%M", created),
        view_name(task.simulator)[:64],
        view_name(task.status)[:64],
        task.id[:id_length],
    )
    return "_".join(words)


class DateViewNode(Directory):
    """The links of all tasks, newest first."""

    def __init__(self, names: "DateNames", began_ns: int) -> None:
        super().__init__(BY_DATE)
        self._names = names
        self._began_ns = began_ns

    def attrs(self) -> Attrs:
        return Attrs(
            DIRECTORY_MODE, inode(self.path), mtime_ns=self._began_ns, ctime_ns=self._began_ns
        )

    def lookup(self, name: str) -> Node:
        task = self._names.tasks().get(name)
        if task is None:
            raise NotFound(f"there is no {self.child_path(name)}")
        return Link(self.child_path(name), f"../{task.id}", task.last_change_ns)

    def children(self) -> Iterable[Entry]:
        return [self.entry(name, LINK_MODE) for name in self._names.tasks()]


class DateNames:
    """The tasks by the names of their links, built again when the listing or a task changes.

    Safe for concurrent use: the lock guards the last result, which is never changed.
    """

    def __init__(self, task_cache: TaskCache) -> None:
        self._task_cache = task_cache
        self._lock = threading.Lock()
        self._built: tuple[object, Mapping[str, Task]] = (None, {})

    def tasks(self) -> Mapping[str, Task]:
        """Return the tasks by link name, newest first."""
        self._task_cache.refresh()
        version = (self._task_cache.version, self._task_cache.selection)
        with self._lock:
            if self._built[0] == version:
                return self._built[1]
        named: dict[str, Task] = {}
        for task in self._task_cache.listing():
            name = link_name(task)
            named[name if name not in named else link_name(task, len(task.id))] = task
        with self._lock:
            self._built = version, named
        return named
