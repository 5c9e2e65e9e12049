"""`OfflineAPI`: the tasks on disk for `--offline`; anything else is ETIMEDOUT."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from taskfs.errors import ConfigError, NotCached
from taskfs.model import Fetched, ObjectVersion, RemoteObject, Task, TaskPage, TaskStatus
from taskfs.tasks.selection import Selection
from taskfs.tasks.task_database import TaskDatabase


class OfflineAPI:
    """A task API without a network: the finished tasks in the cache.

    Everything else raises NotCached. Safe for concurrent use, because it never changes.
    """

    def __init__(self, database: TaskDatabase, cache_dir: Path, api_url: str) -> None:
        self._database = database
        self._empty_message = f"{cache_dir} has no tasks of {api_url}"

    @property
    def clock_offset_s(self) -> None:
        """None: there is no server whose clock could differ."""

    def check(self) -> None:
        """Raise ConfigError if no task is on disk, because an empty tree would mislead."""
        if not self.list_tasks(last=1):
            raise ConfigError(f"{self._empty_message}: mount it once without --offline")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def list_tasks(
        self,
        *,
        project: str | None = None,
        status: str | None = None,
        active: bool = False,
        last: int | None = None,
    ) -> list[Task]:
        """Return the finished tasks that match, newest first; none if *active*."""
        statuses = (status,) if status is not None else ()
        selection = Selection(project, statuses, None, last, finished_only=True)
        return [] if active else self._database.tasks(selection)

    def list_page(
        self,
        number: int,
        per_page: int,
        *,
        project: str | None = None,
        status: str | None = None,
        take: Callable[[list[Task]], object] | None = None,
    ) -> TaskPage:
        """Raise NotCached."""
        return _refuse("the listing")

    def list_projects(self) -> list[dict[str, Any]]:
        """Return the projects of the finished tasks, each with its name."""
        rows = self._database.rows(
            "SELECT DISTINCT project FROM tasks WHERE finished = 1 ORDER BY project", ()
        )
        return [{"name": name} for (name,) in rows if name]

    def get_task(self, task_id: str) -> Task:
        """Return a finished task; raise NotCached for any other, because it may exist."""
        task = self._database.get(task_id)
        return task if task is not None and task.is_terminated else _refuse(f"task {task_id}")

    def task_detail(self, task_id: str) -> dict[str, Any]:
        """Return a finished task's record as a listing gave it."""
        return msgspec.json.decode(self.get_task(task_id).record, type=dict[str, Any])

    def get_status(self, task_id: str) -> TaskStatus:
        """Return the status of a finished task."""
        task = self.get_task(task_id)
        return TaskStatus(task.id, task.status, task.is_terminated)

    def kill_task(self, task_id: str) -> TaskStatus:
        """Raise NotCached."""
        return _refuse(f"kill {task_id}")

    def set_metadata(self, task_id: str, key: str, value: str) -> None:
        """Raise NotCached."""
        _refuse(f"metadata of {task_id}")

    def remove_metadata(self, task_id: str, key: str) -> None:
        """Raise NotCached."""
        _refuse(f"metadata of {task_id}")

    def signed_url(self, path: str, region: str | None) -> str:
        """Raise NotCached: the API signs URLs."""
        return _refuse(path)

    def open_object(self, path: str, region: str | None) -> RemoteObject:
        """Return an object whose fetches raise NotCached."""
        return _UnreachableObject(path)

    def open_objects(self, paths: Sequence[str], region: str | None) -> list[RemoteObject]:
        """Return objects whose fetches raise NotCached."""
        return [self.open_object(path, region) for path in paths]


class _UnreachableObject:
    """An object in a store that cannot be reached."""

    def __init__(self, path: str) -> None:
        self._path = path

    def fetch_tail(self, length: int) -> Fetched:
        return _refuse(self._path)

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> bytes:
        return _refuse(self._path)


def _refuse(name: str) -> NoReturn:
    raise NotCached(f"{name}: not cached, and --offline sends no requests")
