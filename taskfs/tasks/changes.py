"""`TaskChanges`: the differences between the task cache and its state at the last comparison."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from taskfs.errors import NotFound
from taskfs.model import Task
from taskfs.support.clock import age_clock
from taskfs.tasks.task_cache import TaskCache

# The newest tasks of one comparison whose records are kept, beside the unfinished ones. Of older
# tasks only the ids are kept: their removal changes no view that is known.
MAX_FOLLOWED: Final = 1000
# Seconds. The record of a task may still change after its end: times, size and files of its output.
FOLLOWED_AFTER_END_S: Final = 120.0
# New and removed tasks of one comparison. More of them mean that the whole listing was read again,
# and are no changes.
MAX_CHANGES: Final = 1000


class TaskChange(NamedTuple):
    """A task before and after a change; None where it was not, or is not, listed."""

    before: Task | None
    after: Task | None


class TaskChanges:
    """Compares the task cache with its state at the last call. One thread uses it."""

    def __init__(self, task_cache: TaskCache) -> None:
        self._task_cache = task_cache
        self._ids: Sequence[str] = ()
        self._tasks: dict[str, Task] = {}
        self._unsettled: dict[str, float] = {}  # ids whose records may change, and until when
        self._gone: set[str] = set()  # removed, but possibly still among the ids of the listing

    @property
    def is_known(self) -> bool:
        """Whether the cache has a whole listing."""
        return self._task_cache.selection.has_listing

    @property
    def newest(self) -> str:
        """The id of the newest task, or an empty text."""
        return next((i for i in self._ids if i not in self._gone), "")

    @property
    def unsettled(self) -> list[Task]:
        """The tasks whose records may still change."""
        return [self._tasks[i] for i in self._unsettled if i in self._tasks]

    def start(self) -> None:
        """Take the cached state as the one to compare with, if `is_known`; send no request."""
        self._tasks, self._unsettled, self._gone = {}, {}, set()
        self._ids = self._task_cache.known_ids()
        listed = set(self._ids)
        for task in self._task_cache.database.unfinished(None):
            if task.id in listed:
                self._follow(task.id)
        for task_id in self._ids[:MAX_FOLLOWED]:
            self._follow(task_id)

    def update(self) -> None:
        """Make the cache current: at most one request for the listing and one for the unfinished
        tasks, and none while they are as young as their TTLs.

        Raises:
            TaskFSError: the API fails.
        """
        self._task_cache.read(lambda: None)  # also after a loss of the saved tasks
        for task_id, until_s in list(self._unsettled.items()):
            if until_s == float("inf") and task_id not in self._gone:
                with contextlib.suppress(NotFound):  # it was removed: `take` reports it
                    self._task_cache.get(task_id)
                    return

    def take(self) -> list[TaskChange]:
        """Return the changes since the last call; this sends no request."""
        if not self.is_known:  # the saved tasks were lost, and are not removed
            return []
        return [*self._take_changed(), *self._take_listed()]

    def _take_changed(self) -> Iterator[TaskChange]:
        now_s = age_clock()
        for task_id, until_s in list(self._unsettled.items()):
            before = self._tasks.get(task_id)
            if before is None or now_s > until_s:
                del self._unsettled[task_id]
                continue
            after = self._follow(task_id)
            if after is None:
                del self._unsettled[task_id], self._tasks[task_id]
                self._gone.add(task_id)
                yield TaskChange(before, None)
            elif after != before:
                yield TaskChange(before, after)

    def _take_listed(self) -> list[TaskChange]:
        ids = self._task_cache.known_ids()
        if ids is self._ids:
            return []
        old, new = set(self._ids), set(ids)
        gone = [i for i in self._ids if i not in new and i not in self._gone]
        self._gone &= new
        added = [i for i in ids if i not in old]
        self._ids = ids
        changes = [TaskChange(self._tasks.pop(i, Task(i, "", True)), None) for i in gone]
        for task_id in reversed(added[:MAX_FOLLOWED]):  # the newest last
            task = self._follow(task_id)
            if task is not None:
                changes.append(TaskChange(None, task))
        return changes if len(gone) + len(added) <= MAX_CHANGES else []

    def _follow(self, task_id: str) -> Task | None:
        """Remember the cached record of the task, and return it."""
        cached = self._task_cache.get_cached(task_id)
        if cached is None:
            return None
        task = self._tasks[task_id] = cached.task
        if not task.is_terminated:
            self._unsettled[task_id] = float("inf")
        elif self._unsettled.get(task_id) == float("inf"):
            self._unsettled[task_id] = age_clock() + FOLLOWED_AFTER_END_S
        return task
