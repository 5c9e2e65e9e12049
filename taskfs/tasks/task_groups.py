"""`TaskGroups`: the tasks of a listing by status, project or simulator."""

import threading
from collections.abc import Sequence
from typing import Final, NamedTuple

from taskfs.tasks.task_cache import TaskCache

COLUMNS: Final = ("status", "project", "simulator")


class Member(NamedTuple):
    """A task of a group, and when it last changed by its record."""

    task_id: str
    changed_ns: int


class TaskGroups:
    """The groups of the tasks that a mount lists, read from the database.

    Safe for concurrent use: the lock guards the results of the last version.
    """

    def __init__(self, task_cache: TaskCache) -> None:
        self._task_cache = task_cache
        self._lock = threading.Lock()
        self._version: object = None
        self._values: dict[str, dict[str, int]] = {}

    def values(self, column: str, *, cached: bool = False) -> dict[str, int]:
        """Return the values of *column*, one of `COLUMNS`, newest task first, each with the time
        when a task of the group last changed; an empty text stands for null. With *cached*, those
        of the last listing, without a request."""
        if not cached:
            self._task_cache.refresh()
        version = self._task_cache.version, self._task_cache.selection
        with self._lock:
            if self._version != version:
                self._version, self._values = version, {}
            if column in self._values:
                return self._values[column]
        source, bound = self._task_cache.selection.source()
        rows = self._task_cache.database.rows(
            f"SELECT {column}, max(changed) FROM {source} GROUP BY {column} "
            "ORDER BY max(created) DESC, max(seq) DESC",
            bound,
        )
        found = {value: changed for value, changed in rows}
        with self._lock:
            if self._version == version:
                self._values[column] = found
        return found

    def members(self, column: str, values: Sequence[str]) -> list[Member]:
        """Return the tasks whose *column* is one of *values*, newest first."""
        condition, bound = self._condition(column, values)
        rows = self._task_cache.database.rows(
            f"SELECT id, changed FROM {condition} ORDER BY created DESC, seq DESC", bound
        )
        return [Member(*row) for row in rows]

    def member(self, column: str, values: Sequence[str], task_id: str) -> Member | None:
        """Return the task if it belongs to the group."""
        condition, bound = self._condition(column, values)
        try:
            rows = self._task_cache.database.rows(
                f"SELECT id, changed FROM {condition} AND id = ?", (*bound, task_id)
            )
        except UnicodeEncodeError:  # the kernel's name of a file may not be UTF-8
            return None
        return Member(*rows[0]) if rows else None

    def _condition(self, column: str, values: Sequence[str]) -> tuple[str, tuple[object, ...]]:
        source, bound = self._task_cache.selection.source()
        marks = ", ".join("?" * len(values))
        return f"{source} WHERE {column} IN ({marks})", (*bound, *values)
