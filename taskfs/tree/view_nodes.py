"""The views: directories of links that group the tasks by status, project or simulator."""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from taskfs.errors import NotFound
from taskfs.model import KNOWN_STATUSES, Task
from taskfs.tasks.task_cache import TaskCache
from taskfs.tree.nodes import DIRECTORY_MODE, LINK_MODE, Attrs, Directory, Entry, Link, Node, inode

VIEWS: Final[Mapping[str, Callable[[Task], str | None]]] = {
    ".by-status": lambda task: task.status,
    ".by-project": lambda task: task.project,
    ".by-simulator": lambda task: task.simulator,
}
_ALWAYS: Final[Mapping[str, tuple[str, ...]]] = {".by-status": KNOWN_STATUSES}
NAME_MAX: Final = 255


def view_name(value: str | None) -> str:
    """Return the directory name of a view for *value*: `/`, NUL, `.` and `..` percent-encoded."""
    if not value:
        return "none"
    if value in (".", ".."):
        return value.replace(".", "%2E")
    return value.replace("/", "%2F").replace("\0", "%00")


class Views:
    """The groups of every view, rebuilt when a status or the listing has changed.

    Safe for concurrent use: a group is never changed after it was built.
    """

    def __init__(self, task_cache: TaskCache) -> None:
        self._task_cache = task_cache
        self._lock = threading.Lock()
        self._built: tuple[int, dict[str, dict[str, dict[str, Task]]]] | None = None

    def groups(self, view: str) -> dict[str, dict[str, Task]]:
        """Return the tasks of one view by group name and task id."""
        tasks = self._task_cache.listing()
        version = self._task_cache.version
        with self._lock:
            if self._built is None or self._built[0] != version:
                self._built = (version, {name: _group(name, tasks) for name in VIEWS})
            return self._built[1][view]


def _group(view: str, tasks: Iterable[Task]) -> dict[str, dict[str, Task]]:
    groups: dict[str, dict[str, Task]] = {name: {} for name in _ALWAYS.get(view, ())}
    for task in tasks:
        name = view_name(VIEWS[view](task))
        if len(name.encode("utf-8", "surrogateescape")) <= NAME_MAX:
            groups.setdefault(name, {})[task.id] = task
    return groups


class ViewNode(Directory):
    """One view: a directory for each value of its attribute."""

    def __init__(self, name: str, views: Views, began_ns: int) -> None:
        super().__init__(name)
        self._views = views
        self._began_ns = began_ns

    def attrs(self) -> Attrs:
        return Attrs(
            DIRECTORY_MODE, inode(self.path), mtime_ns=self._began_ns, ctime_ns=self._began_ns
        )

    def lookup(self, name: str) -> Node:
        group = self._views.groups(self.path).get(name)
        if group is None:
            raise NotFound(f"there is no {self.child_path(name)}")
        return GroupNode(self.child_path(name), group, self._began_ns)

    def children(self) -> Iterable[Entry]:
        return [self.entry(name, DIRECTORY_MODE) for name in self._views.groups(self.path)]


class GroupNode(Directory):
    """The tasks of one group, as links to their directories."""

    def __init__(self, path: str, tasks: Mapping[str, Task], began_ns: int) -> None:
        super().__init__(path)
        self._tasks = tasks
        self._began_ns = began_ns

    def attrs(self) -> Attrs:
        newest_ns = max((t.last_change_ns for t in self._tasks.values()), default=self._began_ns)
        return Attrs(DIRECTORY_MODE, inode(self.path), mtime_ns=newest_ns, ctime_ns=newest_ns)

    def lookup(self, name: str) -> Node:
        task = self._tasks.get(name)
        if task is None:
            raise NotFound(f"there is no {self.child_path(name)}")
        return Link(self.child_path(name), f"../../{name}", task.last_change_ns)

    def children(self) -> Iterable[Entry]:
        return [self.entry(name, LINK_MODE) for name in self._tasks]
