"""`TaskCache`: the account's tasks, each at most as old as its TTL.

Tasks are loaded in bulk: a listing brings the records of all its tasks, and one request updates
all unfinished tasks. A task alone is requested if no listing has shown it, or if its record has to
be newer than that of the listing (F-22). A failure is never cached. While the API fails, finished
tasks are served as a mount saw them last.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from typing import Final, TypeVar

from cachetools import TTLCache

from taskfs.errors import Interrupted, NotFound, TaskFSError, Unavailable
from taskfs.model import Task, TaskAPI, TaskPage, TaskStatus
from taskfs.support.clock import age_clock
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.single_flight import SingleFlight
from taskfs.tasks.account_listing import AccountListing
from taskfs.tasks.database_file import DatabaseFile
from taskfs.tasks.known_tasks import CachedTask, KnownTasks
from taskfs.tasks.offline_listing import OfflineListing
from taskfs.tasks.packed_ids import PackedIds
from taskfs.tasks.selection import Selection
from taskfs.tasks.task_database import MAX_LOSSES, TaskDatabase
from taskfs.tasks.task_filter import PendingPages, PendingTask, TaskFilter
from taskfs.tasks.task_rows import BATCH
from taskfs.tasks.whole_listing import Progress

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ABSENT: Final = 1024  # names without a task that are remembered; about 100 KB
# Records that are requested one by one within one listing TTL; after that a whole page is.
MAX_SINGLE_RECORDS: Final = 3
# The share of its TTL after which a listing in use is updated, so that no reader waits for it.
EARLY: Final = 0.75


class TaskCache:
    """The tasks of the account.

    Safe for concurrent use: the lock guards the tables in memory. Concurrent callers share a
    request.
    """

    def __init__(
        self,
        api: TaskAPI,
        pool: Executor,
        waiter: Waiter,
        *,
        listing_ttl_s: float,
        status_ttl_s: float,
        timeout_s: float = 30.0,
        task_filter: TaskFilter | None = None,
        database: TaskDatabase | None = None,
        offline: bool = False,
        clock: Callable[[], float] = age_clock,
    ) -> None:
        self._api = api
        self._requests = SingleFlight(pool, waiter, clock)
        self._waiter = waiter
        self._listing_ttl_s = listing_ttl_s
        self._status_ttl_s = status_ttl_s
        self._timeout_s = timeout_s
        self._clock = clock
        self.database = database or TaskDatabase(DatabaseFile(None))
        self._known = KnownTasks(self.database, clock)
        listing_type = OfflineListing if offline else AccountListing
        self._listing = listing_type(api, self._known, task_filter or TaskFilter(), clock)
        self._lock = threading.Lock()
        self._ids: tuple[object, PackedIds] = (None, PackedIds())
        self._absent: TTLCache[str, bool] = TTLCache(MAX_ABSENT, max(0.1, status_ttl_s), clock)
        self._loads: list[Future[float]] = []  # whole listings that must end before one is shown
        self._single_records: TTLCache[str, bool] = TTLCache(64, max(0.1, listing_ttl_s), clock)

    @property
    def version(self) -> object:
        """A value that changes when a task is added, removed or changes its group."""
        return self.database.version

    @property
    def selection(self) -> Selection:
        """The listed ones of the tasks in the database; current after `update`."""
        return self._listing.selection

    @property
    def progress(self) -> Progress:
        """How many pages of a whole listing were read; zeros if none is in flight."""
        return self._listing.progress

    def close(self) -> None:
        """End the loads in the background, and close the database."""
        self._listing.close()
        self.database.close()

    def load_first_page(self, pending: PendingPages | None = None) -> list[TaskPage]:
        """Load the first page in this thread, or wait for the *pending* one; load the rest later.

        Raises:
            AccessDenied, Unavailable, BadResponse, NotFound: the API does not respond, or refuses.
        """
        pages: list[TaskPage] = []

        def load() -> None:
            if pending is None:
                pages.extend(self._listing.load_first_pages())
            else:
                pages.extend(pending.pages.result())
                self._listing.apply_first_pages(pages, pending.began_s)

        self._requests.run_inline(load)
        if self._listing.as_of_s is None:
            self._requests.start("listing", self._update)
        return pages

    def update(self, *, has_fallback: bool = False) -> None:
        """Update the listing if it is older than its TTL; *has_fallback*: see `SingleFlight.run`.

        Raises:
            Unavailable: the listing is not whole within the timeout; it continues.
        """
        self._listing.expire_if_short()
        if not self._is_older(self._listing.as_of_s, self._listing_ttl_s):
            early_s = EARLY * self._listing_ttl_s
            if self._is_older(self._listing.as_of_s, early_s):
                self._requests.start("listing", lambda: self._update(early_s))
            if self._listing.is_recheck_due:
                self._requests.start("recheck", self._listing.recheck_next_page)
            return
        self._requests.run("listing", self._update, has_fallback=has_fallback)
        self._await_loads()

    def _update(self, max_age_s: float | None = None) -> None:
        if any(not load.done() for load in self._loads):
            return
        if self._loads and all(load.exception() is None for load in self._loads):
            self._listing.finish(self._loads)
            self._loads = []
        max_age_s = self._listing_ttl_s if max_age_s is None else max_age_s
        if self._is_older(self._listing.as_of_s, max_age_s):
            self._loads = self._listing.update()

    def _await_loads(self) -> None:
        """Wait until the listing is whole; each waiter gets its failure."""
        loads = self._loads
        if not loads:
            return
        for load in loads:
            try:
                self._waiter.result(load, self._timeout_s)
            except TaskFSError as exc:
                if load.done():
                    self._loads = []
                elif isinstance(exc, Unavailable):
                    pages, total = self.progress
                    text = f"the listing is not whole yet: {pages} of {total} pages"
                    raise Unavailable(text) from exc
                raise
        with self._lock:
            if self._loads is loads:
                self._listing.finish(loads)
                self._loads = []
        if self._is_older(self._listing.as_of_s, self._listing_ttl_s):
            self._requests.run("listing", self._update)

    def ids(self) -> PackedIds:
        """Return the ids of the tasks that the mount lists, newest first."""
        return self.read(self.known_ids)

    def read(self, query: Callable[[], T]) -> T:
        """Return the result of *query* on the listing; run it again if the database lost tasks."""
        for _ in range(MAX_LOSSES):
            self.update()
            result = query()
            if self._listing.is_known:
                return result
        raise Unavailable(self.database.loss_text)

    def known_ids(self) -> PackedIds:
        """Return the ids of the last listing, newest first; send no request."""
        selection = self.selection
        version = self.database.members_version(selection), selection
        with self._lock:
            if self._ids[0] != version:
                self._ids = version, self.database.ids(selection)
            return self._ids[1]

    def listing(self) -> Iterator[Task]:
        """Yield all listed tasks, newest first, also if the database gets lost meanwhile."""
        ids = self.ids()
        batches = (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
        loads = (partial(self.database.load, batch) for batch in batches)
        return (task for load in loads for task in self.read(load))

    def get(self, task_id: str) -> CachedTask:
        """Return the task; its status is final, or at most one status TTL old.

        Raises NotFound; for an invalid id no request is sent.
        """
        cached = self.get_cached(task_id)
        if cached is None:
            cached = self._load_unlisted(task_id)
        if cached.task.is_terminated or not self._is_older(cached.as_of_s, self._status_ttl_s):
            log.debug("task %s: cached as %s", task_id, cached.task.status)
            return cached
        self._requests.run("unfinished", self._listing.load_unfinished)
        return self._known.get(task_id) or self._load_unlisted(task_id)

    def get_cached(self, task_id: str) -> CachedTask | None:
        """Return the task, however old, or None; send no request."""
        cached = self._known.get(task_id)
        if cached is None and self._listing.is_known:
            cached = self._known.load(task_id, self.selection)
        return cached

    def get_now(self, task_id: str, timeout_s: float) -> CachedTask:
        """Return the task as a request shows it that begins after this call; a terminal status is
        final and needs none.

        Raises what `get` raises, and Unavailable if no response comes within *timeout_s* seconds.
        """
        began_s = self._clock()
        while True:
            cached = self._known.get(task_id)
            if cached is not None and (cached.task.is_terminated or cached.as_of_s >= began_s):
                return cached
            # The reload may join a request that began before this call; then a second one follows.
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
            if self._listing.is_one_page or not self._listing.is_known:
                self.update(has_fallback=has_fallback)
            fresh = self._known.get(task_id)  # None if the task filter leaves the task out
            if fresh is None or self._is_older(fresh.as_of_s, self._listing_ttl_s):
                self._reload_record(task_id, has_fallback=has_fallback)
                fresh = self._get_loaded(task_id)
        except (NotFound, Interrupted):
            raise
        except TaskFSError as exc:
            if not cached.task.is_terminated:
                raise
            log.info("task %s: the API fails, an older record is used (%s)", task_id, exc)
            return cached
        return fresh

    def _reload_record(self, task_id: str, *, has_fallback: bool) -> None:
        """Request the task's record; where many are asked for, the page that shows it."""
        with self._lock:
            self._single_records[task_id] = True
            are_many = len(self._single_records) > MAX_SINGLE_RECORDS
        if are_many:
            began_s = self._clock()
            self._requests.run("page", lambda: self._listing.load_page_of(task_id))
            cached = self._known.get(task_id)  # None if a listing has dropped it meanwhile
            if cached is not None and cached.as_of_s >= began_s - self._listing_ttl_s:
                return
        self.reload(task_id, has_fallback=has_fallback)

    def reload(
        self, task_id: str, *, has_fallback: bool = False, timeout_s: float | None = None
    ) -> None:
        """Request one task's record now."""
        load = partial(self._load_task, task_id)
        self._requests.run(("task", task_id), load, has_fallback=has_fallback, timeout_s=timeout_s)

    def load(self, task_id: str, pending: PendingTask | None = None) -> None:
        """Request one task's record in the calling thread, or wait for the *pending* one."""
        self._requests.run_inline(lambda: self._load_task(task_id, pending))

    def note_status(self, status: TaskStatus) -> None:
        """Store a status that the API has just returned; responses to older requests are stale."""
        if (cached := self._known.get(status.id)) is not None:
            task = cached.task._replace(status=status.status, is_terminated=status.is_terminated)
            self._known.apply([task], self._clock())

    def forget(self) -> None:
        """Expire everything: the next caller requests it again. Finished tasks stay a fallback."""
        with self._lock:
            self._absent.clear()
        self._listing.expire()
        self._known.expire()

    def _get_loaded(self, task_id: str) -> CachedTask:
        """Return a task that was loaded just now, also if a listing has dropped it from memory."""
        cached = self._known.load(task_id, Selection())
        if cached is None:
            raise NotFound(f"there is no task {task_id}")
        return cached

    def _load_unlisted(self, task_id: str) -> CachedTask:
        """Load and return a task that is not cached, if *task_id* is a valid id."""
        if not self._known.is_valid(task_id):
            raise NotFound(f"there is no task {task_id!r}")
        saved = self.database.get(task_id)
        if saved is not None and not saved.is_terminated:
            saved = None
        try:
            self._request_unlisted(task_id, has_fallback=saved is not None)
        except (NotFound, Interrupted):
            raise
        except TaskFSError as exc:
            if saved is None:
                raise
            log.info("task %s: the API fails, an earlier mount's record is used (%s)", task_id, exc)
            self._known.remember([saved], float("-inf"))
        return self._get_loaded(task_id)

    def _request_unlisted(self, task_id: str, *, has_fallback: bool) -> None:
        if not self._listing.has_page:
            load = self._listing.load_first_pages
            self._requests.run("first page", load, has_fallback=has_fallback)
            if self._known.get(task_id) is not None:
                return
        with self._lock:
            if task_id in self._absent or not self._known.is_plausible(task_id):
                raise NotFound(f"there is no task {task_id}")
        self.reload(task_id, has_fallback=has_fallback)

    def _is_older(self, as_of_s: float | None, age_s: float) -> bool:
        return as_of_s is None or self._clock() - as_of_s > age_s

    def _load_task(self, task_id: str, pending: PendingTask | None = None) -> None:
        began_s = self._clock() if pending is None else pending.began_s
        try:
            task = pending.record.result() if pending else self._api.get_task(task_id)
        except NotFound:
            with self._lock:
                self._absent[task_id] = True
            self._known.remove([task_id])
            raise
        self._known.apply([task], began_s)
