"""Waiting for the end of one or several tasks."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from taskfs.cli.output import print_error
from taskfs.cli.status_line import StatusLine
from taskfs.cli.task_ids import missing_task
from taskfs.errors import (
    ArchiveLate,
    BadResponse,
    NotFound,
    TaskFSError,
    Unavailable,
    Unreachable,
    WaitTimeout,
)
from taskfs.model import Task, TaskStatus
from taskfs.support.formatting import format_count, format_elapsed

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient

T = TypeVar("T")

# Seconds between two requests for the statuses. An end is reported about a second later, and many
# waits at once send the API few requests.
POLL_S: Final = 1.0


class TaskWait:
    """Polls tasks until they have ended: one by its status, several by one listing per poll.

    `task_ids` are the tasks that have not ended yet. *on_end* is called with the record of each
    task that has ended, and with a line that describes its end.
    """

    def __init__(
        self,
        client: "TaskClient",
        task_ids: Sequence[str],
        line: StatusLine,
        limit_s: float | None,
        on_end: Callable[[Task, str], None],
    ) -> None:
        self.task_ids = list(task_ids)
        self._client = client
        self._line = line
        self._limit_s = limit_s
        self._on_end = on_end
        self._has_several = len(task_ids) > 1
        self._deadline = None if limit_s is None else time.monotonic() + limit_s
        self._statuses: dict[str, str] = {}  # as last shown
        self._task: Task | None = None  # of a single task, as last shown

    def run(self, *, until_any: bool) -> None:
        """Wait for the end of all tasks, or with *until_any* of the first.

        Raises:
            NotFound: there is no such task.
            WaitTimeout: the limit has passed.
        """
        statuses = self._first_statuses()
        while True:
            has_ended = False
            for status in statuses:
                if status.is_terminated:
                    self._finish(status)
                    has_ended = True
            if not self.task_ids or (has_ended and until_any):
                return
            self._show([status for status in statuses if not status.is_terminated])
            self._pause(self._statuses.get(self.task_ids[0], "without an answer"))
            statuses = self._try(self._poll) or []

    def _first_statuses(self) -> list[TaskStatus]:
        try:
            return self._poll()
        except NotFound as exc:
            if self._has_several:
                raise
            raise NotFound(missing_task(self.task_ids[0])) from exc

    def _poll(self) -> list[TaskStatus]:
        if not self._has_several:
            return [self._client.get_status(self.task_ids[0])]
        active = {task.id: task for task in self._client.list_tasks(active=True)}
        statuses = []
        for task_id in self.task_ids:
            task = active.get(task_id)
            if task is not None:
                statuses.append(TaskStatus(task_id, task.status, False))
                continue
            try:
                statuses.append(self._client.get_status(task_id))
            except NotFound:
                raise NotFound(missing_task(task_id)) from None
        return statuses

    def _show(self, statuses: Sequence[TaskStatus]) -> None:
        if not statuses:
            return
        if self._has_several:
            self._show_several(statuses)
            return
        [status] = statuses
        if self._task is None or self._task.status != status.status:
            self._task = self._try(lambda: self._client.get_task(status.id)) or self._task
        words = status.status
        if status.tasks_ahead is not None:
            words += f", {format_count(status.tasks_ahead, 'task')} ahead in the queue"
        self._statuses[status.id] = status.status
        self._line.show(words, self._elapsed(self._task))

    def _show_several(self, statuses: Sequence[TaskStatus]) -> None:
        for status in statuses:
            if self._statuses.get(status.id) != status.status:
                self._statuses[status.id] = status.status
                self._line.show_elsewhere(f"{status.id}: {status.status}")
        counts = Counter(status.status for status in statuses)
        words = ", ".join(f"{count} {word}" for word, count in counts.items())
        self._line.show_on_terminal(f"waiting for {format_count(len(statuses), 'task')}: {words}")

    def _finish(self, status: TaskStatus) -> None:
        """Await the outputs of a task that has succeeded, and report its end."""
        task = self._try(lambda: self._client.get_task(status.id)) or self._task
        if task is None or task.id != status.id:
            task = Task(status.id, status.status, True)
        if status.status == "success":
            self._line.show_on_terminal(f"{self._prefix(task.id)}success, waiting for its outputs")
            self._await_outputs(task.id)
        self._line.clear()
        self.task_ids.remove(status.id)
        elapsed = self._elapsed(task)
        words = f"{status.status}, {elapsed}" if elapsed else status.status
        self._on_end(task._replace(status=status.status), self._prefix(task.id) + words)

    def _prefix(self, task_id: str) -> str:
        return f"{task_id}: " if self._has_several else ""

    def _elapsed(self, task: Task | None) -> str:
        if task is None:
            return ""
        now_s = time.time() + (self._client.clock_offset_s or 0.0)
        return format_elapsed(task.computation_elapsed(int(now_s * 1e9)))

    def _await_outputs(self, task_id: str) -> None:
        """Return once the output archive exists, or is known to have been removed.

        An archive that exists but cannot be read ends the wait as well: `download` reports it.

        Raises:
            ArchiveLate: the archive did not appear in time.
            WaitTimeout: the limit has passed.
        """
        from taskfs.download.archive_opener import ArchiveOpener
        from taskfs.tasks.archive_kind import ARCHIVE_GRACE_S, ArchiveKind

        opener = ArchiveOpener(self._client)
        while True:
            try:
                opener.open(task_id, ArchiveKind.OUTPUT, self._remaining_s(ARCHIVE_GRACE_S))
            except ArchiveLate as exc:
                if self._deadline is not None and not self._remaining_s(POLL_S):
                    raise WaitTimeout(str(exc)) from None
                raise
            except Unreachable:  # of the store, which has not responded before, unlike the API
                raise
            except (Unavailable, BadResponse) as exc:
                self._print_retry(exc)
                self._pause("success without its outputs")
                continue
            except TaskFSError as exc:
                self._line.clear()
                print_error(str(exc))
            return

    def _try(self, request: Callable[[], T]) -> T | None:
        """Return the result of a request; None if it failed, so that it is sent again.

        An API that is unreachable counts as well, because it has responded to the first poll.
        """
        try:
            return request()
        except (Unavailable, BadResponse) as exc:
            self._print_retry(exc)
            return None

    def _print_retry(self, exc: Exception) -> None:
        self._line.clear()
        print_error(f"{exc}; trying again")

    def _remaining_s(self, max_s: float) -> float:
        """Return *max_s*, or the seconds left of `wait --timeout` if that is less."""
        if self._deadline is None:
            return max_s
        return max(0.0, min(max_s, self._deadline - time.monotonic()))

    def _pause(self, state: str) -> None:
        pause_s = self._remaining_s(POLL_S)
        if not pause_s:
            if self._has_several and len(self.task_ids) > 1:
                are = f"{len(self.task_ids)} tasks have not ended"
            else:
                are = f"task {self.task_ids[0]} is still {state}"
            raise WaitTimeout(f"{are} after {self._limit_s:g} s")
        sys.stdout.flush()
        time.sleep(pause_s)
