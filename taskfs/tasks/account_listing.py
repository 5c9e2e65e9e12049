"""`AccountListing`: keeps the listing of a mount current by asking for what has changed.

An update reads the newest page, and further pages until one ends with a known task. It requests the
unfinished tasks that these pages do not show, and compares the number of known tasks with the API's
`total_size`. If they differ, it searches pages for removed tasks, in the background.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Final

from taskfs.model import PAGE_TASKS, TaskAPI, TaskPage
from taskfs.tasks.known_tasks import NEVER_S, KnownTasks
from taskfs.tasks.membership import (
    MAX_SINGLE_REQUESTS,
    UnfinishedUpdater,
    remove_unlisted,
    request_each,
)
from taskfs.tasks.selection import Scope, Selection
from taskfs.tasks.task_filter import TaskFilter
from taskfs.tasks.whole_listing import FirstPage, Progress, WholeListing

log = logging.getLogger(__name__)

# Tasks on the newest page, where the listing has several pages: a smaller page arrives sooner.
NEWEST_TASKS: Final = 100
# Pages that an update reads until one shows a known task; if none does, it reads all pages.
MAX_NEWEST_PAGES: Final = 8
# A listing of up to this many tasks is read again within the update, a longer one in the
# background.
SMALL_TASKS: Final = 4 * PAGE_TASKS
# Seconds between two pages of the recheck, which reads all records again, page by page, while the
# mount is in use.
RECHECK_PAUSE_S: Final = 15.0


class AccountListing:
    """The listing of one mount, or command.

    The methods that send requests are called by one thread at a time (`SingleFlight`); the rest is
    safe for concurrent use. With *waits_for_removals*, `update` waits until the tasks that were
    removed from a long listing are found.
    """

    def __init__(
        self,
        api: TaskAPI,
        known: KnownTasks,
        task_filter: TaskFilter,
        clock: Callable[[], float],
        *,
        waits_for_removals: bool = False,
    ) -> None:
        self._api = api
        self._known = known
        self._database = known.database
        self._filter = task_filter
        self._clock = clock
        self._waits_for_removals = waits_for_removals
        self._whole = WholeListing(api, known, clock)
        self._unfinished = UnfinishedUpdater(
            api, known, task_filter, clock, partial(_load_pages, self._whole)
        )
        self._first_pages: dict[Scope, FirstPage] = {}
        self._generation = self._database.generation  # at the request for the listing in use
        self._load_generation = self._generation  # when `update` began a load
        # The part of the database's version that changes when another process writes to it.
        self._other_version: object = None
        self._counted_version: object = None  # of the database when its tasks were counted
        self._needs_unfinished = False  # whether the last update requested the unfinished tasks
        self._recheck_page = 0
        self._recheck_s = NEVER_S
        self.as_of_s: float | None = None  # None: there was none yet, or `expire` was called
        self.has_page = False  # whether any page has arrived
        self._totals: dict[Scope, int] = {}
        self._one_page_scopes: set[Scope] = set()
        self.selection = Selection(task_filter.project, task_filter.statuses, -1, task_filter.last)

    @property
    def progress(self) -> Progress:
        """How many pages of a whole listing were read; zeros if none is in flight."""
        return self._whole.progress

    @property
    def is_one_page(self) -> bool:
        """Whether an update reads all records."""
        return self._filter.last is not None or self._one_page_scopes >= set(self._filter.scopes)

    @property
    def is_known(self) -> bool:
        """Whether the listing was whole once, so that the saved tasks are those of the account."""
        if self._database.generation != self._generation:  # the saved tasks were lost
            self.as_of_s = None
            self.selection = self.selection._replace(max_seq=-1)
            return False
        return self.selection.has_listing

    def close(self) -> None:
        """End the loads in the background."""
        self._whole.close()

    def expire(self) -> None:
        """Have everything requested again."""
        self.as_of_s = None
        self._first_pages.clear()

    def expire_if_short(self) -> None:
        """Have everything requested again if another process has removed tasks of the listing."""
        version = self._database.version[2]
        if version == self._counted_version:
            return
        if any(self._is_short(scope) for scope in self._filter.scopes):
            self.as_of_s = None
        else:
            self._counted_version = version

    def load_first_pages(self) -> list[TaskPage]:
        """Request and return the first page of each scope; see `apply_first_pages`."""
        began_s = self._clock()
        pages = self._filter.list_first_pages(self._api)
        self.apply_first_pages(pages, began_s)
        return pages

    def apply_first_pages(self, pages: list[TaskPage], began_s: float) -> None:
        """Store the first pages of the listing; they may be all of it."""
        self.has_page = True
        if self._filter.last is not None:
            self._apply_last(pages, began_s)
            return
        scopes = self._filter.scopes
        self._first_pages = {
            scope: FirstPage(page, began_s) for scope, page in zip(scopes, pages, strict=True)
        }
        if all(page.is_whole for page in pages):
            self.update()
        else:
            for page in pages:  # in memory only: the database must have no gap
                self._known.remember(page.tasks, began_s)

    def update(self) -> "list[Future[float]]":
        """Make the listing current.

        Return the loads that must end before it is, because it never was whole, or lacks tasks.
        """
        if self._filter.last is not None:
            self.load_first_pages()
            return []
        self._notice_other_mounts()
        self._load_generation = generation = self._database.generation
        if not self.is_known:
            self._known.load_unfinished(self._filter.project)
        began_s = self._clock()
        # If the last update had to request the unfinished tasks, do so beside the newest page.
        unfinished = (
            self._whole.submit(self._unfinished.request) if self._needs_unfinished else None
        )
        firsts, self._first_pages = self._first_pages, {}
        began_s = min((first.began_s for first in firsts.values()), default=began_s)
        loads = [
            load
            for scope in self._filter.scopes
            if (load := self._update_scope(scope, firsts.get(scope))) is not None
        ]
        if loads:
            return loads
        self._needs_unfinished = any(
            cached.as_of_s < began_s for cached in self._known.unfinished()
        )
        if self._needs_unfinished:
            listed = unfinished.result() if unfinished else self._unfinished.request()
            self._unfinished.apply(*listed)
        if loads := self._compare_counts():
            return loads
        self._note_current(began_s, generation)
        return []

    def finish(self, loads: "list[Future[float]]") -> None:
        """Note that the *loads* of `update` have ended."""
        self._note_current(min(load.result() for load in loads), self._load_generation)

    def load_unfinished(self) -> None:
        """Request all unfinished tasks with one listing, and each known one that it lacks."""
        self._unfinished.apply(*self._unfinished.request())

    def load_page_of(self, task_id: str) -> None:
        """Request the page that shows the task, if its position is known."""
        scope = self._filter.scopes[0]
        position = self._database.position(task_id, scope)
        if position is not None and self._database.difference(scope) is not None:
            self._load_page(scope, position // PAGE_TASKS + 1)

    def recheck_next_page(self) -> None:
        """Request the next page of the listing; after the last page, the first.

        This shows changes in the records of ended tasks.
        """
        scope = self._filter.scopes[0]
        pages = -(-self._database.count(scope) // PAGE_TASKS)
        self._recheck_page = self._recheck_page % max(1, pages) + 1
        self._load_page(scope, self._recheck_page)

    @property
    def is_recheck_due(self) -> bool:
        """Whether the next page of the recheck is due; if it is, the pause begins again."""
        if self.is_one_page or self._filter.last is not None or not self.is_known:
            return False
        if self._clock() - self._recheck_s < RECHECK_PAUSE_S:
            return False
        self._recheck_s = self._clock()
        return True

    def _note_current(self, began_s: float, generation: int) -> None:
        """Note that the saved tasks are those of a listing, unless some were lost since it began.

        *generation* is that of the database at the beginning.
        """
        if self._database.generation != generation:
            return
        self._generation = generation
        self.selection = self.selection._replace(max_seq=self._database.last_seq())
        if self._filter != TaskFilter():
            self._known.drop_unlisted(self.selection, began_s)
        self.as_of_s = began_s

    def _notice_other_mounts(self) -> None:
        """Drop from memory what another mount may have changed in the database."""
        other = self._database.version[2]
        if self._other_version not in (None, other):
            self._known.drop_finished()
        self._other_version = self._counted_version = other

    def _is_short(self, scope: Scope) -> bool:
        """Whether fewer tasks are saved than the API had when *scope* was updated.

        Tasks that leave the listing of a status are not missing.
        """
        if scope.status is not None:
            return False
        difference = self._database.difference(scope)
        count = self._database.count(scope, self.selection.max_seq)
        return difference is not None and count + difference < self._totals.get(scope, 0)

    def _update_scope(self, scope: Scope, first: FirstPage | None) -> "Future[float] | None":
        """Store the newest tasks of *scope*; return a load if all pages must be read first."""
        is_small = self._database.count(scope) <= PAGE_TASKS
        per_page = PAGE_TASKS if is_small or first else NEWEST_TASKS
        start_seq = self._database.last_seq()
        if first is None:
            first = self._request_page(scope, 1, per_page)
        self._totals[scope] = first.page.total_size
        if first.page.is_whole:
            self._store_only_page(scope, first, start_seq)
            return None
        self._one_page_scopes.discard(scope)
        pages = [first]
        is_known = self._database.difference(scope) is not None
        while is_known and not self._reaches_known(pages[-1].page):
            if len(pages) == MAX_NEWEST_PAGES or not pages[-1].page.tasks:
                is_known = False
                self._database.drop_difference(scope)  # a listing with a gap must not be shown
            else:
                pages.append(self._request_page(scope, len(pages) + 1, per_page))
        if not is_known:
            return self._whole.start(scope, first if per_page == PAGE_TASKS else None, urgent=True)
        for page in reversed(pages):  # the oldest first, so that a crash leaves no gap
            self._known.apply(page.page.tasks, page.began_s)
        totals = [page.page.total_size for page in pages]
        # After a removal between two pages, the second one lacks a task. -1: the total is unknown,
        # so it differs from the count, and `_compare_counts` starts a load.
        self._totals[scope] = totals[-1] if totals == sorted(totals) else -1
        return None

    def _store_only_page(self, scope: Scope, first: FirstPage, start_seq: int) -> None:
        generation = self._database.generation
        self._known.apply(first.page.tasks, first.began_s)
        ids = {task.id for task in first.page.tasks}
        remove_unlisted(self._api, self._known, scope, ids, start_seq, self._clock)
        self._database.set_difference(scope, first.page.total_size - len(ids), generation)
        self._known.whole_as_of_s = max(self._known.whole_as_of_s, first.began_s)
        self._one_page_scopes.add(scope)

    def _reaches_known(self, page: TaskPage) -> bool:
        """Whether the last task of the page is known, so that all tasks after it are."""
        return bool(page.tasks and self._database.known([page.tasks[-1].id]))

    def _compare_counts(self) -> "list[Future[float]]":
        """Start to look for tasks that were removed, or are missing, where the API's counts differ.

        Return the loads without which the listing would lack tasks, and those of short listings.
        """
        loads = []
        for scope in self._filter.scopes:
            total_size, difference = self._totals[scope], self._database.difference(scope)
            count = self._database.count(scope)
            if difference is None or count + difference == total_size:
                continue
            log.info("%d tasks are known, and the API has %d", count, total_size)
            # Tasks join the listing of a status as they change, wherever they were created. A total
            # of -1 is not known.
            may_lack = scope.status is None and not 0 <= total_size <= count + difference
            is_searched = count > SMALL_TASKS and not may_lack
            urgent = may_lack or count <= SMALL_TASKS or self._waits_for_removals
            load = self._whole.start(
                scope, urgent=urgent, total_size=total_size if is_searched else None
            )
            if urgent:
                loads.append(load)
        return loads

    def _apply_last(self, pages: list[TaskPage], began_s: float) -> None:
        """Store the listing of a mount with `--last`."""
        generation = self._database.generation
        tasks = [task for page in pages for task in page.tasks]
        listed_ids = {task.id for task in tasks}
        self._known.apply(tasks, began_s)
        listed = Selection(self._filter.project, self._filter.statuses, None, self._filter.last)
        # A saved task that the response does not show may have changed its status or project.
        while others := [i for i in self._database.ids(listed) if i not in listed_ids]:
            request_each(self._api, self._known, others[:MAX_SINGLE_REQUESTS], self._clock)
            self._known.remove(others[MAX_SINGLE_REQUESTS:])
            listed_ids.update(others)  # those that are still listed are newer than the response
        self._note_current(began_s, generation)

    def _load_page(self, scope: Scope, number: int) -> None:
        first = self._request_page(scope, number, PAGE_TASKS)
        self._known.apply(first.page.tasks, first.began_s)

    def _request_page(self, scope: Scope, number: int, per_page: int) -> FirstPage:
        began_s = self._clock()
        page = self._api.list_page(number, per_page, project=scope.project, status=scope.status)
        self.has_page = True
        return FirstPage(page, began_s)


def _load_pages(whole: WholeListing, scope: Scope, numbers: Iterable[int]) -> None:
    for page in whole.fetch_all(scope, numbers):
        whole.store(page)
