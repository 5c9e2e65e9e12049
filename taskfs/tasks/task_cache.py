"""`TaskCache`: the account's tasks in memory, with the age of each.

Tasks are loaded in bulk: a listing brings the records of all its tasks, and one request refreshes
all unfinished tasks. A single task is requested only if no listing has shown it. A failure is never
cached. While the API fails, finished tasks are served as this mount, or an earlier one, saw them
last.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Final, NamedTuple

from cachetools import TTLCache

from taskfs.errors import Interrupted, NotFound, TaskFSError
from taskfs.model import Task, TaskAPI, TaskStatus
from taskfs.support.clock import age_clock
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.single_flight import SingleFlight
from taskfs.tasks.finished_tasks import FinishedTaskStore
from taskfs.tasks.task_filter import PendingListing, TaskFilter

log = logging.getLogger(__name__)

_SERVICE_ID: Final = re.compile(r"[a-z0-9]{25}")
_OTHER_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
# If more tasks than this ended between two refreshes, a listing is cheaper than one request each.
MAX_SINGLE_REQUESTS: Final = 16
MAX_ABSENT: Final = 1024  # names without a task that are remembered; about 100 KB


class CachedTask(NamedTuple):
    """A task and its age.

    `as_of_s` is the time, by `age_clock`, when the request that returned it began.
    `status_seen_ns` and `record_seen_ns` are the times when this mount saw the status or the record
    change, None if it did not.
    """

    task: Task
    as_of_s: float
    status_seen_ns: int | None = None
    record_seen_ns: int | None = None


class Listing(NamedTuple):
    """The tasks of the last listing, newest first."""

    ids: tuple[str, ...] = ()
    as_of_s: float | None = None  # None: there was none yet, or `forget` was called


class TaskCache:
    """The tasks of the account, each at most as old as its TTL.

    Safe for concurrent use: the lock guards the tables, and is never held during a request.
    Concurrent callers share one request.
    """

    def __init__(
        self,
        api: TaskAPI,
        pool: Executor,
        waiter: Waiter,
        *,
        listing_ttl_s: float,
        status_ttl_s: float,
        task_filter: TaskFilter | None = None,
        finished_tasks: FinishedTaskStore | None = None,
        clock: Callable[[], float] = age_clock,
    ) -> None:
        self._api = api
        self._requests = SingleFlight(pool, waiter, clock)
        self._listing_ttl_s = listing_ttl_s
        self._status_ttl_s = status_ttl_s
        self._filter = task_filter or TaskFilter()
        self._finished_tasks = finished_tasks
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[str, CachedTask] = {}
        self._listing = Listing()
        self._id_lengths: frozenset[int] = frozenset()  # of the listing's tasks
        self._absent: TTLCache[str, bool] = TTLCache(MAX_ABSENT, max(0.1, status_ttl_s), clock)
        self._version = 0

    @property
    def version(self) -> int:
        """A number that changes when a task comes, goes or changes its group in a view."""
        return self._version

    def load_first_listing(self, pending: PendingListing | None = None) -> None:
        """Load the first listing in the calling thread, or wait for the *pending* one.

        Raises:
            AccessDenied, Unavailable, BadAnswer, NotFound: the API does not answer, or refuses.
        """
        if pending is None:
            self._requests.run_inline(self._load_listing)
        else:
            self._requests.run_inline(
                lambda: self._apply_listing(pending.tasks.result(), pending.began_s)
            )

    def listing(self) -> list[Task]:
        """Return the tasks that the mount lists, newest first, at most one listing TTL old."""
        self._refresh_listing()
        with self._lock:
            return [self._tasks[i].task for i in self._listing.ids if i in self._tasks]

    def _refresh_listing(self, *, has_fallback: bool = False) -> None:
        if self._is_older(self._listing.as_of_s, self._listing_ttl_s):
            self._requests.run("listing", self._load_listing, has_fallback=has_fallback)
        elif log.isEnabledFor(logging.DEBUG):
            log.debug("listing: cached, %.1f s old", self._clock() - (self._listing.as_of_s or 0.0))

    def newest_ns(self) -> int:
        """Return the creation time of the newest cached task, or 0; send no request."""
        with self._lock:
            first = next((self._tasks.get(i) for i in self._listing.ids), None)
        return (first.task.create_ns or 0) if first else 0

    def get(self, task_id: str) -> CachedTask:
        """Return the task; its status is final, or at most one status TTL old.

        Raises:
            NotFound: there is no such task, or *task_id* is not a valid id; then no request is
                sent.
        """
        cached = self._tasks.get(task_id)
        if cached is None:
            cached = self._load_unlisted(task_id)
        if cached.task.is_terminated or not self._is_older(cached.as_of_s, self._status_ttl_s):
            if log.isEnabledFor(logging.DEBUG):
                log.debug("task %s: cached as %s", task_id, cached.task.status)
            return cached
        self._requests.run("unfinished", self._load_unfinished)
        return self._tasks.get(task_id) or self._load_unlisted(task_id)

    def get_cached(self, task_id: str) -> CachedTask | None:
        """Return the task, however old, or None; send no request."""
        return self._tasks.get(task_id)

    def get_now(self, task_id: str, timeout_s: float) -> CachedTask:
        """Return the task as a request shows it that begins after this call; a terminal status is
        final and needs none.

        Raises:
            NotFound: as `get`.
            Unavailable: there is no answer within *timeout_s* seconds.
        """
        began_s = self._clock()
        while True:
            cached = self._tasks.get(task_id)
            if cached is not None and (cached.task.is_terminated or cached.as_of_s >= began_s):
                return cached
            # It may join a request that began earlier: then a second one follows.
            self.reload(task_id, timeout_s=max(0.0, timeout_s - (self._clock() - began_s)))

    def get_full(self, task_id: str) -> CachedTask:
        """Return the task; its whole record is at most one listing TTL old.

        While the API fails, the record of a finished task may be older.

        Raises:
            NotFound: as `get`.
        """
        cached = self.get(task_id)
        if not self._is_older(cached.as_of_s, self._listing_ttl_s):
            return cached
        has_fallback = cached.task.is_terminated and self._requests.is_failing
        try:
            self._refresh_listing(has_fallback=has_fallback)
            fresh = self._tasks.get(task_id)  # None if the task filter leaves the task out
            if fresh is None or self._is_older(fresh.as_of_s, self._listing_ttl_s):
                self.reload(task_id, has_fallback=has_fallback)
                fresh = self._get_loaded(task_id)
        except (NotFound, Interrupted):
            raise
        except TaskFSError as exc:
            if not cached.task.is_terminated:
                raise
            log.info("task %s: the API fails, an older record is used (%s)", task_id, exc)
            return cached
        return fresh

    def reload(
        self, task_id: str, *, has_fallback: bool = False, timeout_s: float | None = None
    ) -> None:
        """Request one task's record now."""
        self._requests.run(
            ("task", task_id),
            lambda: self._load_task(task_id),
            has_fallback=has_fallback,
            timeout_s=timeout_s,
        )

    def load(self, task_id: str) -> None:
        """Request one task's record in the calling thread."""
        self._requests.run_inline(lambda: self._load_task(task_id))

    def note_status(self, status: TaskStatus) -> None:
        """Store a status that the API has just returned; responses to older requests are stale."""
        with self._lock:
            cached = self._tasks.get(status.id)
            if cached is None:
                return
            task = cached.task._replace(status=status.status, is_terminated=status.is_terminated)
            self._put(task, self._clock())

    def forget(self) -> None:
        """Expire everything: the next caller requests it again. Finished tasks stay a fallback."""
        with self._lock:
            self._listing = self._listing._replace(as_of_s=None)
            self._absent.clear()
            past = self._clock() - 10 * (self._listing_ttl_s + self._status_ttl_s)
            self._tasks = {i: c._replace(as_of_s=past) for i, c in self._tasks.items()}

    def _get_loaded(self, task_id: str) -> CachedTask:
        cached = self._tasks.get(task_id)
        if cached is None:
            raise NotFound(f"there is no task {task_id}")
        return cached

    def _load_unlisted(self, task_id: str) -> CachedTask:
        """Load and return a task that is not cached, if *task_id* is a valid id."""
        if not _OTHER_ID.fullmatch(task_id):
            raise NotFound(f"there is no task {task_id!r}")
        stored = self._finished_tasks.get(task_id) if self._finished_tasks is not None else None
        try:
            self._request_unlisted(task_id, has_fallback=stored is not None)
        except (NotFound, Interrupted):
            raise
        except TaskFSError as exc:
            if stored is None:
                raise
            log.info("task %s: the API fails, an earlier mount's record is used (%s)", task_id, exc)
            with self._lock:
                self._apply([stored], float("-inf"))
        return self._get_loaded(task_id)

    def _request_unlisted(self, task_id: str, *, has_fallback: bool) -> None:
        if self._listing.as_of_s is None:
            self._refresh_listing(has_fallback=has_fallback)
            if task_id in self._tasks:
                return
        with self._lock:
            is_plausible = _SERVICE_ID.fullmatch(task_id) or len(task_id) in self._id_lengths
            if not is_plausible or task_id in self._absent:
                raise NotFound(f"there is no task {task_id}")
        self.reload(task_id, has_fallback=has_fallback)

    def _is_older(self, as_of_s: float | None, age_s: float) -> bool:
        return as_of_s is None or self._clock() - as_of_s > age_s

    def _load_listing(self) -> None:
        began_s = self._clock()
        self._apply_listing(self._filter.list_tasks(self._api), began_s)

    def _apply_listing(self, tasks: list[Task], began_s: float) -> None:
        with self._lock:
            self._apply(tasks, began_s)
            ids = tuple(task.id for task in tasks)
            listed = set(ids)
            gone = [i for i, c in self._tasks.items() if i not in listed and c.as_of_s < began_s]
            for task_id in gone:
                del self._tasks[task_id]
            if gone or ids != self._listing.ids:
                self._version += 1
            self._listing = Listing(ids, began_s)
            self._id_lengths = frozenset(map(len, ids))
        if self._finished_tasks is not None:
            self._finished_tasks.put(tasks, is_complete=self._filter == TaskFilter())

    def _load_unfinished(self) -> None:
        began_s = self._clock()
        tasks = self._api.list_tasks(project=self._filter.project, active=True)
        with self._lock:
            unfinished = [i for i, c in self._tasks.items() if not c.task.is_terminated]
            self._apply([task for task in tasks if task.id in self._tasks], began_s)
            active = {task.id for task in tasks}
            ended = [i for i in unfinished if i not in active and self._is_stale(i, began_s)]
        if len(ended) > MAX_SINGLE_REQUESTS:
            self._load_listing()
            ended = [i for i in ended if self._is_stale(i, began_s)]
        for task_id in ended:
            try:
                self._load_task(task_id)
            except NotFound:
                continue  # it was removed, and is no longer cached

    def _is_stale(self, task_id: str, began_s: float) -> bool:
        """Whether the task is cached from a request before *began_s*."""
        cached = self._tasks.get(task_id)
        return cached is not None and cached.as_of_s < began_s

    def _load_task(self, task_id: str) -> None:
        began_s = self._clock()
        try:
            task = self._api.get_task(task_id)
        except NotFound:
            with self._lock:
                self._absent[task_id] = True
                if self._tasks.pop(task_id, None) is not None:
                    self._version += 1
            if self._finished_tasks is not None:
                self._finished_tasks.drop(task_id)
            raise
        with self._lock:
            self._apply([task], began_s)
        if self._finished_tasks is not None:
            self._finished_tasks.put([task])

    def _apply(self, tasks: Iterable[Task], began_s: float) -> None:
        """Cache the tasks of a response to a request that began at *began_s*."""
        for task in tasks:
            cached = self._tasks.get(task.id)
            # Responses may overtake each other, and a terminal status is final.
            if cached is not None and cached.as_of_s > began_s:
                continue
            if cached is not None and cached.task.is_terminated and not task.is_terminated:
                continue
            self._put(task, began_s)

    def _put(self, task: Task, as_of_s: float) -> None:
        cached = self._tasks.get(task.id)
        if cached is None:
            self._version += 1
            self._tasks[task.id] = CachedTask(task, as_of_s)
            return
        if task == cached.task:
            self._tasks[task.id] = cached._replace(as_of_s=as_of_s)
            return
        now_ns = time.time_ns()
        status_seen_ns = cached.status_seen_ns
        if task.status != cached.task.status:
            status_seen_ns = now_ns
        if _group_key(task) != _group_key(cached.task):
            self._version += 1
        self._tasks[task.id] = CachedTask(task, as_of_s, status_seen_ns, now_ns)


def _group_key(task: Task) -> tuple[object, ...]:
    """Return the fields by which views group tasks and date the groups."""
    return task.status, task.project, task.simulator, task.last_change_ns
