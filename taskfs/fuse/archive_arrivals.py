"""`ArchiveArrivals`: sees the output archives of ended tasks arrive, while a program watches."""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import islice
from typing import Final

from taskfs.errors import TaskFSError
from taskfs.fuse.watchers import Watches
from taskfs.model import Task
from taskfs.support.thread_pool import DaemonPool
from taskfs.tasks.archive_kind import ArchiveKind
from taskfs.tree.nodes import Attrs, inode
from taskfs.tree.tree import Tree
from taskfs.tree.tree_events import OUTPUT_FILES_INFO, TreeEvent, archive_events

log = logging.getLogger(__name__)

# Seconds for which the output archive of an ended task is looked for, and between two looks. The
# registry asks the store again only after ABSENT_TTL_S (`tasks/archives`).
ARCHIVE_TIMEOUT_S: Final = 90.0
ARCHIVE_POLL_S: Final = 1.0
# Names of a new `outputs/` that get an event: each is a call on the mount, and archives may have
# millions.
MAX_NAMES: Final = 256
# Archives that are looked for at the same time.
ARCHIVE_THREADS: Final = 4


class _Search:
    """One task's search: when it ends, when to look again, and the look in flight."""

    def __init__(self, now_s: float) -> None:
        self.until_s = now_s + ARCHIVE_TIMEOUT_S
        self.next_s = now_s
        self.look: Future[dict[str, Attrs] | None] | None = None


class ArchiveArrivals:
    """The ended tasks whose output archive may still arrive. One thread uses it.

    Threads of its own look for the archives, so a silent store delays no other event.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._context = tree.context
        self._pool = DaemonPool(ARCHIVE_THREADS, "taskfs-arrivals")
        self._awaited: dict[str, _Search] = {}  # by task

    def clear(self) -> None:
        """Wait for no archive."""
        self._awaited.clear()

    def begin(self, task_id: str, now_s: float) -> None:
        """Wait for the archive of a task that has just ended."""
        self._awaited[task_id] = _Search(now_s)

    def drop(self, task_id: str) -> None:
        """Wait no longer for the archive of a task that was removed."""
        self._awaited.pop(task_id, None)

    def take(self, watches: Watches, now_s: float) -> Iterator[TreeEvent]:
        """Look for the archives, and yield the events of those that have arrived.

        An archive is asked for only if a program watches the task's directory or what the archive
        shows.
        """
        for task_id in list(self._awaited):
            search = self._awaited[task_id]
            cached = self._context.task_cache.get_cached(task_id)
            if cached is None:
                del self._awaited[task_id]
            elif search.look is not None:
                if not search.look.done():
                    continue
                members, search.look = search.look.result(), None
                if members is not None:
                    del self._awaited[task_id]
                    yield from archive_events(cached.task, members)
            elif now_s > search.until_s:
                del self._awaited[task_id]
            elif now_s >= search.next_s and watches.include(
                *map(inode, _shown_by_archive(task_id))
            ):
                search.next_s = now_s + ARCHIVE_POLL_S
                with contextlib.suppress(RuntimeError):  # the system has no thread left
                    search.look = self._pool.submit(self._members, cached.task, watches)

    def _members(self, task: Task, watches: Watches) -> dict[str, Attrs] | None:
        """Return the first names in `outputs/` if it is watched; None while there is no archive."""
        path = f"{task.id}/outputs"
        try:
            if self._context.archives.get(task, ArchiveKind.OUTPUT) is None:
                return None
            if not watches.include(inode(path)):
                return {}
            children = islice(self._tree.resolve(f"/{path}").children(), MAX_NAMES)
            return {each.name: self._tree.attrs(f"/{path}/{each.name}") for each in children}
        except TaskFSError as exc:
            log.info("%s: its archive is not seen: %s", task.id, exc)
            return None


def _shown_by_archive(task_id: str) -> tuple[str, ...]:
    return task_id, f"{task_id}/outputs", f"{task_id}/{OUTPUT_FILES_INFO}"
