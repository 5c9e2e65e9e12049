"""What goes out first: the client of the API, and the first listing of a mount.

Python takes longer to import the rest of a mount than the API to answer. So a listing is on its way
before anything is imported that it does not need.
"""

from taskfs.config import Config
from taskfs.remote.api_client import TaskClient
from taskfs.support.stats import Stats
from taskfs.tasks.task_filter import TaskFilter


def open_client(config: Config, stats: Stats | None = None) -> TaskClient:
    """Return the task API of *config*; nothing goes out yet."""
    return TaskClient(config.api_url, config.api_key, timeout_s=config.timeout_s, stats=stats)


def filter_of(config: Config) -> TaskFilter:
    """Return which tasks *config* has listed."""
    return TaskFilter(config.project, config.status, config.last)


class FirstListing:
    """A client of the API, and the first listing that it asks for, from now on."""

    def __init__(self, config: Config) -> None:
        self.stats = Stats()
        self.client = open_client(config, self.stats)
        self.pending = filter_of(config).start_listing(self.client)
