"""The tree of the tasks for commands that need no mount, with globs in paths."""

import contextlib
import fnmatch
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from taskfs.cli import completers
from taskfs.cli.api_session import configure_logging, task_must_exist
from taskfs.cli.options import Settings, parsed_by
from taskfs.cli.output import describe_error, print_error, terminal_notifier
from taskfs.cli.task_ids import (
    LATEST,
    TaskPath,
    choose,
    is_whole_id,
    parse_task_path,
    resolve_names,
)
from taskfs.errors import IsADirectory, NotADirectory, NotFound, TaskFSError

if TYPE_CHECKING:
    from taskfs.core import Core
    from taskfs.tree.handles import Handle
    from taskfs.tree.nodes import Node

T = TypeVar("T")

# Seconds at the end of a command for writing fetched blocks to the disk cache.
CACHE_WRITE_TIMEOUT_S: Final = 1.0
_GLOB: Final = re.compile(r"[*?\[]")
# Directories of a task in which a path is looked up that is not found in the task's own directory:
# `ID/stdout.txt` is `ID/outputs/stdout.txt`.
_SEARCHED: Final = ("outputs", "live")


class Found(NamedTuple):
    """A node, and its path as the output of commands names it."""

    path: str
    node: "Node"


class TreeReader:
    """Finds nodes by the paths on the command line. Not thread-safe."""

    def __init__(self, core: "Core") -> None:
        self._core = core
        self._loaded: set[str] = set()

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
        if is_whole_id(name) or name == LATEST:
            [task_id] = resolve_names(self._core.client, [name])
        else:
            task_id = choose(name, task_cache.listing())
        if task_id not in self._loaded and task_cache.get_cached(task_id) is None:
            with task_must_exist(task_id):
                task_cache.load(task_id)
        self._loaded.add(task_id)
        return task_id

    def reload(self, task_id: str) -> bool:
        """Fetch the task's record again; return whether the task has ended."""
        task_cache = self._core.tree.context.task_cache
        task_cache.load(task_id)
        cached = task_cache.get_cached(task_id)
        return cached is None or cached.task.is_terminated

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
                folder = Found(f"{task_id}/{directory}", task.lookup(directory))
                found = list(_expand(folder, names))
        if not found:
            raise NotFound(f"there is no {task_id}/{path.path}")
        return found


@contextlib.contextmanager
def open_tree(settings: Settings) -> Iterator[TreeReader]:
    """Yield a reader of the tree that *settings* describe; it cannot change tasks."""
    config = settings.load()
    configure_logging(config)
    from taskfs.core import open_core
    from taskfs.remote import wait_notice
    from taskfs.tasks.offline import OfflineAPI

    wait_notice.set_notifier(terminal_notifier())
    core = open_core(replace(config, read_only=True))
    try:
        if isinstance(core.client, OfflineAPI):
            core.client.check()
        yield TreeReader(core)
    except BaseException:
        core.close()
        raise
    core.close()
    _await_cache_writes()


def _await_cache_writes() -> None:
    """Wait until the threads of the store have written what they fetched to the disk cache.

    The process ends right after the command, and the threads are daemons. A fetch for read-ahead
    may take longer than the limit; its blocks are then lost.
    """
    deadline_s = time.monotonic() + CACHE_WRITE_TIMEOUT_S
    for thread in threading.enumerate():
        if thread.name.startswith("taskfs-store"):
            thread.join(max(0.0, deadline_s - time.monotonic()))


def for_each(paths: Sequence[T], action: Callable[[T], None]) -> int:
    """Run *action* for each path; print each failure and return the exit status."""
    status = 0
    for path in paths:
        try:
            action(path)
        except TaskFSError as exc:
            print_error(describe_error(exc))
            status = 1
    return status


def path_argument(*, required: bool = True) -> Callable[[Any], Any]:
    """Return the decorator that adds the argument `paths`: ID or ID/PATH, several times."""
    return click.argument(
        "paths",
        metavar="ID/PATH..." if required else "[ID[/PATH]]...",
        nargs=-1,
        required=required,
        callback=parsed_by(parse_task_path),
        shell_complete=completers.complete_tasks(),
    )


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


@contextlib.contextmanager
def open_file(found: Found) -> "Iterator[Handle]":
    """Yield an open file for reading.

    Raises:
        IsADirectory: it is a directory.
    """
    if is_directory(found.node):
        raise IsADirectory(f"{found.path} is a directory: see `taskfs ls {found.path}`")
    handle = found.node.open(writing=False)
    try:
        yield handle
    finally:
        handle.close()


def is_directory(node: "Node") -> bool:
    """Return whether *node* has children."""
    from taskfs.tree.nodes import Directory

    return isinstance(node, Directory)


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
