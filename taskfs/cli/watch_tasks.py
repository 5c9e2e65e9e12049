"""The unfinished tasks as `taskfs watch` shows them: one bulk request for each refresh.

Places in the queue are in no listing, only in the status of one task: they are asked for when they
may have changed, and no sooner.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from taskfs.cli import columns
from taskfs.cli.report import format_money
from taskfs.errors import TaskFSError
from taskfs.model import Task, format_elapsed

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient

COLUMNS: Final = (
    *(columns.ID, columns.SIMULATOR, columns.STATUS, columns.QUEUE),
    *(columns.COMPUTATION_TIME, columns.MACHINE, columns.COST),
)
QUEUED: Final = "submitted"
# A place in the queue is asked for again when a task has left the queue, and after so long.
PLACE_AGE_S: Final = 30.0
MAX_ASKED: Final = 16  # places, and ends of tasks, per refresh
THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The unfinished tasks at one time, newest first; *ended* are those that were there before."""

    tasks: Sequence[Task] = ()
    tasks_ahead: Mapping[str, int] = field(default_factory=dict)
    ended: Sequence[Task] = ()
    as_of_s: float = 0.0

    def record(self, task: Task) -> dict[str, Any]:
        """Return the task's record with its place in the queue, as the API's status tells it."""
        record: dict[str, Any] = json.loads(task.record)
        ahead = self.tasks_ahead.get(task.id)
        record["position_in_queue"] = None if ahead is None else {"tasks_ahead": ahead}
        return record

    def row(self, task: Task, now_ns: int) -> tuple[str, ...]:
        """Return the task's cells, in the order of `COLUMNS`."""
        ahead = self.tasks_ahead.get(task.id)
        cost = json.loads(task.record).get("estimated_computation_cost")
        return (
            task.id,
            task.simulator or "",
            task.status,
            "" if ahead is None else f"{ahead} ahead",
            format_elapsed(task.computation_elapsed(now_ns)),
            task.machine_type,
            format_money(cost) if isinstance(cost, (int, float)) else "",
        )


class Unfinished:
    """Follows the unfinished tasks. One thread at a time calls `refresh`."""

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
        self._ahead: dict[str, int] = {}
        self._asked_s: dict[str, float] = {}  # when each place was asked for

    def refresh(self, max_asked: int | None = MAX_ASKED) -> Snapshot:
        """Return the tasks as they are now, with at most *max_asked* places asked for anew.

        Raises:
            AccessDenied, Unavailable, BadAnswer: the listing failed; what was known stays.
        """
        listed = self._client.list_tasks(project=self._project, active=True)
        alive = {task.id: task for task in listed}
        gone = [task_id for task_id in self._tasks if task_id not in alive]
        tasks = {i: t for i, t in alive.items() if t.status in (self._statuses or {t.status})}
        queue = {task_id for task_id, task in tasks.items() if task.status == QUEUED}
        if self._asked_s.keys() - queue:  # who is behind moved up
            self._asked_s.clear()
        self._ahead = {i: ahead for i, ahead in self._ahead.items() if i in queue}
        with ThreadPoolExecutor(THREADS) as pool:
            ended = [task for task in pool.map(self._last_record, gone[:MAX_ASKED]) if task]
            list(pool.map(self._ask_place, self._outdated(queue)[:max_asked]))
        self._tasks = tasks
        return Snapshot(tuple(tasks.values()), dict(self._ahead), tuple(ended), time.time())

    def _outdated(self, queue: set[str]) -> list[str]:
        """Return whose place may have changed, those asked for longest ago first."""
        oldest = self._clock() - PLACE_AGE_S
        never = float("-inf")
        outdated = [i for i in queue if self._asked_s.get(i, never) < oldest]
        return sorted(outdated, key=lambda task_id: self._asked_s.get(task_id, never))

    def _ask_place(self, task_id: str) -> None:
        self._asked_s[task_id] = self._clock()
        with contextlib.suppress(TaskFSError):  # the old place is shown until the next time
            status = self._client.get_status(task_id)
            self._ahead.pop(task_id, None)
            if status.tasks_ahead is not None:
                self._ahead[task_id] = status.tasks_ahead

    def _last_record(self, task_id: str) -> Task | None:
        """Return the task that is no longer listed, None if it is gone or moved elsewhere."""
        try:
            task = self._client.get_task(task_id)
        except TaskFSError:
            return None
        return task if task.is_terminated else None
