"""What a change of a task changes in the tree: one `TreeEvent` for each file, link or directory."""

import enum
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from taskfs.model import Task
from taskfs.tasks.changes import TaskChange
from taskfs.tasks.task_cache import CachedTask
from taskfs.tree.nodes import DIRECTORY_MODE, FILE_MODE, Attrs, Link, inode
from taskfs.tree.text_files import TEXT_FILES, TaskView
from taskfs.tree.view_nodes import VIEWS, view_name

COMPUTATION_TIME: Final = "computation_time"
OUTPUT_FILES_INFO: Final = "output_files_info"
# Directories of a view that are there without tasks.
_KEPT_VIEW: Final = ".by-status"


class EventKind(enum.Enum):
    """What happened, by the call that makes the kernel send the event."""

    MODIFY = "modify"
    ATTRIB = "attrib"
    MAKE_DIRECTORY = "mkdir"
    MAKE_FILE = "mknod"
    MAKE_LINK = "symlink"
    REMOVE_DIRECTORY = "rmdir"
    REMOVE_LINK = "unlink"

    @property
    def changes_directory(self) -> bool:
        """Whether a name comes or goes."""
        return self not in (EventKind.MODIFY, EventKind.ATTRIB)


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

    @property
    def watched_inodes(self) -> Iterator[int]:
        """The inodes whose watches get the event: of the directory, and of the file itself."""
        yield inode(self.parent)
        if not self.kind.changes_directory:
            yield inode(self.path)


class TreeEvents:
    """Turns changes of tasks into events. One thread uses it."""

    def __init__(self) -> None:
        self._group_sizes: Counter[tuple[str, str]] = Counter()

    def start(self, tasks: Iterable[Task]) -> None:
        """Take *tasks* as those that are listed before the first change."""
        self._group_sizes = Counter(group for task in tasks for group in _groups(task))

    def of_change(self, change: TaskChange) -> Iterator[TreeEvent]:
        """Yield the events of one change."""
        before, after = change
        if before is None and after is not None:
            yield TreeEvent(EventKind.MAKE_DIRECTORY, after.id, _directory_attrs(after))
        elif after is None and before is not None:
            yield TreeEvent(EventKind.REMOVE_DIRECTORY, before.id, _directory_attrs(before))
        elif before is not None and after is not None:
            yield from _file_events(before, after)
        yield from self._link_events(before, after)

    def _link_events(self, before: Task | None, after: Task | None) -> Iterator[TreeEvent]:
        old = set(_groups(before)) if before is not None else set()
        new = set(_groups(after)) if after is not None else set()
        for view, name in sorted(old - new):
            assert before is not None
            yield _link_event(EventKind.REMOVE_LINK, view, name, before)
            self._group_sizes[view, name] -= 1
            if self._group_sizes[view, name] <= 0 and view != _KEPT_VIEW:
                yield _directory_event(EventKind.REMOVE_DIRECTORY, f"{view}/{name}")
        for view, name in sorted(new - old):
            assert after is not None
            self._group_sizes[view, name] += 1
            if self._group_sizes[view, name] == 1 and view != _KEPT_VIEW:
                yield _directory_event(EventKind.MAKE_DIRECTORY, f"{view}/{name}")
            yield _link_event(EventKind.MAKE_LINK, view, name, after)


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
    """Return the event of the link *name* to the newest task, which was *before*."""
    kind = EventKind.ATTRIB
    if not before:
        kind = EventKind.MAKE_LINK
    elif not after:
        kind = EventKind.REMOVE_LINK
    return TreeEvent(kind, name, Link(name, after or before, 0).attrs(), after)


def _groups(task: Task) -> list[tuple[str, str]]:
    return [(view, view_name(value_of(task))) for view, value_of in VIEWS.items()]


def _directory_attrs(task: Task) -> Attrs:
    changed_ns = task.last_change_ns
    return Attrs(
        DIRECTORY_MODE, inode(task.id), mtime_ns=changed_ns, ctime_ns=task.create_ns or changed_ns
    )


def _directory_event(kind: EventKind, path: str) -> TreeEvent:
    return TreeEvent(kind, path, Attrs(DIRECTORY_MODE, inode(path)))


def _link_event(kind: EventKind, view: str, name: str, task: Task) -> TreeEvent:
    path, target = f"{view}/{name}/{task.id}", f"../../{task.id}"
    return TreeEvent(kind, path, Link(path, target, task.last_change_ns).attrs(), target)
