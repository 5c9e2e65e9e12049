"""How long ago running tasks last wrote a file, as their machines say."""

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from taskfs.errors import NotFound, TaskFSError
from taskfs.model import Task
from taskfs.support.formatting import escape_controls, format_elapsed

if TYPE_CHECKING:
    from taskfs.config import Config
    from taskfs.remote.api_client import TaskClient
    from taskfs.tasks.live import LastWrite
    from taskfs.tasks.offline import OfflineAPI

# Seconds. The age is a detail: a machine that is silent must not hold up the rest.
TIMEOUT_S: Final = 6.0
# Machines asked per call, in parallel: each costs a connection.
MAX_MACHINES: Final = 8


def fetch_last_writes(
    config: "Config", client: "TaskClient | OfflineAPI", tasks: Sequence[Task]
) -> "Mapping[str, LastWrite]":
    """Return the last write of each running task whose machine answers in time, by task id.

    At most `MAX_MACHINES` tasks are asked for, the first ones.
    """
    from taskfs.tasks.live import LIVE_STATUSES

    running = [task for task in tasks if task.status in LIVE_STATUSES][:MAX_MACHINES]
    if not running or not config.live:
        return {}
    from taskfs.core import open_machines
    from taskfs.tasks.live import LiveFiles

    timeout_s = min(TIMEOUT_S, config.timeout_s)
    found: dict[str, LastWrite] = {}

    def is_live(task_id: str) -> bool:
        try:
            return client.get_status(task_id).status in LIVE_STATUSES
        except NotFound:
            return False

    def fetch(task: Task) -> None:
        files = LiveFiles(
            machines(task.id), is_live=lambda _: is_live(task.id), timeout_s=timeout_s
        )
        with contextlib.suppress(TaskFSError):
            found[task.id] = files.last_write()

    with (
        contextlib.closing(open_machines(client, config)) as machines,
        ThreadPoolExecutor(MAX_MACHINES) as pool,
    ):
        list(pool.map(fetch, running))
    return found


def describe_last_write(last: "LastWrite") -> str:
    """Return for example `00:00:12 ago (log/solver.log)`, empty if nothing was written."""
    if last.path is None or last.age_s is None:
        return ""
    # The path is absolute on the machine: the files of `live/` lie below `artifacts`.
    name = last.path.rpartition("/artifacts/")[2]
    return f"{format_elapsed(last.age_s)} ago ({escape_controls(name)})"
