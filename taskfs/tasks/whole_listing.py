"""`WholeListing`: reads all pages of a listing into the database, a few at a time.

Pages may shift while they are read. A task that is added moves others to later pages, where they
are read twice; a task that is removed moves others to earlier pages, where they are missed. So the
first page is read again at the end, and after a removal all pages are.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Final, NamedTuple, TypeVar

from taskfs.errors import BadResponse, Unavailable
from taskfs.model import MAX_PAGES, MAX_PASSES, PAGE_TASKS, PAGES_AT_ONCE, TaskAPI, TaskPage
from taskfs.support.thread_pool import DaemonPool
from taskfs.tasks.known_tasks import KnownTasks
from taskfs.tasks.membership import remove_missing, remove_unlisted
from taskfs.tasks.packed_page import PackedPage
from taskfs.tasks.removal_search import find_removed
from taskfs.tasks.selection import Scope

log = logging.getLogger(__name__)

T = TypeVar("T")

# Pages at the beginning whose finished tasks are kept in memory.
KEPT_PAGES: Final = 2
# Tries of the page that is needed next, in the background. The pause after the first try, in
# seconds; after try n it is n times as long, because the API may limit the rate.
PAGE_TRIES: Final = 5
PAGE_PAUSE_S: Final = 10.0


class FirstPage(NamedTuple):
    """The first page of a listing, whose request began at `began_s` by `age_clock`."""

    page: TaskPage
    began_s: float


class Progress(NamedTuple):
    """The pages of a listing that were read, of all."""

    pages: int = 0
    total: int = 0


class _Load(Future[float]):
    """A whole listing in flight; *is_urgent* while a caller waits for it."""

    is_urgent = False


class WholeListing:
    """Reads whole listings, one at a time, in a thread of its own.

    Safe for concurrent use: the condition guards the loads in flight, and wakes those that pause.
    Callers of one scope share a load.
    """

    def __init__(self, api: TaskAPI, known: KnownTasks, clock: Callable[[], float]) -> None:
        self._api = api
        self._known = known
        self._clock = clock
        self._condition = threading.Condition()
        self._loads: dict[Scope, _Load] = {}
        self._turn = threading.Lock()  # held by the load that reads pages
        self._is_closed = False
        self._pool = DaemonPool(PAGES_AT_ONCE, "taskfs-listing-pages")
        self.progress = Progress()

    def close(self) -> None:
        """End the loads in flight after their next page."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        self._pool.shutdown(cancel_futures=True)

    def start(
        self,
        scope: Scope,
        first: FirstPage | None = None,
        *,
        urgent: bool = False,
        total_size: int | None = None,
    ) -> "Future[float]":
        """Read all pages of *scope*; the result is when the first request began.

        A load that is not *urgent* outlasts failures of the API for some time, until an urgent call
        joins it. With *total_size*, the number of tasks that the API has, it first searches a few
        pages for removed tasks (`removal_search`), and reads all pages only if that does not
        explain the difference.
        """
        with self._condition:
            load = self._loads.get(scope) or _Load()
            load.is_urgent = load.is_urgent or urgent
            self._condition.notify_all()
            if scope not in self._loads:
                # Not in a pool: the time limit of a request counts from the submission of the work.
                threading.Thread(
                    target=self._run,
                    args=(load, scope, first, total_size),
                    name="taskfs-listing",
                    daemon=True,
                ).start()
                # After the start: if no thread starts, nothing ends the load.
                self._loads[scope] = load
            return load

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Run *work* in a thread that requests pages."""
        return self._pool.submit(work)

    def _run(
        self,
        load: _Load,
        scope: Scope,
        first: FirstPage | None,
        total_size: int | None,
    ) -> None:
        try:
            with self._turn:
                result = self._clock()
                if total_size is None or not self._remove_missing(scope, total_size, load):
                    result = self._read(scope, first, load)
        except BaseException as exc:
            if not load.is_urgent:
                log.info("the whole listing was not read: %s", exc)
            self._end(scope)
            load.set_exception(exc)
        else:
            self._end(scope)
            load.set_result(result)

    def _end(self, scope: Scope) -> None:
        self.progress = Progress()
        with self._condition:
            self._loads.pop(scope, None)

    def _remove_missing(self, scope: Scope, total_size: int, load: _Load) -> bool:
        """Remove the tasks that a search misses; return whether that explains *total_size*."""
        database = self._known.database
        start_seq = database.last_seq()
        ids = database.ids(scope.selection)
        if database.difference(scope) != 0 or len(ids) <= total_size:
            return False

        def fetch(numbers: Sequence[int]) -> Iterator[tuple[int, TaskPage]]:
            for page in self.fetch_all(scope, numbers, load):
                self.store(page)
                tasks = [task for batch in page.batches() for task in batch]
                yield page.number, page.rest._replace(tasks=tasks)

        removed = find_removed(fetch, ids, total_size, PAGE_TASKS)
        if removed is None or database.last_seq() != start_seq:
            return False  # the pages have moved meanwhile
        if database.count(scope) != len(ids):
            return False  # another process has changed the saved tasks
        remove_missing(self._api, self._known, scope, removed, self._clock)
        return True

    def _read(self, scope: Scope, first: FirstPage | None, load: _Load) -> float:
        union: set[str] = set()
        first_began_s = self._clock()
        for _ in range(MAX_PASSES):
            generation = self._known.database.generation
            start_seq = self._known.database.last_seq()
            current = _Pass(self, scope, load, start_seq)
            current.read(first)
            first = None
            if self._known.database.generation != generation:
                continue  # some of the saved pages were lost
            if current.is_exact:
                difference = current.total_size - len(current.ids)
                self._accept(scope, current.ids, start_seq, current, difference, generation)
                return current.began_s
            union |= current.ids
        if self._known.database.generation != generation:
            raise Unavailable(self._known.database.loss_text)
        if len(union) + current.unusable < current.total_size:
            # The missing tasks would look deleted.
            raise BadResponse(
                f"GET /tasks: only {len(union)} of the {current.total_size} announced tasks arrived"
            )
        # The union may have tasks that were removed meanwhile. Their number must not be saved as
        # the usual difference to `total_size`, or no later update would look for them.
        self._accept(scope, union, start_seq, current, current.unusable, generation)
        return first_began_s

    def _accept(
        self,
        scope: Scope,
        ids: set[str],
        start_seq: int,
        last: "_Pass",
        difference: int,
        generation: int,
    ) -> None:
        remove_unlisted(self._api, self._known, scope, ids, start_seq, self._clock)
        self._known.database.set_difference(scope, difference, generation)
        if scope == Scope():
            self._known.whole_as_of_s = max(self._known.whole_as_of_s, last.began_s)

    def fetch(self, scope: Scope, number: int, load: _Load) -> PackedPage:
        """Return a page of *scope*."""
        return next(self.fetch_all(scope, [number], load))

    def fetch_all(
        self, scope: Scope, numbers: Iterable[int], load: _Load | None = None
    ) -> Iterator[PackedPage]:
        """Yield pages in order; only a *load* that is not urgent outlasts failures.

        At most `PAGES_AT_ONCE` are in flight, and with those that wait to be taken twice that many.
        """
        waiting: dict[int, Future[PackedPage]] = {}
        for number in numbers:
            if self._is_closed:
                raise Unavailable("the mount is ending")
            waiting[number] = self._pool.submit(self._request, scope, number)
            if len(waiting) >= 2 * PAGES_AT_ONCE:
                yield self._take_first(scope, waiting, load)
        while waiting:
            yield self._take_first(scope, waiting, load)

    def _request(self, scope: Scope, number: int) -> PackedPage:
        page = PackedPage(number, self._clock())
        page.rest = self._api.list_page(
            number, PAGE_TASKS, project=scope.project, status=scope.status, take=page.add
        )
        return page

    def _take_first(
        self, scope: Scope, waiting: "dict[int, Future[PackedPage]]", load: _Load | None
    ) -> PackedPage:
        """Return the first page of *waiting*; request pages that have failed again, after a pause.

        The pause is in the calling thread, because updates use the threads of the pool as well.
        """
        number = next(iter(waiting))
        for tries in range(1, PAGE_TRIES + 1):
            is_last = tries == PAGE_TRIES or (load is not None and load.is_urgent)
            try:
                page = waiting[number].result()
                del waiting[number]
                return page
            except Unavailable:
                if load is None or is_last or not self._pause(load, PAGE_PAUSE_S * tries):
                    raise
            for each, request in waiting.items():
                if request.done() and isinstance(request.exception(), Unavailable):
                    waiting[each] = self._pool.submit(self._request, scope, each)
        raise AssertionError("unreachable")

    def _pause(self, load: _Load, seconds: float) -> bool:
        """Let other loads read pages until *load* is urgent; return False once this is closed."""
        self._turn.release()
        try:
            with self._condition:
                self._condition.wait_for(lambda: load.is_urgent or self._is_closed, seconds)
                return not self._is_closed
        finally:
            self._turn.acquire()

    def store(self, page: PackedPage, seq: int | None = None) -> list[str]:
        """Store the tasks of *page*, and return their ids.

        *seq* numbers those that are new, as in `TaskDatabase.put`.
        """
        if seq is None:  # by default each batch would come above the batches before it
            seq = self._known.database.last_seq() + page.count
        ids: list[str] = []
        for tasks in page.batches():
            is_kept = page.number <= KEPT_PAGES
            self._known.apply(tasks, page.began_s, keep=is_kept, seq=seq - len(ids))
            ids += [task.id for task in tasks]
        return ids


class _Pass:
    """One pass over the pages of a listing.

    `total_size` is that of the last response, `began_s` when the first request began, and
    `is_exact` is whether `ids` are all tasks.
    """

    def __init__(self, listing: WholeListing, scope: Scope, load: _Load, start_seq: int) -> None:
        self._listing = listing
        self._scope = scope
        self._load = load
        self._start_seq = start_seq
        self._count = 0
        self._has_shrunk = False
        self.ids: set[str] = set()
        self.unusable = 0
        self.total_size = 0
        self.began_s = 0.0

    def read(self, first: FirstPage | None) -> None:
        """Read all pages."""
        listing = self._listing
        if first is None:
            page = listing.fetch(self._scope, 1, self._load)
        else:
            page = PackedPage(1, first.began_s)
            page.add(first.page.tasks)
            page.rest = first.page._replace(tasks=[])
        first_size = page.rest.total_size
        count = -(-first_size // max(1, page.count + page.rest.unusable))
        if count > MAX_PAGES:
            raise BadResponse(f"GET /tasks: {first_size} tasks are too many pages")
        self.began_s, self._count = page.began_s, count
        self._add(page)
        without_news = 0
        for page in listing.fetch_all(self._scope, range(2, count + 1), self._load):
            news = self._add(page)
            listing.progress = Progress(page.number, count)
            without_news = 0 if news else without_news + 1
            if without_news >= PAGES_AT_ONCE:
                break
        if self.total_size != first_size:
            number = 1
            while self._add(listing.fetch(self._scope, number, self._load)) and number < count:
                number += 1

    @property
    def is_exact(self) -> bool:
        return not self._has_shrunk and len(self.ids) + self.unusable >= self.total_size

    def _add(self, page: PackedPage) -> int:
        """Store a page; return the number of its new records, unusable ones included."""
        before = len(self.ids)
        # The tasks of later pages are numbered lower, because they are older.
        seq = self._start_seq + (self._count - page.number + 1) * PAGE_TASKS
        self.ids.update(self._listing.store(page, seq))
        self.unusable += page.rest.unusable
        self._has_shrunk = self._has_shrunk or page.rest.total_size < self.total_size
        self.total_size = page.rest.total_size
        return len(self.ids) - before + page.rest.unusable
