"""`TaskFilter`: selects the tasks that a mount lists."""

from concurrent.futures import Future
from typing import NamedTuple

from taskfs.model import Task, TaskAPI
from taskfs.support.clock import age_clock
from taskfs.support.thread_pool import DaemonPool


class PendingListing(NamedTuple):
    """A listing in flight; its request began at `began_s` by `age_clock`."""

    began_s: float
    tasks: "Future[list[Task]]"


class TaskFilter(NamedTuple):
    """The tasks that a listing shows: all of them by default, at most the *last* newest."""

    project: str | None = None
    statuses: tuple[str, ...] = ()
    last: int | None = None

    def list_tasks(self, api: TaskAPI) -> list[Task]:
        """Return the tasks, newest first; send one request for each status.

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

    def start_listing(self, api: TaskAPI) -> PendingListing:
        """Start a listing in a daemon thread, which does not delay the end of the process."""
        began_s = age_clock()
        return PendingListing(began_s, DaemonPool(1, "taskfs-opening").submit(self.list_tasks, api))
