"""The first requests of a mount or a command, sent before the rest of taskfs is imported.

These imports take longer than a response. So this module imports only the API client.
"""

from collections.abc import Collection

from taskfs.config import Config
from taskfs.errors import NotFound
from taskfs.model import Task
from taskfs.remote.api_client import TaskClient
from taskfs.support.clock import age_clock
from taskfs.support.stats import Stats
from taskfs.support.thread_pool import DaemonPool
from taskfs.tasks.task_filter import PendingPages, PendingTask, TaskFilter

# Threads, and so requests in flight, for the first records of a command.
RECORD_THREADS = 4


def open_client(config: Config, stats: Stats | None = None) -> TaskClient:
    """Return a client of the API of *config*; this sends no request."""
    return TaskClient(config.api_url, config.api_key, timeout_s=config.timeout_s, stats=stats)


def filter_of(config: Config) -> TaskFilter:
    """Return the filter for the tasks that *config* selects."""
    return TaskFilter(config.project, config.status, config.last)


class FirstListing:
    """A client of the API, and the first listing in flight; construction sends the request."""

    def __init__(self, config: Config) -> None:
        self.stats = Stats()
        self.client = open_client(config, self.stats)
        self.pending = filter_of(config).start_first_pages(self.client)


class FirstRecords:
    """A client of the API, and what a command asks for first; construction sends the requests.

    They are the records of *ids*, that of the newest task with *latest*, and with *lists* the first
    pages of a listing.
    """

    def __init__(
        self, config: Config, ids: Collection[str], *, latest: bool = False, lists: bool = False
    ) -> None:
        self.stats = Stats()
        self.client = client = open_client(config, self.stats)
        pool = DaemonPool(RECORD_THREADS, "taskfs-opening")
        now_s = age_clock()
        self.pages: PendingPages | None = None
        if lists:
            self.pages = filter_of(config).start_first_pages(client)
        self.records = {
            task_id: PendingTask(now_s, pool.submit(client.get_task, task_id)) for task_id in ids
        }
        self.latest = PendingTask(now_s, pool.submit(_newest, client)) if latest else None


def _newest(client: TaskClient) -> Task:
    for task in client.list_tasks(last=1):
        return task
    raise NotFound("there is no latest task: the account has no tasks")
