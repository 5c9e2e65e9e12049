"""The unfinished tasks for `taskfs watch`: one listing request per update.

Listings do not contain positions in the queue; only the status of a single task does. A position is
requested again when it may have changed.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from taskfs.cli import columns
from taskfs.cli.last_write import Written
from taskfs.errors import NotFound, TaskFSError
from taskfs.model import Task
from taskfs.support.formatting import format_elapsed

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient

COLUMNS: Final = (
    *(columns.ID, columns.SIMULATOR, columns.STATUS, columns.QUEUE),
    *(columns.COMPUTATION_TIME, columns.MACHINE, columns.COST, columns.LAST_WRITE),
)
QUEUED: Final = "submitted"  # the status of a task that waits in the queue
# Seconds after which a queue position is stale. A task that leaves the queue makes all positions
# stale as well; this interval covers changes that the listing does not show.
POSITION_LIFETIME_S: Final = 30.0
MAX_REQUESTS: Final = 16  # status requests, and record requests, per update: bounds its duration
THREADS: Final = 8  # requests at a time
MAX_TRIES: Final = 5  # requests for the record of an ended task: each takes up to the timeout


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The unfinished tasks at one time, newest first, and those that ended since the last one.

    *written* is what running tasks last wrote, as far as known.
    """

    tasks: Sequence[Task] = ()
    tasks_ahead: Mapping[str, int] = field(default_factory=dict)
    ended: Sequence[Task] = ()
    as_of_s: float = 0.0
    written: Mapping[str, Written | None] = field(default_factory=dict)

    def record(self, task: Task) -> dict[str, Any]:
        """Return the task's record with `position_in_queue`, in the form of the API's status, and
        `last_write`."""
        record: dict[str, Any] = json.loads(task.record)
        ahead = self.tasks_ahead.get(task.id)
        record["position_in_queue"] = None if ahead is None else {"tasks_ahead": ahead}
        written = self.written.get(task.id)
        record["last_write"] = None if written is None else written.to_json()
        return record

    def row(self, task: Task, now_ns: int) -> tuple[str, ...]:
        """Return the task's cells in the order of `COLUMNS`."""
        ahead = self.tasks_ahead.get(task.id)
        written = self.written.get(task.id)
        return (
            task.id,
            task.simulator or "",
            task.status,
            "" if ahead is None else f"{ahead} ahead",
            format_elapsed(task.computation_elapsed(now_ns)),
            task.machine_type,
            columns.TASK_COLUMNS["cost"].cell(task, now_ns),
            "" if written is None else f"{format_elapsed(written.age_s)} ago",
        )


class UnfinishedTasks:
    """Follows the unfinished tasks. Not thread-safe: one thread at a time calls `update`."""

    def __init__(
        self,
        client: "TaskClient",
        project: str | None = None,
        statuses: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._project = project
        self._statuses = frozenset(statuses)
        self._clock = clock
        self._tasks: dict[str, Task] = {}
        # Tasks that left the listing and whose ends are not known yet, with their failed requests.
        self._gone: dict[str, int] = {}
        self._ahead: dict[str, int] = {}
        self._requested_s: dict[str, float] = {}  # when each position was last requested

    def update(self, max_positions: int | None = MAX_REQUESTS) -> Snapshot:
        """Fetch the tasks, and at most *max_positions* queue positions (None: all stale ones).

        Raises:
            AccessDenied, Unavailable, BadResponse: the listing failed; the state is unchanged.
        """
        listed = self._client.list_tasks(project=self._project, active=True)
        unfinished = {task.id: task for task in listed}
        gone = self._gone | {task_id: 0 for task_id in self._tasks if task_id not in self._gone}
        self._gone = {i: failures for i, failures in gone.items() if i not in unfinished}
        tasks = {
            task_id: task
            for task_id, task in unfinished.items()
            if not self._statuses or task.status in self._statuses
        }
        queue = {task_id for task_id, task in tasks.items() if task.status == QUEUED}
        if self._requested_s.keys() - queue:  # a task left the queue: the others moved up
            self._requested_s.clear()
        self._ahead = {i: ahead for i, ahead in self._ahead.items() if i in queue}
        with ThreadPoolExecutor(THREADS) as pool:
            asked = list(self._gone)[:MAX_REQUESTS]
            ended = [task for task in pool.map(self._fetch_ended, asked) if task]
            list(pool.map(self._fetch_position, self._stale_positions(queue)[:max_positions]))
        self._tasks = tasks
        return Snapshot(tuple(tasks.values()), dict(self._ahead), tuple(ended), time.time())

    def _stale_positions(self, queue: set[str]) -> list[str]:
        """Return the tasks whose positions may have changed, the longest unrequested first."""
        oldest = self._clock() - POSITION_LIFETIME_S
        never = float("-inf")
        stale = [i for i in queue if self._requested_s.get(i, never) < oldest]
        return sorted(stale, key=lambda task_id: self._requested_s.get(task_id, never))

    def _fetch_position(self, task_id: str) -> None:
        self._requested_s[task_id] = self._clock()
        with contextlib.suppress(TaskFSError):  # keep the old position until the next request
            status = self._client.get_status(task_id)
            self._ahead.pop(task_id, None)
            if status.tasks_ahead is not None:
                self._ahead[task_id] = status.tasks_ahead

    def _fetch_ended(self, task_id: str) -> Task | None:
        """Return the task if it has ended, None if it is gone or merely left the filter.

        If the request fails, return None as well. Later updates ask again, after those for others.
        """
        failures = self._gone.pop(task_id)
        try:
            task = self._client.get_task(task_id)
        except NotFound:
            return None
        except TaskFSError:
            if failures + 1 < MAX_TRIES:
                self._gone[task_id] = failures + 1
            return None
        return task if task.is_terminated else None
