"""`TaskGroups`: the tasks of a listing by status, project or simulator."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from taskfs.tasks.packed_ids import PackedIds
from taskfs.tasks.task_cache import TaskCache
from taskfs.tasks.task_rows import placeholders

COLUMNS: Final = ("status", "project", "simulator")


class TaskGroups:
    """The groups of the tasks that a mount lists, read from the database.

    Safe for concurrent use: the lock guards the results of the last version.
    """

    def __init__(self, task_cache: TaskCache) -> None:
        self._task_cache = task_cache
        self._lock = threading.Lock()
        self._version: object = None
        self._values: dict[str, dict[str, int]] = {}
        # Called with the tasks of a group that is listed; it must not wait.
        self.on_list: Callable[[Sequence[str]], None] = lambda ids: None

    def values(self, column: str, *, cached: bool = False) -> dict[str, int]:
        """Return the values of *column*, one of `COLUMNS`, newest task first, each with the time
        when a task of the group last changed; an empty text stands for null. With *cached*, those
        of the last listing, without a request."""
        if not cached:
            return self._task_cache.read(lambda: self._known_values(column))
        return self._known_values(column)

    def _known_values(self, column: str) -> dict[str, int]:
        selection = self._task_cache.selection
        version = self._task_cache.version, selection
        with self._lock:
            if self._version != version:
                self._version, self._values = version, {}
            if column in self._values:
                return self._values[column]
        found = self._task_cache.database.values(selection, column)
        with self._lock:
            if self._version == version:
                self._values[column] = found
        return found

    def ids(self, column: str, values: Sequence[str]) -> PackedIds:
        """Return the tasks whose *column* is one of *values*, newest first."""
        task_cache = self._task_cache
        ids = task_cache.read(lambda: task_cache.database.ids(task_cache.selection, column, values))
        self.on_list(ids)
        return ids

    def changed_ns(self, column: str, values: Sequence[str], task_id: str) -> int | None:
        """Return when the task last changed, None if it does not belong to the group."""
        try:
            where = f"{column} IN ({placeholders(values)}) AND id = ?"
            statement = f"SELECT changed FROM {{}} WHERE {where}"
            rows = listed_rows(self._task_cache, statement, (*values, task_id))
        except UnicodeEncodeError:  # the kernel's name of a file may not be UTF-8
            return None
        return int(rows[0][0]) if rows else None


def listed_rows(
    task_cache: TaskCache, statement: str, values: Sequence[object]
) -> list[tuple[Any, ...]]:
    """Return the rows of *statement*, whose `{}` stands for the listed tasks."""

    def query() -> list[tuple[Any, ...]]:
        source, bound = task_cache.selection.source()
        return task_cache.database.rows(statement.format(source), (*bound, *values))

    return task_cache.read(query)
