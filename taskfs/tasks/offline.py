"""`--offline`: what the ledger and the cache have, without a network; anything else ETIMEDOUT."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from taskfs.cache.disk_cache import INDEX, DiskBlocks, DiskCache
from taskfs.errors import ConfigError, NotCached
from taskfs.model import Fetched, ObjectVersion, RemoteObject, Task, TaskStatus
from taskfs.tasks.finished_tasks import open_finished_tasks


class FrozenCache(DiskCache):
    """The cache directory as it is: whatever proves wrong or is forgotten stays on disk, since
    nobody could bring it back."""

    def blocks_of(self, key: str) -> DiskBlocks:
        return _FrozenBlocks(self, self.blocks_directory(key), key)

    def put_index(self, key: str, head: bytes, body: bytes, kind: str = INDEX) -> None:
        pass

    def drop_index(self, key: str) -> None:
        pass

    def drop_indexes(self) -> None:
        pass

    def _look_at_reserve(self) -> None:
        pass

    def lock_range(
        self, key: str, first: int, last: int, is_there: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # nothing will be fetched


class _FrozenBlocks(DiskBlocks):
    def put(self, first: int, run: bytes | bytearray | memoryview) -> None:
        pass

    def drop(self, first: int, last: int) -> None:
        pass


class OfflineAPI:
    """The task API of a mount or command that asks nobody. Safe for concurrent use: never changed.

    The finished tasks are as the ledger had them at the start. Everything else raises NotCached.
    """

    def __init__(self, disk: DiskCache, cache_dir: Path, api_url: str, api_key: str) -> None:
        finished_tasks = open_finished_tasks(disk, api_url, api_key)
        self._place = f"nothing of {api_url} is kept in {cache_dir}"
        self._tasks = {task.id: task for task in finished_tasks.tasks()} if finished_tasks else {}

    @property
    def clock_offset_s(self) -> None:
        """Nobody tells the time."""

    def check(self) -> None:
        """Raise ConfigError if there is nothing to show: an empty tree would tell a lie."""
        if not self._tasks:
            raise ConfigError(f"{self._place}: mount it once without --offline")

    def close(self) -> None:
        """Nothing was opened."""

    def list_tasks(
        self,
        *,
        project: str | None = None,
        status: str | None = None,
        active: bool = False,
        last: int | None = None,
    ) -> list[Task]:
        """Return the finished tasks, newest first, as far as they match; *active* are none."""
        found = [
            task
            for task in self._tasks.values()
            if not active and project in (None, task.project) and status in (None, task.status)
        ]
        return found[:last]

    def list_projects(self) -> list[dict[str, Any]]:
        """Return the projects of the finished tasks, each with its name."""
        names = {task.project for task in self._tasks.values() if task.project is not None}
        return [{"name": name} for name in sorted(names)]

    def get_task(self, task_id: str) -> Task:
        """Return a finished task; NotCached for any other, whether there is one or not."""
        task = self._tasks.get(task_id)
        return task if task is not None else _refuse(f"task {task_id}")

    def task_detail(self, task_id: str) -> dict[str, Any]:
        """Return a finished task's record as a listing gave it."""
        return msgspec.json.decode(self.get_task(task_id).record, type=dict[str, Any])

    def get_status(self, task_id: str) -> TaskStatus:
        """Return the status of a finished task."""
        task = self.get_task(task_id)
        return TaskStatus(task.id, task.status, task.is_terminated)

    def kill_task(self, task_id: str) -> TaskStatus:
        """Send nothing."""
        return _refuse(f"kill {task_id}")

    def set_metadata(self, task_id: str, key: str, value: str) -> None:
        """Send nothing."""
        _refuse(f"metadata of {task_id}")

    def remove_metadata(self, task_id: str, key: str) -> None:
        """Send nothing."""
        _refuse(f"metadata of {task_id}")

    def signed_url(self, path: str, region: str | None) -> str:
        """Return nothing: a URL of the store is of no use without it."""
        return _refuse(path)

    def open_object(self, path: str, region: str | None) -> RemoteObject:
        """Return an object of which nothing can be fetched."""
        return _Away(path)


class _Away:
    """An object in a store that nobody asks."""

    def __init__(self, path: str) -> None:
        self._path = path

    def fetch_tail(self, length: int) -> Fetched:
        return _refuse(self._path)

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> bytes:
        return _refuse(self._path)


def _refuse(what: str) -> NoReturn:
    raise NotCached(f"{what}: not cached, and --offline asks nobody")
