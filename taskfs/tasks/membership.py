"""Removal of the saved tasks that a response lacks: at once, or after a request for each task.

`UnfinishedUpdater` compares the saved tasks with the listing of all unfinished tasks.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from taskfs.errors import NotFound
from taskfs.model import PAGE_TASKS, Task, TaskAPI
from taskfs.tasks.known_tasks import KnownTasks
from taskfs.tasks.selection import Scope
from taskfs.tasks.task_filter import TaskFilter

# Tasks that are requested one by one; if there are more, pages of a listing are cheaper.
MAX_SINGLE_REQUESTS: Final = 16
# Pages that are read again to learn how tasks have ended. If the tasks lie on more pages, each task
# is requested, because most records of those pages are not needed.
MAX_ENDED_PAGES: Final = 40


def remove_unlisted(
    api: TaskAPI,
    known: KnownTasks,
    scope: Scope,
    listed: Collection[str],
    start_seq: int,
    clock: Callable[[], float],
) -> None:
    """Remove the tasks of *scope* that a whole listing did not show.

    Tasks with a number above *start_seq* were added after the listing began.
    """
    where, values = scope.selection._replace(max_seq=start_seq).where()
    gone = known.database.select_ids(where, values, lambda task_id: task_id not in listed)
    remove_missing(api, known, scope, gone, clock)


def remove_missing(
    api: TaskAPI, known: KnownTasks, scope: Scope, gone: Sequence[str], clock: Callable[[], float]
) -> None:
    """Remove the tasks that have left the listing of *scope*.

    A task that has left the listing of a project or status may still exist, so it is requested,
    unless there are many.
    """
    if scope != Scope() and len(gone) <= MAX_SINGLE_REQUESTS:
        request_each(api, known, gone, clock)
    else:
        known.remove(gone)


def request_each(
    api: TaskAPI, known: KnownTasks, ids: Iterable[str], clock: Callable[[], float]
) -> None:
    """Request tasks one by one, and remove those that no longer exist."""
    for task_id in ids:
        began_s = clock()
        try:
            known.apply([api.get_task(task_id)], began_s)
        except NotFound:
            known.remove([task_id])


class UnfinishedUpdater:
    """Updates the unfinished tasks: one request for all, and more for those that it lacks.

    *load_pages* requests the pages of a scope with some numbers, and stores their tasks. One thread
    at a time uses it.
    """

    def __init__(
        self,
        api: TaskAPI,
        known: KnownTasks,
        task_filter: TaskFilter,
        clock: Callable[[], float],
        load_pages: Callable[[Scope, Iterable[int]], None],
    ) -> None:
        self._api = api
        self._known = known
        self._filter = task_filter
        self._clock = clock
        self._load_pages = load_pages

    def request(self) -> tuple[list[Task], float]:
        """Request the unfinished tasks; return also when the request began."""
        began_s = self._clock()
        return self._api.list_tasks(project=self._filter.project, active=True), began_s

    def apply(self, tasks: list[Task], began_s: float) -> None:
        """Store the result of `request`, and update each known unfinished task that it lacks."""
        unfinished = [cached.task.id for cached in self._known.unfinished()]
        known = self._known.database.known([task.id for task in tasks]) | set(unfinished)
        self._known.apply([task for task in tasks if task.id in known], began_s)
        active = {task.id for task in tasks}
        self._update_ended([i for i in unfinished if i not in active], began_s)

    def _update_ended(self, ids: list[str], began_s: float) -> None:
        """Request the tasks that are no longer listed as unfinished; many of them by pages."""
        stale = [i for i in ids if self._known.is_stale(i, began_s)]
        if len(stale) > MAX_SINGLE_REQUESTS and self._filter.last is None:
            scope = self._filter.scopes[0]
            positions = [self._known.database.position(i, scope) for i in stale]
            numbers = sorted({p // PAGE_TASKS + 1 for p in positions if p is not None})
            if len(numbers) <= MAX_ENDED_PAGES:
                self._load_pages(scope, numbers)
                stale = [i for i in stale if self._known.is_stale(i, began_s)]
        request_each(self._api, self._known, stale, self._clock)
