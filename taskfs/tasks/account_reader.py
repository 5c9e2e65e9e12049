"""`AccountReader`: the tasks of a whole listing, for a command that runs once."""

from taskfs.errors import Unavailable
from taskfs.model import Task, TaskAPI
from taskfs.support.clock import age_clock
from taskfs.tasks.account_listing import AccountListing
from taskfs.tasks.known_tasks import KnownTasks
from taskfs.tasks.selection import Scope
from taskfs.tasks.task_database import MAX_LOSSES, TaskDatabase
from taskfs.tasks.task_filter import TaskFilter


class AccountReader:
    """Reads listings, and requests only what has changed since *database* saved them.

    Not safe for concurrent use.
    """

    def __init__(self, api: TaskAPI, database: TaskDatabase) -> None:
        self._api = api
        self._database = database

    def list_all(self, project: str | None, status: str | None) -> list[Task]:
        """Return all tasks of a project and a status, newest first, as the API has them now.

        Raises:
            AccessDenied, Unavailable, BadResponse: as for any request.
        """
        wanted = TaskFilter(project, (status,) if status is not None else ())
        for _ in range(MAX_LOSSES):
            # If a mount has saved the whole account, its update costs less than this listing.
            is_saved = self._database.difference(Scope()) is not None
            known = KnownTasks(self._database, age_clock)
            listing = AccountListing(
                self._api,
                known,
                TaskFilter() if is_saved else wanted,
                age_clock,
                waits_for_removals=True,
            )
            try:
                if loads := listing.update():
                    listing.finish(loads)
            finally:
                listing.close()
            selection = wanted.scopes[0].selection
            tasks: list[Task] = self._database.tasks(selection)
            if listing.is_known:
                return tasks
        raise Unavailable(self._database.loss_text)
