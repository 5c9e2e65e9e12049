"""The tree of the tasks for commands that need no mount, with globs in paths."""

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import click

from taskfs.cli import completers
from taskfs.cli.api_session import configure_logging
from taskfs.cli.options import Settings, parsed_by
from taskfs.cli.output import describe_error, print_error, terminal_notifier
from taskfs.cli.task_ids import LATEST, TaskPath, is_whole_id, parse_task_path
from taskfs.cli.tree_paths import Found, TreeFinder, is_below_live, is_directory
from taskfs.errors import (
    AccessDenied,
    ArchiveLate,
    BadResponse,
    IsADirectory,
    NotCached,
    TaskFSError,
    Unavailable,
)

if TYPE_CHECKING:
    from taskfs.config import Config
    from taskfs.first_listing import FirstRecords
    from taskfs.tree.handles import Handle


class HasPath(Protocol):
    """A file or directory with its path, which begins with the id of its task."""

    @property
    def path(self) -> str: ...


T = TypeVar("T")
N = TypeVar("N", bound=HasPath)

# Seconds at the end of a command for writing fetched blocks to the disk cache.
CACHE_WRITE_TIMEOUT_S: Final = 1.0


@contextlib.contextmanager
def open_tree(settings: Settings, paths: Sequence[TaskPath]) -> Iterator[TreeFinder]:
    """Yield a reader of the tree that *settings* describe; it cannot change tasks.

    The records of the tasks in *paths* are requested before the core is imported, because its
    import takes as long as a response; without *paths*, the listing is.
    """
    config = settings.load()
    configure_logging(config)
    gc.disable()  # a short-lived process: collecting while it imports the core is wasted time
    first = None if config.offline else _request_first(config, {path.task for path in paths})
    from taskfs.core import open_core
    from taskfs.tasks.offline import OfflineAPI

    core = open_core(replace(config, read_only=True), first=first)
    try:
        if isinstance(core.client, OfflineAPI):
            core.client.check()
        core.expect_tasks([path.task for path in paths])
        yield TreeFinder(core, first)
    except BaseException:
        core.close()
        raise
    core.close()
    _await_cache_writes()


def _request_first(config: "Config", names: set[str]) -> "FirstRecords":
    from taskfs.first_listing import FirstRecords
    from taskfs.remote import wait_notice

    wait_notice.set_notifier(terminal_notifier())
    ids = {name for name in names if is_whole_id(name)}
    lists = not names or not ids | {LATEST} >= names
    return FirstRecords(config, ids, latest=LATEST in names, lists=lists)


def _await_cache_writes() -> None:
    """Wait until the threads of the store have written what they fetched to the disk cache.

    The process ends right after the command, and the threads are daemons. A fetch for read-ahead
    may take longer than the limit; its blocks are then lost.
    """
    deadline_s = time.monotonic() + CACHE_WRITE_TIMEOUT_S
    for thread in threading.enumerate():
        if thread.name.startswith("taskfs-store"):
            thread.join(max(0.0, deadline_s - time.monotonic()))


def for_each(
    items: Iterable[T],
    action: Callable[[T], int | None],
    ends_at: Callable[[T, TaskFSError], bool] = lambda item, error: False,
) -> int:
    """Run *action*, which may return an exit status, for each item; return the exit status of all.

    Each failure is printed, except those that *ends_at* has raised.
    """
    status = 0
    for item in items:
        try:
            status = action(item) or status
        except TaskFSError as exc:
            if ends_at(item, exc):
                raise
            print_error(describe_error(exc))
            status = 1
    return status


def for_each_node(nodes: Iterable[N], action: Callable[[N], int | None]) -> int:
    """Do as `for_each` with the files and directories of one path, but end at an outage.

    Each of the others would wait for all of the timeout. A machine that is silent ends nothing,
    because its failure is remembered, and archives do not need it.

    Raises:
        Unavailable, AccessDenied, BadResponse: the API or the store fails.
    """
    return for_each(nodes, action, _is_outage)


def _is_outage(node: HasPath, error: TaskFSError) -> bool:
    if is_below_live(node.path) or isinstance(error, ArchiveLate | NotCached):
        return False
    return isinstance(error, Unavailable | AccessDenied | BadResponse)


def path_argument(*, required: bool = True) -> Callable[[Any], Any]:
    """Return the decorator that adds the argument `paths`: ID or ID/PATH, several times."""
    return click.argument(
        "paths",
        metavar="ID/PATH..." if required else "[ID[/PATH]]...",
        nargs=-1,
        required=required,
        callback=parsed_by(parse_task_path),
        shell_complete=completers.complete_paths,
    )


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
