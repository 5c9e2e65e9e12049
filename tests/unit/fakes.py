"""A clock that tests advance, and a task API and objects in memory."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from taskfs.errors import NotFound, StaleObject, TaskFSError
from taskfs.model import Fetched, ObjectVersion, RemoteObject, Task, TaskPage, TaskStatus
from taskfs.remote.api_client import PARSED_TOGETHER
from taskfs.support.interruptible_wait import Waiter
from taskfs.tasks.task_cache import TaskCache

TERMINAL = ("success", "failed", "killed")
POOL_THREADS = 2
POOL = ThreadPoolExecutor(POOL_THREADS)


class Clock:
    """A clock that moves only by `tick`."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def tick(self, seconds: float) -> None:
        self.now_s += seconds


def await_pool() -> None:
    """Wait until what was submitted to the pool of the caches has run."""
    meeting = threading.Barrier(POOL_THREADS)
    for met in [POOL.submit(meeting.wait, 60) for _ in range(POOL_THREADS)]:
        met.result()


def task_of(task_id: str, status: str = "started", **fields: Any) -> Task:
    return Task(id=task_id, status=status, is_terminated=status in TERMINAL, **fields)


def task_cache_of(api: "FakeAPI", **options: Any) -> TaskCache:
    """Return a cache of *api* whose listings are valid for 9 s and its statuses for 2 s."""
    defaults: dict[str, Any] = {"pool": POOL, "waiter": Waiter()}
    defaults |= {"listing_ttl_s": 9, "status_ttl_s": 2}
    return TaskCache(api, **(defaults | options))


@dataclass
class FakeAPI:
    """The tasks of one account, newest first. `calls` lists the calls; `failure` is raised by each.

    `before` is called with the name of each call before it returns.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    failure: TaskFSError | None = None
    clock_offset_s: float | None = None
    before: Callable[[str], None] = lambda call: None
    objects: dict[str, "FakeObject"] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *tasks: Task) -> None:
        added = {task.id: task for task in tasks}
        self.tasks = added | {name: task for name, task in self.tasks.items() if name not in added}

    def change(self, task_id: str, **fields: Any) -> None:
        if "status" in fields:
            fields.setdefault("is_terminated", fields["status"] in TERMINAL)
        self.tasks[task_id] = self.tasks[task_id]._replace(**fields)

    def _begin(self, call: str) -> None:
        with self._lock:
            self.calls.append(call)
        self.before(call)
        if self.failure is not None:
            raise self.failure

    def list_tasks(
        self,
        *,
        project: str | None = None,
        status: str | None = None,
        active: bool = False,
        last: int | None = None,
    ) -> list[Task]:
        tasks = [
            task
            for task in self.tasks.values()
            if project in (None, task.project)
            and status in (None, task.status)
            and not (active and task.is_terminated)
        ]
        self._begin("active" if active else f"list {status}" if status else "list")
        return tasks[:last]

    def list_page(
        self,
        number: int,
        per_page: int,
        *,
        project: str | None = None,
        status: str | None = None,
        take: Callable[[list[Task]], object] | None = None,
    ) -> TaskPage:
        tasks = [
            task
            for task in self.tasks.values()
            if project in (None, task.project) and status in (None, task.status)
        ]
        call = f"list {status}" if status else "list"
        self._begin(call if number == 1 else f"{call} page {number}")
        start = (number - 1) * per_page
        page = tasks[start : start + per_page]
        if take is not None:
            for at in range(0, len(page), PARSED_TOGETHER):
                take(page[at : at + PARSED_TOGETHER])
        return TaskPage(page if take is None else [], len(tasks))

    def get_task(self, task_id: str) -> Task:
        task = self.tasks.get(task_id)
        self._begin(f"get {task_id}")
        if task is None:
            raise NotFound(task_id)
        return task

    def get_status(self, task_id: str) -> TaskStatus:
        task = self.get_task(task_id)
        return TaskStatus(task.id, task.status, task.is_terminated)

    def kill_task(self, task_id: str) -> TaskStatus:
        self._begin(f"kill {task_id}")
        self.change(task_id, status="pending-kill")
        return TaskStatus(task_id, "pending-kill", False)

    def set_metadata(self, task_id: str, key: str, value: str) -> None:
        self._begin(f"set {task_id} {key}")

    def remove_metadata(self, task_id: str, key: str) -> None:
        self._begin(f"remove {task_id} {key}")

    def open_object(self, path: str, region: str | None) -> RemoteObject:
        return self.objects.setdefault(path, FakeObject())

    def open_objects(self, paths: Sequence[str], region: str | None) -> list[RemoteObject]:
        return [self.open_object(path, region) for path in paths]

    def put(self, path: str, content: bytes) -> None:
        """Store a new version of an object."""
        self.objects.setdefault(path, FakeObject()).put(content)


class FakeObject:
    """One object; each `put` stores a new version. Absent before the first `put`."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.number = 0
        self.fetches = 0
        self.failure: TaskFSError | None = None
        self.before_reply: Callable[[], None] = lambda: None  # called after the content is read

    def put(self, content: bytes) -> None:
        self.content = content
        self.number += 1

    def _current(self) -> tuple[bytes, ObjectVersion]:
        self.fetches += 1
        if self.failure is not None:
            raise self.failure
        if self.content is None:
            raise NotFound("no such object")
        return self.content, ObjectVersion(len(self.content), f'"{self.number}"')

    def fetch_tail(self, length: int) -> Fetched:
        content, version = self._current()
        self.before_reply()
        start = max(0, len(content) - length)
        return Fetched(start, content[start:], version)

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> bytes:
        content, current = self._current()
        if current != version:
            raise StaleObject("replaced")
        return content[start:stop]


def names(tasks: Iterable[Task]) -> list[str]:
    return [task.id for task in tasks]
