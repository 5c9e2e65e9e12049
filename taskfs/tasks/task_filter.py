"""`TaskFilter`: which of the account's tasks a mount lists."""

from concurrent.futures import Future
from typing import NamedTuple

from taskfs.model import Task, TaskAPI
from taskfs.support.clock import age_clock
from taskfs.support.thread_pool import DaemonPool


class PendingListing(NamedTuple):
    """A listing on its way, since `began_s` by `age_clock`."""

    began_s: float
    answer: "Future[list[Task]]"


class TaskFilter(NamedTuple):
    """Which tasks a listing shows; all of them by default."""

    project: str | None = None
    statuses: tuple[str, ...] = ()
    last: int | None = None

    def list_tasks(self, api: TaskAPI) -> list[Task]:
        """Return them, newest first: of several statuses, each is asked for by itself.

        Raises:
            AccessDenied, Unavailable, BadAnswer, NotFound: the API does not answer, or refuses.
        """
        if len(self.statuses) <= 1:
            status = self.statuses[0] if self.statuses else None
            return api.list_tasks(project=self.project, status=status, last=self.last)
        tasks = {
            task.id: task
            for status in self.statuses
            for task in api.list_tasks(project=self.project, status=status, last=self.last)
        }
        newest_first = sorted(tasks.values(), key=lambda task: task.create_ns or 0, reverse=True)
        return newest_first[: self.last]

    def ask(self, api: TaskAPI) -> PendingListing:
        """Have them listed in a thread of its own, which nobody needs to wait for."""
        began_s = age_clock()
        return PendingListing(began_s, DaemonPool(1, "taskfs-opening").submit(self.list_tasks, api))
