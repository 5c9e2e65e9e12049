"""The views: directories of links that group the tasks by status, project or simulator."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from taskfs.errors import NotFound
from taskfs.model import KNOWN_STATUSES
from taskfs.tasks.task_groups import TaskGroups
from taskfs.tree.nodes import DIRECTORY_MODE, LINK_MODE, Attrs, Directory, Entry, Link, Node, inode
from taskfs.tree.task_entries import TaskEntries

# The field of a task that each view groups by.
VIEWS: Final[Mapping[str, str]] = {
    ".by-status": "status",
    ".by-project": "project",
    ".by-simulator": "simulator",
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


class Group(NamedTuple):
    """The tasks with one of *values* of a field; different values may have the same name."""

    field: str
    values: tuple[str, ...] = ()
    changed_ns: int = 0  # when a task of the group last changed; 0 if there is none


class Views:
    """The groups of every view. Safe for concurrent use, because it is immutable."""

    def __init__(self, groups: TaskGroups) -> None:
        self.groups_of_tasks = groups

    def groups(self, view: str, *, cached: bool = False) -> dict[str, Group]:
        """Return the groups of one view by name; see `TaskGroups.values`."""
        field = VIEWS[view]
        groups = {name: Group(field) for name in _ALWAYS.get(view, ())}
        for value, changed_ns in self.groups_of_tasks.values(field, cached=cached).items():
            name = view_name(value)
            if len(name.encode("utf-8", "surrogateescape")) <= NAME_MAX:
                before = groups.get(name, Group(field))
                newest_ns = max(changed_ns, before.changed_ns)
                groups[name] = Group(field, (*before.values, value), newest_ns)
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
        return GroupNode(self.child_path(name), group, self._views.groups_of_tasks, self._began_ns)

    def children(self) -> Iterable[Entry]:
        return [self.entry(name, DIRECTORY_MODE) for name in self._views.groups(self.path)]


class GroupNode(Directory):
    """The tasks of one group, as links to their directories."""

    def __init__(self, path: str, group: Group, groups: TaskGroups, began_ns: int) -> None:
        super().__init__(path)
        self._group = group
        self._groups = groups
        self._began_ns = began_ns

    def attrs(self) -> Attrs:
        newest_ns = self._group.changed_ns if self._group.values else self._began_ns
        return Attrs(DIRECTORY_MODE, inode(self.path), mtime_ns=newest_ns, ctime_ns=newest_ns)

    def lookup(self, name: str) -> Node:
        changed_ns = self._groups.changed_ns(self._group.field, self._group.values, name)
        if changed_ns is None:
            raise NotFound(f"there is no {self.child_path(name)}")
        return Link(self.child_path(name), f"../../{name}", changed_ns)

    def children(self) -> Iterable[Entry]:
        return TaskEntries(self._groups.ids(self._group.field, self._group.values), self._entries)

    def _entries(self, ids: Sequence[str]) -> list[Entry]:
        return [self.entry(task_id, LINK_MODE) for task_id in ids]
