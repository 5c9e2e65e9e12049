"""Finding the nodes of the tree by the paths on the command line, with globs."""

import contextlib
import fnmatch
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from taskfs.cli.task_ids import (
    LATEST,
    TaskPath,
    choose,
    is_whole_id,
    resolve_names,
    task_must_exist,
)
from taskfs.errors import NotADirectory, NotFound, TaskFSError
from taskfs.model import LIVE_STATUSES

if TYPE_CHECKING:
    from taskfs.core import Core
    from taskfs.first_listing import FirstRecords
    from taskfs.tasks.live import LiveFiles
    from taskfs.tree.nodes import Node

_GLOB: Final = re.compile(r"[*?\[]")
# A path that is not in a task's own directory is looked up in these directories of the task:
# `ID/stdout.txt` is `ID/outputs/stdout.txt`.
_SEARCHED: Final = ("outputs", "live")
# For a command on at least this many tasks, all records are loaded first. A task walk counts from
# the same number on.
MIN_TASKS_FOR_WALK: Final = 4


class Found(NamedTuple):
    """A node, and its path as the output of commands names it."""

    path: str
    node: "Node"


class TreeFinder:
    """Finds nodes by the paths on the command line. Not thread-safe."""

    def __init__(self, core: "Core", first: "FirstRecords | None" = None) -> None:
        self._core = core
        self._first = first
        self._loaded: set[str] = set()
        if first is not None and first.pages is not None:
            core.begin(first.pages)
        if first is not None and len(first.records) >= MIN_TASKS_FOR_WALK:
            self._load_records(first)

    def _load_records(self, first: "FirstRecords") -> None:
        """Load all records, so that the archives of the next tasks can be prefetched."""
        for task_id, pending in first.records.items():
            with contextlib.suppress(TaskFSError):  # the action on this task reports it
                self._core.tree.context.task_cache.load(task_id, pending)

    @property
    def root(self) -> Found:
        """The root, whose children are the tasks."""
        return Found("", self._core.tree.resolve("/"))

    def task_id(self, name: str) -> str:
        """Return the id for a task's *name*; afterwards the task is cached.

        Raises:
            NotFound: there is no such task.
            ConfigError: the name is an ambiguous prefix.
        """
        task_cache = self._core.tree.context.task_cache
        pending = None
        if name == LATEST and self._first is not None and self._first.latest is not None:
            pending = self._first.latest
            task_id = pending.record.result().id
        elif is_whole_id(name) or name == LATEST:
            [task_id] = resolve_names(self._core.client, [name])
            pending = self._first.records.get(task_id) if self._first is not None else None
        else:
            task_id = choose(name, task_cache.ids())
        if task_id not in self._loaded and task_cache.get_cached(task_id) is None:
            with task_must_exist(task_id):
                task_cache.load(task_id, pending)
        self._loaded.add(task_id)
        return task_id

    def reload(self, task_id: str) -> bool:
        """Fetch the task's record again; return whether the task has ended."""
        task_cache = self._core.tree.context.task_cache
        task_cache.load(task_id)
        cached = task_cache.get_cached(task_id)
        return cached is None or cached.task.is_terminated

    def live_files(self, task_id: str) -> "LiveFiles":
        """Return the files on the machine of a running task.

        Raises:
            NotFound: the task does not run, so there is no machine to ask.
        """
        context = self._core.tree.context
        status = context.task_cache.get(task_id).task.status
        if status not in LIVE_STATUSES:
            raise NotFound(
                f"task {task_id} has no machine, because it does not run ({status}): "
                "see `taskfs list --running`"
            )
        if context.live is None:
            raise NotFound("live is off: set TASKFS_LIVE=on")
        return context.live.files(task_id)

    def await_outputs(self, task_id: str) -> None:
        """Return once the archive of a task that has ended is there, or is not to be expected.

        Raises:
            Unavailable: it did not come in time.
        """
        from taskfs.tasks.archive_kind import ArchiveKind

        context = self._core.tree.context
        context.archives.await_archive(context.task_cache.get(task_id).task, ArchiveKind.OUTPUT)

    def _why_no_live_files(self, task_id: str) -> str:
        status = self._core.tree.context.task_cache.get(task_id).task.status
        if status in LIVE_STATUSES:
            return ""
        return f" (the task is {status}, and live/ has files only while a task runs)"

    def find(self, path: TaskPath) -> list[Found]:
        """Return the nodes at *path*, whose components may be globs; at least one.

        Raises:
            NotFound, NotADirectory: there is no such path, or nothing matches.
        """
        task_id = self.task_id(path.task)
        task = self._core.tree.resolve(f"/{task_id}")
        names = [name for name in path.path.split("/") if name]
        if not names:
            return [Found(task_id, task)]
        found = list(_expand(Found(task_id, task), names))
        for directory in _SEARCHED:
            if found:
                break
            with contextlib.suppress(NotFound):
                start = Found(f"{task_id}/{directory}", task.lookup(directory))
                found = list(_expand(start, names))
        if not found:
            why = self._why_no_live_files(task_id) if names[0] == "live" else ""
            raise NotFound(f"there is no {task_id}/{path.path}{why}: see `taskfs ls {task_id}`")
        return found


def list_completions(core: "Core", path: TaskPath, typed: str) -> Iterator[str]:
    """Yield what may follow the directory *path*, as typed, in a shell; directories with a slash.

    Directly below a task, the names in its outputs are candidates too.
    """
    tree = TreeFinder(core)
    directories = tree.find(path)
    if not path.path:
        directories += tree.find(path._replace(path="outputs"))
    for directory in directories:
        for entry in directory.node.children():
            slash = "/" if stat.S_ISDIR(entry.mode) else ""
            yield f"{typed}/{entry.name}{slash}"


def children(found: Found) -> Iterable[Found]:
    """Yield the children of a directory, by name, without hidden ones and without `kill`.

    The tasks, the children of the root, come in the order of the listing, newest first.
    """
    from taskfs.tree.task_node import KILL, TaskNode

    names = [entry.name for entry in found.node.children()]
    hidden = {KILL} if isinstance(found.node, TaskNode) else set()
    for name in sorted(names) if found.path else names:
        if not name.startswith(".") and name not in hidden:
            with contextlib.suppress(NotFound):  # it disappeared after the listing
                yield Found(join(found.path, name), found.node.lookup(name))


def join(path: str, name: str) -> str:
    """Return the path of *name* in the directory *path*, which is empty for the root."""
    return f"{path}/{name}" if path else name


def is_directory(node: "Node") -> bool:
    """Return whether *node* has children."""
    from taskfs.tree.nodes import Directory

    return isinstance(node, Directory)


def is_below_live(path: str) -> bool:
    """Return whether *path*, which begins with a task's id, is the task's `live/` or below it."""
    return path.split("/")[1:2] == ["live"]


def is_live_file(node: "Node") -> bool:
    """Return whether *node* is a file on the machine of a running task."""
    from taskfs.tree.live_nodes import LiveFileNode

    return isinstance(node, LiveFileNode)


def _expand(found: Found, names: Sequence[str]) -> Iterator[Found]:
    """Yield the nodes beneath *found* that match *names*, none if there is none."""
    if not names:
        yield found
        return
    first, rest = names[0], names[1:]
    with contextlib.suppress(NotFound, NotADirectory):
        yield from _expand(Found(join(found.path, first), found.node.lookup(first)), rest)
        return
    if not _GLOB.search(first) or not is_directory(found.node):
        return
    if first == "**":
        yield from _expand(found, rest or ["*"])
    for child in children(found):
        if first == "**":
            if is_directory(child.node):
                yield from _expand(child, names)
        elif fnmatch.fnmatchcase(child.path.rpartition("/")[2], first):
            yield from _expand(child, rest)
