"""`TaskFilter`: selects the tasks that a mount lists."""

from concurrent.futures import Future
from typing import NamedTuple

from taskfs.model import PAGE_TASKS, Task, TaskAPI, TaskPage
from taskfs.support.clock import age_clock
from taskfs.support.thread_pool import DaemonPool
from taskfs.tasks.selection import Scope


class PendingPages(NamedTuple):
    """The first pages of a listing in flight; their request began at `began_s` by `age_clock`."""

    began_s: float
    pages: "Future[list[TaskPage]]"


class PendingTask(NamedTuple):
    """The record of a task in flight; its request began at `began_s` by `age_clock`."""

    began_s: float
    record: "Future[Task]"


class TaskFilter(NamedTuple):
    """The tasks that a listing shows: all of them by default, at most the *last* newest."""

    project: str | None = None
    statuses: tuple[str, ...] = ()
    last: int | None = None

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The listings that show these tasks: one for each status."""
        return tuple(Scope(self.project, status) for status in self.statuses or (None,))

    def list_first_pages(self, api: TaskAPI) -> list[TaskPage]:
        """Return the first page of each scope; with `last`, one with all tasks.

        Raises:
            AccessDenied, Unavailable, BadResponse, NotFound: the API does not respond, or refuses.
        """
        if self.last is not None:
            return [self._list_last(api, scope, self.last) for scope in self.scopes]
        return [
            api.list_page(1, PAGE_TASKS, project=scope.project, status=scope.status)
            for scope in self.scopes
        ]

    def start_first_pages(self, api: TaskAPI) -> PendingPages:
        """Request the first pages in a daemon thread, which does not delay the end of the
        process."""
        began_s = age_clock()
        pool = DaemonPool(1, "taskfs-opening")
        return PendingPages(began_s, pool.submit(self.list_first_pages, api))

    @staticmethod
    def _list_last(api: TaskAPI, scope: Scope, last: int) -> TaskPage:
        tasks: list[Task] = api.list_tasks(project=scope.project, status=scope.status, last=last)
        return TaskPage(tasks, len(tasks))
