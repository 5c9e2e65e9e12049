"""`TaskClient`: typed calls of the task API.

Responses are parsed leniently, field by field: a field of the wrong type counts as missing. A
record without a usable id is left out and logged, and does not affect the others.
"""

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import msgspec

from taskfs.errors import (
    AccessDenied,
    AlreadyTerminated,
    BadResponse,
    InvalidValue,
    NoAttribute,
    NotFound,
    Unavailable,
)
from taskfs.model import PAGES_AT_ONCE, RemoteObject, Task, TaskPage, TaskStatus
from taskfs.remote.api_connection import APIConnection
from taskfs.remote.object_store import StoreObject
from taskfs.remote.pagination import Page, read_listing
from taskfs.remote.retry import Deadline, Transient
from taskfs.remote.signed_url import SignedBatch
from taskfs.remote.task_json import parse_task
from taskfs.remote.transport import Transport
from taskfs.support.stats import Stats
from taskfs.support.thread_pool import DaemonPool

log = logging.getLogger(__name__)

# Tries of one kill, and the seconds between two of them, give or take a quarter: an API that is
# restarted responds again within these few seconds.
KILL_TRIES: Final = 5
KILL_PAUSE_S: Final = 1.0
# Tasks of a page that are parsed together: some 400 KB. A page has 500.
PARSED_TOGETHER: Final = 125
# Bad records that are remembered, so that each is logged once.
MAX_BAD_RECORDS: Final = 1000
# The texts of errors after a 404, with any body.
_NOT_FOUND: Final = re.compile(r"\b404\b|Not Found")
# The fields of a single record that a listing does not have.
DETAIL_FIELDS: Final = ("status_history", "machine_operations", "steps")


class _Status(msgspec.Struct):
    status: str
    is_terminated: Any = None
    position_in_queue: Any = None


class TaskClient:
    """The task API of one account. Construction sends no request.

    Safe for concurrent use: the lock guards the set of logged records, the rest is immutable or one
    flag.
    """

    def __init__(
        self, api_url: str, api_key: str, *, timeout_s: float = 30.0, stats: Stats | None = None
    ) -> None:
        self._stats = stats or Stats()
        self._api = APIConnection(api_url, api_key, timeout_s=timeout_s, stats=self._stats)
        self.signal = self._api.signal  # the requests of a live channel's signalling
        self._store = Transport(timeout_s=timeout_s, stats=self._stats, endpoint="store")
        self._pages = DaemonPool(PAGES_AT_ONCE, "taskfs-pages")
        self._bad_records: set[str] = set()
        self._has_listed = False
        self._lock = threading.Lock()  # guards _bad_records

    def close(self) -> None:
        """Close the connections.

        A later call opens new ones, but a listing of several pages raises Closed.
        """
        self._pages.shutdown(wait=False, cancel_futures=True)
        self._api.transport.close()
        self._store.close()

    @property
    def clock_offset_s(self) -> float | None:
        """The API's clock minus the local one, in seconds; None before the first response.

        The resolution is 1 s, that of the Date header.
        """
        return self._api.transport.clock_offset_s

    def check(self) -> None:
        """Raise an error unless the API responds and accepts the key.

        Raises:
            AccessDenied, Unavailable, BadResponse, NotFound: as for any request.
        """
        self._page(1, 1, {})

    def list_tasks(
        self,
        *,
        project: str | None = None,
        status: str | None = None,
        active: bool = False,
        last: int | None = None,
    ) -> list[Task]:
        """Return at most *last* tasks, newest first, each once; with *active*, the unfinished ones.

        This takes one request per 500 tasks, in parallel after the first; see `read_listing`.

        Raises:
            AccessDenied, Unavailable, BadResponse: as for any request.
        """
        filters = _filters(project, status)
        if active:
            filters["active"] = "true"
        return read_listing(
            lambda number, per_page: self._page(number, per_page, filters),
            self._parse,
            self._pages,
            last,
        )

    def list_page(
        self,
        number: int,
        per_page: int,
        *,
        project: str | None = None,
        status: str | None = None,
        take: Callable[[list[Task]], object] | None = None,
    ) -> TaskPage:
        """Return one page of the listing, newest first; pages are numbered from 1.

        With *take*, the page has no tasks: *take* is called with `PARSED_TOGETHER` of them at a
        time, so that not all are in memory together.

        Raises:
            BadResponse: none of the records can be used.
            AccessDenied, Unavailable: as for any request.
        """
        page = self._page(number, per_page, _filters(project, status))
        tasks: list[Task] = []
        count = 0
        for start in range(0, len(page.tasks), PARSED_TOGETHER):
            batch = self._parse(page.tasks[start : start + PARSED_TOGETHER])
            count += len(batch)
            (take or tasks.extend)(batch)
        if page.tasks and not count:
            raise BadResponse(f"GET /tasks: none of {len(page.tasks)} records can be used")
        return TaskPage(tasks, page.total_size, len(page.tasks) - count)

    def _page(self, number: int, per_page: int, filters: Mapping[str, Any]) -> Page:
        params = {"page": number, "per_page": per_page, **filters}
        try:
            page = self._api.call("GET", "/tasks", Page, params=params)
        except (NotFound, BadResponse) as exc:
            # Every task API has a listing. If there never was one, the URL is wrong.
            if self._has_listed or not _NOT_FOUND.search(str(exc)):
                raise
            raise BadResponse(
                f"no task API answers at {self._api.url} ({exc}): check --api-url"
            ) from exc
        self._has_listed = True
        return page

    def _parse(self, records: Iterable[msgspec.Raw]) -> list[Task]:
        tasks = []
        for raw in records:
            try:
                tasks.append(parse_task(bytes(raw)))
            except BadResponse as exc:
                with self._lock:
                    is_new = str(exc) not in self._bad_records
                    is_new = is_new and len(self._bad_records) < MAX_BAD_RECORDS
                    if is_new:
                        self._bad_records.add(str(exc))
                if is_new:
                    log.warning("a task is missing from the listing: %s", exc)
        return tasks

    def get_task(self, task_id: str) -> Task:
        """Return one task as a listing contains it; raise NotFound if there is none."""
        fields = self._api.call("GET", f"/tasks/{quote(task_id, safe='')}", dict[str, msgspec.Raw])
        for name in DETAIL_FIELDS:
            fields.pop(name, None)
        task = parse_task(msgspec.json.encode(fields))
        if task.id != task_id:
            raise BadResponse(f"the API answered with task {task.id!r} when asked for {task_id!r}")
        return task

    def task_detail(self, task_id: str) -> dict[str, Any]:
        """Return the whole record of one task, status history included, as the API sent it."""
        return self._api.call("GET", f"/tasks/{quote(task_id, safe='')}", dict[str, Any])

    def get_status(self, task_id: str) -> TaskStatus:
        """Return the task's status and its position in the queue."""
        return self._get_status(task_id, self._api.transport.deadline())

    def _get_status(self, task_id: str, deadline: Deadline) -> TaskStatus:
        path = f"/tasks/{quote(task_id, safe='')}/status"
        return _task_status(task_id, self._api.call("GET", path, _Status, deadline=deadline))

    def kill_task(self, task_id: str) -> TaskStatus:
        """Kill the task, and return its status afterwards.

        A task that is already `pending-kill` is sent no request. If a response was lost, the status
        is read before the request is repeated.

        Raises:
            NotFound, AlreadyTerminated, AccessDenied: refused (ENOENT, ESRCH, EACCES).
            Unavailable: no response after 5 tries (ETIMEDOUT).
            BadResponse: any other refusal (EIO).
        """
        deadline = self._api.transport.deadline()
        lost: Transient | None = None
        for _ in range(KILL_TRIES):
            status = self._get_status(task_id, deadline)
            if status.status == "pending-kill" or (lost and status.status == "killed"):
                return status
            if status.is_terminated:
                raise AlreadyTerminated(f"task {task_id} is {status.status}")
            try:
                return self._send_kill(task_id, deadline)
            except Transient as exc:
                lost = exc
                log.info("kill %s: %s; checking the status before another try", task_id, exc)
            pause_s = max(lost.retry_after_s or 0.0, KILL_PAUSE_S * random.uniform(0.75, 1.25))
            if pause_s >= deadline.remaining_s:
                break
            time.sleep(pause_s)
        raise Unavailable(f"kill {task_id}: no response from the API ({lost})") from lost

    def _send_kill(self, task_id: str, deadline: Deadline) -> TaskStatus:
        """Send one kill request; raise Transient if the API may or may not have received it."""
        path = f"/tasks/{quote(task_id, safe='')}/kill"
        try:
            response = self._api.send_once("POST", path, _Status, deadline)
        except (AccessDenied, NotFound):
            raise
        except BadResponse as exc:
            status = self._get_status(task_id, deadline)
            if status.is_terminated:
                raise AlreadyTerminated(f"task {task_id} is {status.status}") from exc
            raise
        return _task_status(task_id, response)

    def set_metadata(self, task_id: str, key: str, value: str) -> None:
        """Set one metadata key of the task; raise InvalidValue for an empty key or value."""
        if not key or not value:
            raise InvalidValue("a metadata key or value cannot be empty")
        self._api.call("PATCH", self._metadata_path(task_id), msgspec.Raw, json={key: value})

    def remove_metadata(self, task_id: str, key: str) -> None:
        """Remove one metadata key of the task; raise NoAttribute if the task lacks it."""
        path = self._metadata_path(task_id)
        metadata = self._api.call("GET", path, dict[str, Any])
        if key not in metadata:
            raise NoAttribute(f"task {task_id} has no metadata key {key!r}")
        del metadata[key]
        self._api.call("PUT", path, msgspec.Raw, json=metadata)

    @staticmethod
    def _metadata_path(task_id: str) -> str:
        return f"/tasks/{quote(task_id, safe='')}/metadata"

    def list_projects(self) -> list[dict[str, Any]]:
        """Return the projects of the account as the API sent them."""
        return self._api.call("GET", "/projects", list[dict[str, Any]])

    def signed_url(self, path: str, region: str | None) -> str:
        """Return a new URL of the object at *path*; it is valid for GET, for a limited time."""
        return self._signed_urls([path], region)[0]

    def _signed_urls(self, paths: Sequence[str], region: str | None) -> list[str]:
        params: dict[str, Any] = {"operation": "download", "paths": paths}
        if region:
            params["region"] = region
        urls = self._api.call("GET", "/storage/signed-urls", list[str], params=params)
        if len(urls) != len(paths):
            raise BadResponse(f"the API gave {len(urls)} URLs for {', '.join(paths)}")
        return urls

    def open_object(self, path: str, region: str | None) -> RemoteObject:
        """Return the object at *path* in the store; this sends no request."""
        return StoreObject(path, lambda: self.signed_url(path, region), self._store)

    def open_objects(self, paths: Sequence[str], region: str | None) -> list[RemoteObject]:
        """Return objects whose first URLs are signed in one request, once one of them is needed."""
        batch = SignedBatch(
            paths,
            lambda paths: self._signed_urls(paths, region),
            lambda path: self.signed_url(path, region),
        )
        return [StoreObject(path, partial(batch.sign, path), self._store) for path in paths]


def _filters(project: str | None, status: str | None) -> dict[str, Any]:
    filters: dict[str, Any] = {"sort": "create_time:desc"}
    if project is not None:
        filters["project"] = project
    if status is not None:
        filters["status"] = status
    return filters


def _task_status(task_id: str, response: _Status) -> TaskStatus:
    queue = response.position_in_queue
    ahead = queue.get("tasks_ahead") if isinstance(queue, dict) else None
    return TaskStatus(
        id=task_id,
        status=response.status,
        is_terminated=response.is_terminated is True,
        tasks_ahead=ahead if isinstance(ahead, int) else None,
    )
