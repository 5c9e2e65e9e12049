"""`ArchiveOpener`: opens the archives of tasks, and waits for those that are still uploaded."""

import contextlib
import time
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import Final

from taskfs.archive.archive import Archive
from taskfs.cache.disk_cache import DiskCache
from taskfs.core import open_archive_of, open_resources
from taskfs.errors import ArchiveLate, NotFound, StaleObject
from taskfs.model import RemoteObject, Task
from taskfs.remote.api_client import TaskClient
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.support.thread_pool import DaemonPool
from taskfs.tasks.archive_kind import ARCHIVE_GRACE_S, ArchiveKind, remaining_grace_s

POLL_S: Final = 1.0  # seconds between two requests for a late archive: uploads take seconds


# Archives whose URLs one request signs, and archives that are opened at the same time.
SIGNED_TOGETHER: Final = 32
OPENED_AT_ONCE: Final = 8


class ArchiveOpener:
    """Opens the archives of the tasks of one command; they share pools and memory.

    The indexes on *disk* are used, and new ones are kept there under the *namespace*.
    """

    def __init__(
        self, client: TaskClient, disk: DiskCache | None = None, namespace: str = ""
    ) -> None:
        self._client = client
        # Blocks are not kept: the files that they make are kept instead.
        self._resources = open_resources(Waiter(), Stats(), disk, namespace, keeps_blocks=False)
        self._begun: dict[str, Future[Archive]] = {}

    def begin(self, tasks: Iterable[Task], kind: ArchiveKind) -> None:
        """Begin to open the archives of *tasks*; `open` then waits for the one that it needs."""
        pool = DaemonPool(OPENED_AT_ONCE, "taskfs-index")
        by_region: dict[str | None, list[Task]] = {}
        for task in tasks:
            if kind.path(task) is not None:
                by_region.setdefault(task.region, []).append(task)
        for region, found in by_region.items():
            for start in range(0, len(found), SIGNED_TOGETHER):
                batch = found[start : start + SIGNED_TOGETHER]
                paths = [kind.path(task) or "" for task in batch]
                objects = self._client.open_objects(paths, region)
                for task, remote in zip(batch, objects, strict=True):
                    self._begun[task.id] = pool.submit(self._open_current, task, kind, remote)

    def has_begun(self, task_id: str) -> bool:
        """Whether the task is known, and its archive is being opened."""
        return task_id in self._begun

    def open(self, task_id: str, kind: ArchiveKind, max_wait_s: float = ARCHIVE_GRACE_S) -> Archive:
        """Return an archive of the task. Wait for it if the task succeeded within the last minute.

        Raises:
            NotFound: there is no archive, and none is expected; or there is no such task.
            ArchiveLate: the task succeeded, but there is no archive after its grace period or
                after *max_wait_s*, whichever ends first.
        """
        begun = self._begun.pop(task_id, None)
        if begun is not None:
            with contextlib.suppress(NotFound):  # it may be late
                return begun.result()
        deadline_s: float | None = None  # set when the archive is missing for the first time
        while True:
            task = self._client.get_task(task_id)
            try:
                return self._open_current(task, kind)
            except NotFound:
                pass
            if deadline_s is None:
                grace_s = remaining_grace_s(task, kind, self._client.clock_offset_s)
                if not grace_s:
                    raise NotFound(_why_no_archive(task, kind))
                deadline_s = time.monotonic() + min(grace_s, max_wait_s)
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise ArchiveLate(
                    f"task {task_id} succeeded, but its archive did not appear in time"
                )
            time.sleep(min(POLL_S, remaining_s))

    def _open_current(
        self, task: Task, kind: ArchiveKind, remote: RemoteObject | None = None
    ) -> Archive:
        """Return the archive in the version that the store has now."""
        open_it = partial(
            open_archive_of, self._client, task, kind, self._resources, remote, keep_index=True
        )
        archive = open_it()
        try:
            # This read compares the version, unless the end of the archive was fetched just now.
            archive.read_raw(max(0, archive.size - 1), 1)
        except StaleObject:
            archive.forget_index()
            archive = open_it()
        return archive


def _why_no_archive(task: Task, kind: ArchiveKind) -> str:
    see = f"see `taskfs info {task.id}`"
    if kind is ArchiveKind.INPUT:
        return f"task {task.id} has no input archive: it was removed or not uploaded yet: {see}"
    if not task.is_terminated:
        return f"task {task.id} is {task.status}, with no outputs yet: see `taskfs wait {task.id}`"
    return (
        f"task {task.id} ({task.status}) has no output archive: it was removed or never uploaded: "
        f"{see}"
    )
