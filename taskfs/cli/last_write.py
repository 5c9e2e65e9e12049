"""How long ago running tasks last wrote a file, as their machines say."""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from taskfs.errors import NotFound, TaskFSError, Unavailable
from taskfs.model import LIVE_STATUSES, Task
from taskfs.support.formatting import escape_controls, format_elapsed

if TYPE_CHECKING:
    from taskfs.config import Config
    from taskfs.remote.api_client import TaskClient
    from taskfs.remote.machines import Machines
    from taskfs.tasks.offline import OfflineAPI

# Seconds. The age is a detail: silent machines must not delay the rest.
TIMEOUT_S: Final = 6.0
# Machines asked at a time.
MAX_IN_PARALLEL: Final = 8
# Seconds between two questions to one machine: each walks over all files there.
PERIOD_S: Final = 30.0


class Written(NamedTuple):
    """The file that a task wrote last, and when, in seconds since 1970."""

    name: str
    at_s: float

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self.at_s)

    def to_json(self) -> dict[str, Any]:
        return {"file": self.name, "seconds_ago": round(self.age_s, 1)}


class LastWrites:
    """The last writes of running tasks. A task's machine stays connected while it is asked for.

    `fetch` may be called by one thread at a time, `times` and `close` by another.
    """

    def __init__(self, config: "Config", client: "TaskClient | OfflineAPI") -> None:
        self._config = replace(config, live_idle_time_s=max(config.live_idle_time_s, 2 * PERIOD_S))
        self._client = client
        self._machines: Machines | None = None
        self._found: dict[str, Written] = {}
        self._asked_s: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    def fetch(self, tasks: Sequence[Task]) -> Mapping[str, Written | None]:
        """Return the last write of each running task whose machine answers, by task id.

        The value is None for a task that has written nothing. Blocks for `TIMEOUT_S` at most.
        """
        from taskfs.core import open_machines

        if not (running := self._running(tasks)):
            return {}
        if self._machines is None:
            self._machines = open_machines(self._client, self._config)
        machines = self._machines
        deadline_s = time.monotonic() + min(TIMEOUT_S, self._config.timeout_s)
        found: dict[str, Written | None] = {}

        def fetch(task: Task) -> None:
            with contextlib.suppress(TaskFSError):
                found[task.id] = self._fetch_one(machines, task.id, deadline_s)

        with ThreadPoolExecutor(MAX_IN_PARALLEL) as pool:
            list(pool.map(fetch, running))
        return found

    def _running(self, tasks: Sequence[Task]) -> list[Task]:
        if not self._config.live or self._config.offline:
            return []
        return [task for task in tasks if task.status in LIVE_STATUSES]

    def _fetch_one(self, machines: "Machines", task_id: str, deadline_s: float) -> Written | None:
        from taskfs.tasks.live import LiveFiles

        def is_live(_: float) -> bool:
            try:
                return self._client.get_status(task_id).status in LIVE_STATUSES
            except NotFound:
                return False

        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise Unavailable("other machines took the time")
        files = LiveFiles(machines(task_id), is_live=is_live, timeout_s=remaining_s)
        last = files.last_write()
        if last.path is None or last.age_s is None:
            return None
        # The path is absolute on the machine: the files of `live/` lie below `artifacts`.
        return Written(last.path.rpartition("/artifacts/")[2], time.time() - last.age_s)

    def known(self, tasks: Sequence[Task]) -> Mapping[str, Written]:
        """Return the last writes as far as known, and ask where it is due. Does not block."""
        now_s = time.monotonic()
        never_s = float("-inf")
        if self._thread is None or not self._thread.is_alive():
            due = [
                task
                for task in self._running(tasks)
                if now_s - self._asked_s.get(task.id, never_s) >= PERIOD_S
            ]
            if due:
                self._asked_s |= {task.id: now_s for task in due}
                self._thread = threading.Thread(
                    target=self._ask, args=(due,), name="taskfs-last-write", daemon=True
                )
                self._thread.start()
        return self._found

    def _ask(self, tasks: Sequence[Task]) -> None:
        found = self.fetch(tasks)
        news = {task_id: written for task_id, written in found.items() if written is not None}
        self._found = self._found | news  # a new dict, because `known` returns it to another thread

    def close(self) -> None:
        """Close the connections to the machines."""
        if self._machines is not None:
            self._machines.close()


def fetch_last_writes(
    config: "Config", client: "TaskClient | OfflineAPI", tasks: Sequence[Task]
) -> Mapping[str, Written | None]:
    """Return what `LastWrites.fetch` does, and disconnect."""
    with contextlib.closing(LastWrites(config, client)) as writes:
        return writes.fetch(tasks)


def describe_last_write(written: Written | None) -> str:
    """Return for example `00:00:12 ago (log/solver.log)`, empty if nothing was written."""
    if written is None:
        return ""
    return f"{format_elapsed(written.age_s)} ago ({escape_controls(written.name)})"
