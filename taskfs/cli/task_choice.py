"""Choosing tasks by project, status, simulator, time and state, for several commands."""

import json
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from taskfs.errors import ConfigError
from taskfs.model import KNOWN_STATUSES, Task
from taskfs.support.parsing import parse_duration
from taskfs.tasks.filter_check import check_filter, status_error, statuses_explained

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient
    from taskfs.tasks.offline import OfflineAPI

ListAll = Callable[[str | None, str | None], list[Task]]

# Ends that are no failure: the task did its work, or its owner ended it.
_GOOD_ENDS: Final = frozenset({"success", "killed"})


def parse_moment(text: str) -> int:
    """Parse a moment to nanoseconds since the epoch: `2d` (two days ago), or a local date or time.

    Dates are `2026-11-28`, times `2026-11-28 21:31` or with a `T`; seconds may follow.
    """
    try:
        return time.time_ns() - int(parse_duration(text) * 1e9)
    except ConfigError:
        pass
    try:
        return int(datetime.fromisoformat(text.strip()).timestamp() * 1e9)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{text!r} is no time: write 2d, 12h, 2026-11-28 or 2026-11-28T21:31"
        ) from None


def has_failed(task: Task) -> bool:
    """Return whether the task has ended, but neither as success nor by its owner's kill."""
    return task.is_terminated and task.status not in _GOOD_ENDS


class TaskChoice(NamedTuple):
    """Which tasks to list; each field that is set must match."""

    project: str | None = None
    statuses: Sequence[str] = ()
    simulators: Sequence[str] = ()
    since_ns: int | None = None
    until_ns: int | None = None
    failed: bool = False
    running: bool = False

    def select(
        self,
        client: "TaskClient | OfflineAPI",
        limit: int | None,
        list_all: ListAll | None = None,
    ) -> list[Task]:
        """Return the newest *limit* tasks that match, newest first.

        The API filters by project, status and activity; the rest is filtered here, from a listing
        of all tasks: that of *list_all*, which takes a project and a status, or the client's.

        Raises:
            ConfigError: the project or a status does not exist; the text names those that do.
        """
        statuses = [_slug(status) for status in self.statuses]
        by_api = [status for status in statuses if not _is_display_name(status)]
        names = {status.lower() for status in statuses if _is_display_name(status)}
        is_filtered_here = bool(names or self.simulators or self.failed)
        is_filtered_here |= self.since_ns is not None or self.until_ns is not None
        is_filtered_here |= self.running and bool(statuses)
        requests: Sequence[str | None] = [None] if names or not statuses else by_api

        def listing(status: str | None) -> list[Task]:
            last = None if is_filtered_here else limit
            if list_all is not None and last is None and not self.running:
                return list_all(self.project, status)
            return client.list_tasks(
                project=self.project, status=status, active=self.running, last=last
            )

        with statuses_explained(by_api):
            listed = {task.id: task for status in requests for task in listing(status)}
        tasks = list(listed.values())
        if len(requests) > 1:  # each listing is sorted, their concatenation is not
            tasks.sort(key=lambda task: task.create_ns or 0, reverse=True)
        if names:
            _check_names(names, tasks)
            tasks = [t for t in tasks if t.status in by_api or _display_name(t).lower() in names]
        check_filter(client, self.project, by_api, tasks)
        return [task for task in tasks if self._matches(task)][:limit]

    def _matches(self, task: Task) -> bool:
        created_ns = task.input_submit_ns or task.create_ns or 0
        simulators = {simulator.lower() for simulator in self.simulators}
        return (
            (not simulators or (task.simulator or "").lower() in simulators)
            and (self.since_ns is None or created_ns >= self.since_ns)
            and (self.until_ns is None or created_ns < self.until_ns)
            and (not self.failed or has_failed(task))
            and (not self.running or not task.is_terminated)
        )


def _slug(status: str) -> str:
    """Return the API's status for a display name that differs only in form, else *status*."""
    slug = re.sub(r"[\s_]+", "-", status.strip().lower())
    return slug if slug in KNOWN_STATUSES else status


def _is_display_name(status: str) -> bool:
    """Return whether *status* has the form of a display name, such as `In Progress`."""
    return re.search(r"[A-Z\s]", status) is not None


def _display_name(task: Task) -> str:
    record = json.loads(task.record)
    name = record.get("status_alias") if isinstance(record, dict) else None
    return name if isinstance(name, str) else ""


def _check_names(names: set[str], tasks: Sequence[Task]) -> None:
    found = {_display_name(task).lower() for task in tasks}
    for name in sorted(names - found):
        raise ConfigError(status_error(name, [task.status for task in tasks]))
