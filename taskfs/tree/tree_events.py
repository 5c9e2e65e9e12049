"""The effect of a task's change on the tree: one `TreeEvent` for each file, link or directory."""

import enum
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from taskfs.model import Task
from taskfs.tasks.changes import TaskChange
from taskfs.tasks.known_tasks import CachedTask
from taskfs.tree.context import LIVE
from taskfs.tree.date_view import BY_DATE, link_name
from taskfs.tree.nodes import DIRECTORY_MODE, FILE_MODE, Attrs, Link, inode
from taskfs.tree.task_node import task_attrs
from taskfs.tree.text_files import TEXT_FILES, TaskView
from taskfs.tree.view_nodes import NAME_MAX, VIEWS, Views, view_name

COMPUTATION_TIME: Final = "computation_time"
OUTPUT_FILES_INFO: Final = "output_files_info"


class EventKind(enum.Enum):
    """The kind of a change, by the call that makes the kernel send the event."""

    MODIFY = "modify"
    ATTRIB = "attrib"
    MAKE_DIRECTORY = "mkdir"
    MAKE_FILE = "mknod"
    MAKE_LINK = "symlink"
    REMOVE_DIRECTORY = "rmdir"
    REMOVE_LINK = "unlink"

    @property
    def changes_directory(self) -> bool:
        """Whether a name is made or removed."""
        return self not in (EventKind.MODIFY, EventKind.ATTRIB)


_OPPOSITES: Final = (
    {EventKind.MAKE_DIRECTORY, EventKind.REMOVE_DIRECTORY},
    {EventKind.MAKE_LINK, EventKind.REMOVE_LINK},
)


class TreeEvent(NamedTuple):
    """One change at *path*, which has no leading slash; *attrs* are those of a new or old name."""

    kind: EventKind
    path: str
    attrs: Attrs = Attrs(FILE_MODE, 0)
    target: str = ""

    @property
    def parent(self) -> str:
        """The path of the directory."""
        return self.path.rpartition("/")[0]

    def undoes(self, earlier: "TreeEvent") -> bool:
        """Whether the change is back to the state before *earlier*, a change of the same path."""
        return {self.kind, earlier.kind} in _OPPOSITES and self.target == earlier.target

    @property
    def watched_inodes(self) -> Iterator[int]:
        """The inodes whose watches get the event: of the directory, and of the file itself."""
        yield inode(self.parent)
        if not self.kind.changes_directory:
            yield inode(self.path)


class TreeEvents:
    """Turns changes of tasks into events. One thread uses it.

    *lists_live* returns whether a task's directory lists `live/`.
    """

    def __init__(self, views: Views, lists_live: Callable[[Task], bool]) -> None:
        self._views = views
        self._lists_live = lists_live
        self._groups: frozenset[str] = frozenset()

    def start(self) -> None:
        """Take the groups of the views as those before the first change."""
        self._groups = self._group_paths()

    def of_changes(self, changes: Sequence[TaskChange]) -> Iterator[TreeEvent]:
        """Yield the events of *changes*, each in a directory that is there."""
        before = self._groups
        after = self._groups = self._group_paths() if changes else before
        for path in sorted(after - before):
            yield TreeEvent(EventKind.MAKE_DIRECTORY, path, Attrs(DIRECTORY_MODE, inode(path)))
        for change in changes:
            yield from _change_events(change)
            yield from self._live_events(change)
        for path in sorted(before - after):
            yield TreeEvent(EventKind.REMOVE_DIRECTORY, path, Attrs(DIRECTORY_MODE, inode(path)))

    def _live_events(self, change: TaskChange) -> Iterator[TreeEvent]:
        before, after = change
        if before is None or after is None:
            return
        had, has = self._lists_live(before), self._lists_live(after)
        if had != has:
            kind = EventKind.MAKE_DIRECTORY if has else EventKind.REMOVE_DIRECTORY
            path = f"{after.id}/{LIVE}"
            yield TreeEvent(kind, path, _directory_attrs(path, after))

    def _group_paths(self) -> frozenset[str]:
        return frozenset(
            f"{view}/{name}" for view in VIEWS for name in self._views.groups(view, cached=True)
        )


def _change_events(change: TaskChange) -> Iterator[TreeEvent]:
    before, after = change
    if before is None and after is not None:
        yield TreeEvent(EventKind.MAKE_DIRECTORY, after.id, _directory_attrs(after.id, after))
    elif after is None and before is not None:
        yield TreeEvent(EventKind.REMOVE_DIRECTORY, before.id, _directory_attrs(before.id, before))
    elif before is not None and after is not None:
        yield from _file_events(before, after)
    old, new = _links(before), _links(after)
    for path in sorted(old.keys() - new.keys()):
        yield TreeEvent(EventKind.REMOVE_LINK, path, old[path].attrs(), old[path].target())
    for path in sorted(new.keys() - old.keys()):
        yield TreeEvent(EventKind.MAKE_LINK, path, new[path].attrs(), new[path].target())


def _file_events(before: Task, after: Task) -> Iterator[TreeEvent]:
    """Yield the events of a task's text files and of its directory."""
    for file in TEXT_FILES:
        if file.name != OUTPUT_FILES_INFO:  # this one changes with the archive
            old, new = (
                file.render(TaskView(CachedTask(task, 0.0), lambda: None))
                for task in (before, after)
            )
            if old != new:
                yield TreeEvent(EventKind.MODIFY, f"{after.id}/{file.name}")
    if before.last_change_ns != after.last_change_ns:
        yield TreeEvent(EventKind.ATTRIB, after.id)


def archive_events(task: Task, members: Mapping[str, Attrs]) -> Iterator[TreeEvent]:
    """Yield the events of the arrival of an output archive, which shows *members* in `outputs/`.

    Their attributes must be the true ones: the kernel keeps them, and cuts reads at the size.
    """
    yield TreeEvent(EventKind.MODIFY, f"{task.id}/{OUTPUT_FILES_INFO}")
    for name, attrs in members.items():
        kind = EventKind.MAKE_DIRECTORY if stat.S_ISDIR(attrs.mode) else EventKind.MAKE_FILE
        yield TreeEvent(kind, f"{task.id}/outputs/{name}", attrs)
    yield TreeEvent(EventKind.ATTRIB, f"{task.id}/outputs")


def latest_event(name: str, before: str, after: str) -> TreeEvent:
    """Return the event of the link *name* to the newest task; empty texts mean that there is none.

    The newest task was *before*, and is *after*.
    """
    kind = EventKind.ATTRIB
    if not before:
        kind = EventKind.MAKE_LINK
    elif not after:
        kind = EventKind.REMOVE_LINK
    return TreeEvent(kind, name, Link(name, after or before, 0).attrs(), after)


def _links(task: Task | None) -> dict[str, Link]:
    """Return the links to the task in the views by path."""
    if task is None:
        return {}
    path = f"{BY_DATE}/{link_name(task)}"
    links = {path: Link(path, f"../{task.id}", task.last_change_ns)}
    for view, field in VIEWS.items():
        name = view_name(getattr(task, field))
        path = f"{view}/{name}/{task.id}"
        if len(name.encode("utf-8", "surrogateescape")) <= NAME_MAX:
            links[path] = Link(path, f"../../{task.id}", task.last_change_ns)
    return links


def _directory_attrs(path: str, task: Task) -> Attrs:
    return task_attrs(path, task.create_ns or 0, task.last_change_ns)
