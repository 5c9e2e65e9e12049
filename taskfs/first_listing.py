"""`FirstListing`: the first request of a mount, sent before the rest of taskfs is imported.

These imports take longer than the response. So this module imports only the API client.
"""

from taskfs.config import Config
from taskfs.remote.api_client import TaskClient
from taskfs.support.stats import Stats
from taskfs.tasks.task_filter import TaskFilter


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
