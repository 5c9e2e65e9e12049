"""How long ago running tasks last wrote a file, as their machines say."""

import contextlib
import threading
import time
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
# Seconds between two questions to one machine: each walks over all files there.
PERIOD_S: Final = 30.0


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


class LastWrites:
    """The last writes of the unfinished tasks, asked for by a thread of its own.

    Safe for concurrent use: the thread replaces the dict, and never changes it.
    """

    def __init__(self, config: "Config", client: "TaskClient") -> None:
        self._config = config
        self._client = client
        self._written_s: dict[str, float] = {}
        self._due_s = float("-inf")
        self._thread: threading.Thread | None = None

    def times(self, tasks: Sequence[Task]) -> Mapping[str, float]:
        """Return when tasks last wrote (seconds since 1970) as far as known; ask where it is due.

        Does not block.
        """
        is_idle = self._thread is None or not self._thread.is_alive()
        if is_idle and time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + PERIOD_S
            self._thread = threading.Thread(
                target=self._fetch, args=(tuple(tasks),), name="taskfs-last-write", daemon=True
            )
            self._thread.start()
        return self._written_s

    def _fetch(self, tasks: Sequence[Task]) -> None:
        now_s = time.time()
        with contextlib.suppress(TaskFSError):
            found = fetch_last_writes(self._config, self._client, tasks)
            self._written_s = {
                task_id: now_s - last.age_s
                for task_id, last in found.items()
                if last.age_s is not None
            }


def describe_last_write(last: "LastWrite") -> str:
    """Return for example `00:00:12 ago (log/solver.log)`, empty if nothing was written."""
    if last.path is None or last.age_s is None:
        return ""
    # The path is absolute on the machine: the files of `live/` lie below `artifacts`.
    name = last.path.rpartition("/artifacts/")[2]
    return f"{format_elapsed(last.age_s)} ago ({escape_controls(name)})"
