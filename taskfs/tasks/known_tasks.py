"""`KnownTasks`: the tasks in use in memory, with the age of each; all others in the database."""

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from cachetools import LRUCache

from taskfs.model import Task
from taskfs.support.clock import age_clock
from taskfs.tasks.selection import Selection
from taskfs.tasks.task_database import TaskDatabase

SERVICE_ID: Final = re.compile(r"[a-z0-9]{25}")
OTHER_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
NEVER_S: Final = float("-inf")
# Finished tasks in memory: about 3 MB. A walk over more of them reads the database.
MAX_RECENT: Final = 1024
# Tasks whose observed changes are dated: some 200 bytes each.
MAX_DATED: Final = 20_000


class SeenChanges(NamedTuple):
    """When this mount saw a task change, in ns since the epoch; None if it did not.

    The times of the status, of any field, and of the error texts after the end.
    """

    status_ns: int | None = None
    record_ns: int | None = None
    error_ns: int | None = None


UNCHANGED: Final = SeenChanges()


class CachedTask(NamedTuple):
    """A task and its age.

    `as_of_s` is the time, by `age_clock`, when the request that returned it began.
    """

    task: Task
    as_of_s: float
    seen: SeenChanges = UNCHANGED


class KnownTasks:
    """The known tasks: unfinished ones and those that were used last in memory, all in *database*.

    Safe for concurrent use: the lock guards the tables in memory, and is never held during a
    request or a write to the database.
    """

    def __init__(self, database: TaskDatabase, clock: Callable[[], float] = age_clock) -> None:
        self.database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._unfinished: dict[str, CachedTask] = {}
        self._recent: LRUCache[str, CachedTask] = LRUCache(MAX_RECENT)
        self._seen: LRUCache[str, SeenChanges] = LRUCache(MAX_DATED)
        self._id_lengths: set[int] = set()
        # When the last whole listing began: so old is each task that is read from the database.
        self.whole_as_of_s = NEVER_S

    def get(self, task_id: str) -> CachedTask | None:
        """Return a task in memory, or None."""
        with self._lock:
            return self._find(task_id)

    def load(self, task_id: str, selection: Selection) -> CachedTask | None:
        """Return a task of *selection*, from the database if it is not in memory; else None."""
        if (cached := self.get(task_id)) is not None:
            return cached
        source, values = selection.source()
        try:
            found = self.database.rows(f"SELECT 1 FROM {source} WHERE id = ?", (*values, task_id))
        except UnicodeEncodeError:  # the kernel's name of a file may not be UTF-8
            return None
        task = self.database.get(task_id) if found else None
        if task is None:
            return None
        with self._lock:
            cached = self._find(task_id)
            if cached is None:
                cached = CachedTask(task, self.whole_as_of_s, self._seen_of(task_id))
                self._store(cached)
            return cached

    def is_plausible(self, task_id: str) -> bool:
        """Whether the id has the service's form, or a task with an id of this length was seen."""
        return bool(SERVICE_ID.fullmatch(task_id)) or len(task_id) in self._id_lengths

    @staticmethod
    def is_valid(task_id: str) -> bool:
        """Whether the text can be the id of a task."""
        return OTHER_ID.fullmatch(task_id) is not None

    def unfinished(self) -> list[CachedTask]:
        """Return the unfinished tasks."""
        with self._lock:
            return list(self._unfinished.values())

    def load_unfinished(self, project: str | None) -> None:
        """Take the unfinished tasks of an earlier mount into memory; their ages are unknown."""
        tasks = self.database.unfinished(project)
        with self._lock:
            for task in tasks:
                if self._find(task.id) is None:
                    self._store(CachedTask(task, NEVER_S))

    def is_stale(self, task_id: str, began_s: float) -> bool:
        """Whether the task is in memory from a request before *began_s*."""
        cached = self.get(task_id)
        return cached is not None and cached.as_of_s < began_s

    def apply(
        self,
        tasks: Iterable[Task],
        began_s: float,
        *,
        keep: bool = True,
        seq: int | None = None,
    ) -> None:
        """Store the tasks of a response to a request that began at *began_s*.

        *seq* numbers new tasks, see `TaskDatabase.put`. Without *keep*, finished tasks that are not
        in memory go to the database only. Responses may overtake each other, and a terminal status
        is final: older ones are ignored.
        """
        with self._lock:
            accepted = [task for task in tasks if self._is_news(task, began_s)]
        changes = self.database.put(accepted, seq)
        now_ns = time.time_ns()
        with self._lock:
            self._id_lengths.update(len(task.id) for task in accepted)
            for task in accepted:
                cached = self._find(task.id)
                if task.id in changes.final or not self._is_news(task, began_s):
                    continue
                if cached is not None:
                    is_changed = task != cached.task
                    is_new_status = task.status != cached.task.status
                else:
                    is_changed = task.id in changes.changed and self.whole_as_of_s > NEVER_S
                    is_new_status = task.id in changes.status_changed
                if is_changed:
                    seen = self._seen_of(task.id)._replace(record_ns=now_ns)
                    if is_new_status:
                        seen = seen._replace(status_ns=now_ns)
                    if cached is not None and _is_new_error(cached.task, task):
                        seen = seen._replace(error_ns=now_ns)
                    self._seen[task.id] = seen
                if keep or cached is not None or not task.is_terminated:
                    self._store(CachedTask(task, began_s, self._seen_of(task.id)))

    def remember(self, tasks: Iterable[Task], began_s: float) -> None:
        """Keep the tasks of a response in memory only."""
        with self._lock:
            for task in tasks:
                self._id_lengths.add(len(task.id))
                if self._is_news(task, began_s):
                    self._store(CachedTask(task, began_s, self._seen_of(task.id)))

    def remove(self, ids: Iterable[str]) -> None:
        """Remove tasks that no longer exist."""
        gone = list(ids)
        with self._lock:
            for task_id in gone:
                self._unfinished.pop(task_id, None)
                self._recent.pop(task_id, None)
        self.database.remove(gone)

    def drop_finished(self) -> None:
        """Drop the finished tasks from memory, because another mount has changed the database."""
        with self._lock:
            self._recent.clear()

    def drop_unlisted(self, selection: Selection, began_s: float) -> None:
        """Drop from memory the tasks that a listing that began at *began_s* does not show: their
        next reader requests them by name."""
        with self._lock:
            ids = [
                task_id
                for table in (self._unfinished, self._recent)
                for task_id, cached in table.items()
                if cached.as_of_s < began_s
            ]
        listed = self.database.select(selection, ids)
        with self._lock:
            for task_id in ids:
                if task_id not in listed:
                    self._unfinished.pop(task_id, None)
                    self._recent.pop(task_id, None)

    def expire(self) -> None:
        """Count every task as stale."""
        with self._lock:
            self.whole_as_of_s = NEVER_S
            for table in (self._unfinished, self._recent):
                for task_id, cached in list(table.items()):
                    table[task_id] = cached._replace(as_of_s=NEVER_S)

    def _find(self, task_id: str) -> CachedTask | None:
        return self._unfinished.get(task_id) or self._recent.get(task_id)

    def _seen_of(self, task_id: str) -> SeenChanges:
        return self._seen.get(task_id, UNCHANGED)

    def _store(self, cached: CachedTask) -> None:
        task_id = cached.task.id
        if cached.task.is_terminated:
            self._unfinished.pop(task_id, None)
            self._recent[task_id] = cached
        else:
            self._unfinished[task_id] = cached

    def _is_news(self, task: Task, began_s: float) -> bool:
        cached = self._find(task.id)
        if cached is None:
            return True
        is_final = cached.task.is_terminated and not task.is_terminated
        return cached.as_of_s <= began_s and not is_final


def _is_new_error(old: Task, new: Task) -> bool:
    """Whether the error texts changed after the end.

    A kill may show the status of the end before the record of it comes.
    """
    old_errors, new_errors = ((task.error_detail, task.executer_error) for task in (old, new))
    return old.end_ns is not None and old_errors != new_errors
