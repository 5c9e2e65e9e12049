"""`TaskCache`: the account's tasks as this mount knows them, and how old that may be.

Everything arrives in bulk. A listing fills the records of all its tasks; the unfinished ones are
refreshed together; a single request is made only for a name that no listing has shown. A failure
is never kept. While the API is away, finished tasks are shown as they were: as this mount or, by
the ledger, another one before it saw them last.
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
# So many tasks that left the unfinished ones are asked for one by one; more make a new listing.
SINGLE_REQUESTS: Final = 16
MAX_NEGATIVE: Final = 1024


class CachedTask(NamedTuple):
    """A task and since when it is known like that.

    `as_of_s` is when the request began that told it, by `age_clock`. `status_seen_ns` and
    `record_seen_ns` are when this mount saw it change, None if it did not.
    """

    task: Task
    as_of_s: float
    status_seen_ns: int | None = None
    record_seen_ns: int | None = None


class Listing(NamedTuple):
    """The tasks of one listing, newest first, and which one it is."""

    ids: tuple[str, ...] = ()
    number: int = 0


class TaskCache:
    """What is known of the tasks. Safe for concurrent use.

    The lock guards the tables and is never held while anything goes out. However many callers
    wait for an answer, it is asked for once.
    """

    def __init__(
        self,
        api: TaskAPI,
        pool: Executor,
        waiter: Waiter,
        *,
        listing_ttl_s: float,
        status_ttl_s: float,
        scope: TaskFilter | None = None,
        finished_tasks: FinishedTaskStore | None = None,
        clock: Callable[[], float] = age_clock,
    ) -> None:
        self._api = api
        self._requests = SingleFlight(pool, waiter, clock)
        self._listing_ttl_s = listing_ttl_s
        self._status_ttl_s = status_ttl_s
        self._filter = scope or TaskFilter()
        self._finished_tasks = finished_tasks
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, CachedTask] = {}
        self._listing = Listing()
        self._listed_s: float | None = None
        self._id_lengths: frozenset[int] = frozenset()
        self._absent: TTLCache[str, bool] = TTLCache(MAX_NEGATIVE, max(0.1, status_ttl_s), clock)
        self._version = 0  # counts changes of what tells tasks apart, and of membership

    @property
    def version(self) -> int:
        """Changes whenever a task comes, goes or moves: what groups all tasks is then old."""
        return self._version

    def begin(self, asked: PendingListing | None = None) -> None:
        """Make the first listing, in the caller's thread, or await the one that was *asked* for:
        who lists next need not ask again.

        Raises:
            AccessDenied, Unavailable, BadAnswer, NotFound: the API does not answer, or refuses.
        """
        if asked is None:
            self._requests.run_inline(self._load_listing)
        else:
            self._requests.run_inline(
                lambda: self._take_listing(asked.answer.result(), asked.began_s)
            )

    def listing(self) -> list[Task]:
        """Return the tasks that the mount lists, newest first, at most the listing's age old."""
        self._refresh_listing()
        with self._lock:
            return [self._known[i].task for i in self._listing.ids if i in self._known]

    def _refresh_listing(self, *, has_fallback: bool = False) -> None:
        if self._is_older(self._listed_s, self._listing_ttl_s):
            self._requests.run("listing", self._load_listing, has_fallback=has_fallback)
        elif log.isEnabledFor(logging.DEBUG):
            log.debug("listing: cached, %.1f s old", self._clock() - (self._listed_s or 0.0))

    def newest_ns(self) -> int:
        """Return the creation time of the newest task that is known, without asking."""
        with self._lock:
            first = next((self._known.get(i) for i in self._listing.ids), None)
        return (first.task.create_ns or 0) if first else 0

    def get(self, task_id: str) -> CachedTask:
        """Return the task: its status final, or at most the status's age old.

        Raises:
            NotFound: there is no such task, or the name cannot be one (then nothing is asked).
        """
        known = self._known.get(task_id)
        if known is None:
            known = self._find_unlisted(task_id)
        if known.task.is_terminated or not self._is_older(known.as_of_s, self._status_ttl_s):
            if log.isEnabledFor(logging.DEBUG):
                log.debug("task %s: cached as %s", task_id, known.task.status)
            return known
        self._requests.run("unfinished", self._load_unfinished)
        return self._known.get(task_id) or self._find_unlisted(task_id)

    def get_cached(self, task_id: str) -> CachedTask | None:
        """Return what is known of the task, however old; nothing is asked."""
        return self._known.get(task_id)

    def get_full(self, task_id: str) -> CachedTask:
        """Return the task with its whole record at most as old as a listing may be.

        The record of a finished task is shown as it was when the API is away.
        """
        known = self.get(task_id)
        if not self._is_older(known.as_of_s, self._listing_ttl_s):
            return known
        has_fallback = known.task.is_terminated and self._requests.is_failing
        try:
            self._refresh_listing(has_fallback=has_fallback)
            listed = self._known.get(task_id)  # none, if what is listed leaves it out
            if listed is None or self._is_older(listed.as_of_s, self._listing_ttl_s):
                self.reload(task_id, has_fallback=has_fallback)
                listed = self._recall(task_id)
            known = listed
        except (NotFound, Interrupted):
            raise
        except TaskFSError as exc:
            if not known.task.is_terminated:
                raise
            log.info("record of %s: the API is away, shown as it was (%s)", task_id, exc)
        return known

    def reload(self, task_id: str, *, has_fallback: bool = False) -> None:
        """Ask for one task's record now."""
        self._requests.run(
            ("task", task_id), lambda: self._load_task(task_id), has_fallback=has_fallback
        )

    def load(self, task_id: str) -> None:
        """Ask for one task's record in the calling thread."""
        self._requests.run_inline(lambda: self._load_task(task_id))

    def note_status(self, status: TaskStatus) -> None:
        """The API just told this status: requests that began earlier no longer count."""
        with self._lock:
            known = self._known.get(status.id)
            if known is None:
                return
            task = known.task._replace(status=status.status, is_terminated=status.is_terminated)
            self._put(task, self._clock())

    def forget(self) -> None:
        """Let everything be asked for again; what is known stays until then."""
        with self._lock:
            self._listed_s = None
            self._absent.clear()
            past = self._clock() - 10 * (self._listing_ttl_s + self._status_ttl_s)
            self._known = {i: k._replace(as_of_s=past) for i, k in self._known.items()}

    def _recall(self, task_id: str) -> CachedTask:
        known = self._known.get(task_id)
        if known is None:
            raise NotFound(f"there is no task {task_id}")
        return known

    def _find_unlisted(self, task_id: str) -> CachedTask:
        """Return a task that is not known yet, asking for it if its name can be an id."""
        if not _OTHER_ID.fullmatch(task_id):
            raise NotFound(f"there is no task {task_id!r}")
        kept = self._finished_tasks.get(task_id) if self._finished_tasks is not None else None
        try:
            self._ask_for(task_id, has_fallback=kept is not None)
        except (NotFound, Interrupted):
            raise
        except TaskFSError as exc:
            if kept is None:
                raise
            log.info("%s: the API is away, shown as it was before this mount (%s)", task_id, exc)
            with self._lock:
                self._apply([kept], float("-inf"))
        return self._recall(task_id)

    def _ask_for(self, task_id: str, *, has_fallback: bool) -> None:
        if self._listed_s is None:
            self._refresh_listing(has_fallback=has_fallback)
            if task_id in self._known:
                return
        with self._lock:
            plausible = _SERVICE_ID.fullmatch(task_id) or len(task_id) in self._id_lengths
            if not plausible or task_id in self._absent:
                raise NotFound(f"there is no task {task_id}")
        self.reload(task_id, has_fallback=has_fallback)

    def _is_older(self, as_of_s: float | None, age_s: float) -> bool:
        return as_of_s is None or self._clock() - as_of_s > age_s

    def _load_listing(self) -> None:
        began = self._clock()
        self._take_listing(self._filter.list_tasks(self._api), began)

    def _take_listing(self, tasks: list[Task], began: float) -> None:
        with self._lock:
            self._apply(tasks, began)
            ids = tuple(task.id for task in tasks)
            listed = set(ids)
            gone = [i for i, k in self._known.items() if i not in listed and k.as_of_s < began]
            for task_id in gone:
                del self._known[task_id]
            if gone or ids != self._listing.ids:
                self._version += 1
            self._listing = Listing(ids, self._listing.number + 1)
            self._listed_s = began
            self._id_lengths = frozenset(map(len, ids))
        if self._finished_tasks is not None:
            self._finished_tasks.keep(tasks, whole=self._filter == TaskFilter())

    def _load_unfinished(self) -> None:
        began = self._clock()
        tasks = self._api.list_tasks(project=self._filter.project, active=True)
        with self._lock:
            known = [i for i, k in self._known.items() if not k.task.is_terminated]
            mine = [task for task in tasks if task.id in self._known]
            self._apply(mine, began)
            seen = {task.id for task in tasks}
            missing = [i for i in known if i not in seen and self._known[i].as_of_s < began]
        if len(missing) > SINGLE_REQUESTS:
            self._load_listing()
            missing = [i for i in missing if i in self._known and self._known[i].as_of_s < began]
        for task_id in missing:
            try:
                self._load_task(task_id)
            except NotFound:
                continue  # it was removed, and is no longer known

    def _load_task(self, task_id: str) -> None:
        began = self._clock()
        try:
            task = self._api.get_task(task_id)
        except NotFound:
            with self._lock:
                self._absent[task_id] = True
                if self._known.pop(task_id, None) is not None:
                    self._version += 1
            if self._finished_tasks is not None:
                self._finished_tasks.drop(task_id)
            raise
        with self._lock:
            self._apply([task], began)
        if self._finished_tasks is not None:
            self._finished_tasks.keep([task])

    def _apply(self, tasks: Iterable[Task], began_s: float) -> None:
        for task in tasks:
            known = self._known.get(task.id)
            # An answer to a question asked earlier, or one that revives a finished task, is old.
            if known is not None and known.as_of_s > began_s:
                continue
            if known is not None and known.task.is_terminated and not task.is_terminated:
                continue
            self._put(task, began_s)

    def _put(self, task: Task, as_of_s: float) -> None:
        known = self._known.get(task.id)
        if known is None:
            self._version += 1
            self._known[task.id] = CachedTask(task, as_of_s)
            return
        if task == known.task:
            self._known[task.id] = known._replace(as_of_s=as_of_s)
            return
        now_ns = time.time_ns()
        status_seen_ns = known.status_seen_ns
        if task.status != known.task.status:
            status_seen_ns = now_ns
        if _group_key(task) != _group_key(known.task):
            self._version += 1
        self._known[task.id] = CachedTask(task, as_of_s, status_seen_ns, now_ns)


def _group_key(task: Task) -> tuple[object, ...]:
    """Return what groups of tasks are made and dated by."""
    return task.status, task.project, task.simulator, task.last_change_ns
