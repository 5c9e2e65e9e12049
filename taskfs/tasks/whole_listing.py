"""`WholeListing`: reads all pages of a listing into the database, a few at a time.

Pages may shift while they are read. A task that is added moves others to later pages, where they
are read twice; a task that is removed moves others to earlier pages, where they are missed. So the
first page is read again at the end, and after a removal all pages are.
"""

import logging
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Final, NamedTuple, TypeVar

import msgspec

from taskfs.errors import BadAnswer, Unavailable
from taskfs.model import MAX_PAGES, MAX_PASSES, PAGE_TASKS, Task, TaskAPI, TaskPage
from taskfs.support.thread_pool import DaemonPool
from taskfs.tasks.known_tasks import KnownTasks
from taskfs.tasks.membership import remove_missing, remove_unlisted
from taskfs.tasks.removal_search import find_removed
from taskfs.tasks.selection import Scope

log = logging.getLogger(__name__)

T = TypeVar("T")

# Requests in flight, few because the API serves all programs of the account.
PAGES_AT_ONCE: Final = 4
# Pages that one write stores.
PAGES_PER_WRITE: Final = 2
# Pages at the beginning whose finished tasks are kept in memory.
KEPT_PAGES: Final = 2
# Tries of a page in the background, and the seconds between them: the API may limit the rate.
PAGE_TRIES: Final = 5
PAGE_PAUSE_S: Final = 10.0


class FirstPage(NamedTuple):
    """The first page of a listing, whose request began at `began_s` by `age_clock`."""

    page: TaskPage
    began_s: float


class _PackedPage(NamedTuple):
    """A page in one piece of memory, compressed: its records are nearly alike, and thousands of
    them would leave gaps."""

    number: int
    began_s: float
    tasks: bytes
    rest: TaskPage  # without its tasks

    @classmethod
    def of(cls, number: int, began_s: float, page: TaskPage) -> "_PackedPage":
        tasks = zlib.compress(msgspec.msgpack.encode(page.tasks), 1)
        return cls(number, began_s, tasks, page._replace(tasks=[]))

    def unpack(self) -> tuple[int, float, TaskPage]:
        tasks = msgspec.msgpack.decode(zlib.decompress(self.tasks), type=list[Task])
        return self.number, self.began_s, self.rest._replace(tasks=tasks)


class Progress(NamedTuple):
    """The pages of a listing that were read, of all."""

    pages: int = 0
    total: int = 0


class WholeListing:
    """Reads whole listings, one at a time, in a thread of its own.

    Safe for concurrent use: the lock guards the loads in flight. Callers of one scope share a load.
    """

    def __init__(self, api: TaskAPI, known: KnownTasks, clock: Callable[[], float]) -> None:
        self._api = api
        self._known = known
        self._clock = clock
        self._lock = threading.Lock()
        self._loads: dict[Scope, Future[float]] = {}
        self._turn = threading.Lock()  # held by the load that reads pages
        self._closed = threading.Event()
        self._pool = DaemonPool(PAGES_AT_ONCE, "taskfs-pages")
        self.progress = Progress()

    def close(self) -> None:
        """End the loads in flight after their next page."""
        self._closed.set()
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

        A load that is not *urgent* outlasts failures of the API for some time. With *total_size*,
        the number of tasks that the API has, it first searches a few pages for removed tasks
        (`removal_search`), and reads all pages only if that does not explain the difference.
        """
        with self._lock:
            load = self._loads.get(scope)
            if load is None:
                load = self._loads[scope] = Future()
                # Not in a pool: the time limit of a request counts from the submission of the work.
                threading.Thread(
                    target=self._run,
                    args=(load, scope, first, urgent, total_size),
                    name="taskfs-listing",
                    daemon=True,
                ).start()
            return load

    @property
    def in_flight(self) -> "list[Future[float]]":
        """The loads that have not ended."""
        with self._lock:
            return list(self._loads.values())

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Run *work* in a thread that requests pages."""
        return self._pool.submit(work)

    def _run(
        self,
        load: "Future[float]",
        scope: Scope,
        first: FirstPage | None,
        urgent: bool,
        total_size: int | None,
    ) -> None:
        try:
            with self._turn:
                result = self._clock()
                if total_size is None or not self._remove_missing(scope, total_size):
                    result = self._read(scope, first, urgent)
        except BaseException as exc:
            if not urgent:
                log.info("the whole listing was not read: %s", exc)
            self._end(scope)
            load.set_exception(exc)
        else:
            self._end(scope)
            load.set_result(result)

    def _end(self, scope: Scope) -> None:
        self.progress = Progress()
        with self._lock:
            self._loads.pop(scope, None)

    def _remove_missing(self, scope: Scope, total_size: int) -> bool:
        """Remove the tasks that a search misses; return whether that explains *total_size*."""
        database = self._known.database
        start_seq = database.last_seq()
        ids = database.ids(scope.selection)
        if database.difference(scope) or len(ids) <= total_size:
            return False

        def fetch(numbers: Sequence[int]) -> Iterator[tuple[int, TaskPage]]:
            for number, began_s, page in self.fetch_all(scope, numbers, urgent=False):
                self.store(page.tasks, began_s, number)
                yield number, page

        removed = find_removed(fetch, ids, total_size, PAGE_TASKS)
        if removed is None or database.last_seq() != start_seq:
            return False  # the pages have moved meanwhile
        remove_missing(self._api, self._known, scope, removed, self._clock)
        return True

    def _read(self, scope: Scope, first: FirstPage | None, urgent: bool) -> float:
        union: set[str] = set()
        first_began_s = self._clock()
        for _ in range(MAX_PASSES):
            generation = self._known.database.generation
            start_seq = self._known.database.last_seq()
            current = _Pass(self, scope, urgent, start_seq)
            current.read(first)
            first = None
            if self._known.database.generation != generation:
                continue  # some of the saved pages were lost
            union |= current.ids
            if current.is_exact:
                self._accept(scope, current.ids, start_seq, current, generation)
                return current.began_s
        if self._known.database.generation != generation:
            raise Unavailable(self._known.database.loss_text)
        if len(union) + current.unusable < current.total_size:
            # The missing tasks would look deleted.
            raise BadAnswer(
                f"GET /tasks: only {len(union)} of the {current.total_size} announced tasks arrived"
            )
        self._accept(scope, union, start_seq, current, generation)
        return first_began_s

    def _accept(
        self, scope: Scope, ids: set[str], start_seq: int, last: "_Pass", generation: int
    ) -> None:
        remove_unlisted(self._api, self._known, scope, ids, start_seq, self._clock)
        self._known.database.set_difference(scope, last.total_size - len(ids), generation)
        if scope == Scope():
            self._known.whole_as_of_s = max(self._known.whole_as_of_s, last.began_s)

    def fetch(self, scope: Scope, number: int, urgent: bool) -> "tuple[int, float, TaskPage]":
        """Return a page with its number, and when its request began."""
        for attempt in range(1, PAGE_TRIES + 1):
            began_s = self._clock()
            try:
                page = self._api.list_page(
                    number, PAGE_TASKS, project=scope.project, status=scope.status
                )
                return number, began_s, page
            except Unavailable:
                is_last = urgent or attempt == PAGE_TRIES
                if is_last or self._closed.wait(PAGE_PAUSE_S * attempt):
                    raise
        raise AssertionError("unreachable")

    def fetch_all(
        self, scope: Scope, numbers: Iterable[int], urgent: bool
    ) -> "Iterator[tuple[int, float, TaskPage]]":
        """Yield pages in order, `PAGES_AT_ONCE` requests at a time; as many wait to be taken."""
        waiting: list[Future[_PackedPage]] = []

        def fetch(number: int) -> _PackedPage:
            return _PackedPage.of(*self.fetch(scope, number, urgent))

        for number in numbers:
            if self._closed.is_set():
                raise Unavailable("the mount is ending")
            waiting.append(self._pool.submit(fetch, number))
            if len(waiting) >= 2 * PAGES_AT_ONCE:
                yield waiting.pop(0).result().unpack()
        while waiting:
            yield waiting.pop(0).result().unpack()

    def store(
        self, tasks: Sequence[Task], began_s: float, number: int, seq: int | None = None
    ) -> None:
        """Store the tasks of the page *number*; *seq* numbers those that are new."""
        self._known.apply(tasks, began_s, keep=number <= KEPT_PAGES, seq=seq)


class _Pass:
    """One pass over the pages of a listing.

    `total_size` is that of the last response, `began_s` when the first request began, and
    `is_exact` is whether `ids` are all tasks.
    """

    def __init__(self, listing: WholeListing, scope: Scope, urgent: bool, start_seq: int) -> None:
        self._listing = listing
        self._scope = scope
        self._urgent = urgent
        self._start_seq = start_seq
        self._count = 0
        self._has_shrunk = False
        self.ids: set[str] = set()
        self.unusable = 0
        self.total_size = 0
        self.began_s = 0.0
        self._unsaved: list[tuple[int, float, TaskPage]] = []

    def read(self, first: FirstPage | None) -> None:
        """Read all pages."""
        listing = self._listing
        if first is None:
            _, began_s, page = listing.fetch(self._scope, 1, self._urgent)
            first = FirstPage(page, began_s)
        count = -(-first.page.total_size // max(1, len(first.page.tasks) + first.page.unusable))
        if count > MAX_PAGES:
            raise BadAnswer(f"GET /tasks: {first.page.total_size} tasks are too many pages")
        self.began_s, self._count = first.began_s, count
        self._add(1, first.began_s, first.page)
        without_news = 0
        for number, began_s, page in listing.fetch_all(
            self._scope, range(2, count + 1), self._urgent
        ):
            news = self._add(number, began_s, page)
            listing.progress = Progress(number, count)
            without_news = 0 if news else without_news + 1
            if without_news >= PAGES_AT_ONCE:
                break
        self._save()
        if self.total_size != first.page.total_size:
            number = 1
            while self._add(*listing.fetch(self._scope, number, self._urgent)) and number < count:
                number += 1
                self._save()
            self._save()

    @property
    def is_exact(self) -> bool:
        return not self._has_shrunk and len(self.ids) + self.unusable >= self.total_size

    def _add(self, number: int, began_s: float, page: TaskPage) -> int:
        """Take a page; return the number of its new records, unusable ones included."""
        before = len(self.ids)
        self.ids.update(task.id for task in page.tasks)
        self.unusable += page.unusable
        self._has_shrunk = self._has_shrunk or page.total_size < self.total_size
        self.total_size = page.total_size
        self._unsaved.append((number, began_s, page))
        if len(self._unsaved) == PAGES_PER_WRITE:
            self._save()
        return len(self.ids) - before + page.unusable

    def _save(self) -> None:
        """Store the pages that are in memory, which follow each other: one write costs less."""
        if not self._unsaved:
            return
        number = self._unsaved[0][0]
        # The tasks of later pages are numbered lower, because they are older.
        seq = self._start_seq + (self._count - number + 1) * PAGE_TASKS
        tasks = [task for _, _, page in self._unsaved for task in page.tasks]
        began_s = min(began_s for _, began_s, _ in self._unsaved)
        self._unsaved.clear()
        self._listing.store(tasks, began_s, number, seq)
