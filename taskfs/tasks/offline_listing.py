"""`OfflineListing`: the listing of a mount with `--offline`: the finished tasks that are saved."""

from collections.abc import Callable
from concurrent.futures import Future

from taskfs.model import TaskAPI, TaskPage
from taskfs.tasks.account_listing import AccountListing
from taskfs.tasks.known_tasks import KnownTasks
from taskfs.tasks.selection import Selection
from taskfs.tasks.task_filter import TaskFilter


class OfflineListing(AccountListing):
    """A listing that is never updated."""

    def __init__(
        self,
        api: TaskAPI,
        known: KnownTasks,
        task_filter: TaskFilter,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(api, known, task_filter, clock)
        self.selection = Selection(
            task_filter.project, task_filter.statuses, None, task_filter.last, finished_only=True
        )
        self.as_of_s = known.whole_as_of_s = float("inf")
        self.has_page = True

    @property
    def is_one_page(self) -> bool:
        return True

    @property
    def is_known(self) -> bool:
        return self._database.generation == self._generation

    def expire(self) -> None:
        pass

    def load_first_pages(self) -> list[TaskPage]:
        return []

    def update(self) -> "list[Future[float]]":
        return []
