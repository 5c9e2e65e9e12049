"""`TaskClient`: typed calls on the task API (remote-api.md).

An answer is read leniently, field by field: a field of the wrong type is a missing one, a record
without a usable id is left out and logged, and one bad record does not break the others.
"""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from taskfs.errors import (
    AccessDenied,
    AlreadyTerminated,
    BadAnswer,
    InvalidValue,
    NoAttribute,
    NotFound,
    Unavailable,
)
from taskfs.model import RemoteObject, Task, TaskStatus
from taskfs.pools import DaemonPool
from taskfs.record import NOT_JSON, mend_json, parse_task
from taskfs.redaction import register_secret
from taskfs.stats import Stats
from taskfs.store import StoredObject
from taskfs.transport import KEY_HEADER, Budget, Transient, Transport, refusal

log = logging.getLogger(__name__)
T = TypeVar("T")

PAGE: Final = 500  # the most that the API gives at once
KILL_TRIES: Final = 5
KILL_PAUSE_S: Final = 1.0
# A listing whose pages shift while they are read is read again, so often at most.
LISTING_TRIES: Final = 3
# What GET /tasks/{id} adds to a record as a listing gives it.
DETAIL_ONLY: Final = ("status_history", "machine_operations", "steps")
MAX_DETAIL: Final = 500


class _Page(msgspec.Struct):
    total_size: int
    tasks: list[msgspec.Raw]


class _Status(msgspec.Struct):
    status: str
    is_terminated: bool = False
    id: str = ""
    position_in_queue: Any = None


class TaskClient:
    """The task API of one account. Safe for concurrent use; nothing goes out before a call."""

    def __init__(
        self, api_url: str, api_key: str, *, timeout_s: float = 30.0, stats: Stats | None = None
    ) -> None:
        register_secret(api_key)
        self._base = api_url.rstrip("/")
        self._stats = stats or Stats()
        self._transport = Transport(
            timeout_s=timeout_s,
            stats=self._stats,
            side="api",
            headers={KEY_HEADER: api_key, "Accept": "application/json"},
        )
        self._store = Transport(timeout_s=timeout_s, stats=self._stats, side="store")
        self._pages = DaemonPool(8, "taskfs-pages")
        self._bad_records: set[str] = set()
        self._lock = threading.Lock()  # guards _bad_records

    def close(self) -> None:
        """Close the connections; a call after that opens new ones."""
        self._pages.shutdown(wait=False, cancel_futures=True)
        self._transport.close()
        self._store.close()

    @property
    def clock_offset_s(self) -> float | None:
        """The API's clock minus ours in seconds (resolution 1 s), None before any answer."""
        return self._transport.clock_offset_s

    def check(self) -> None:
        """Return if the API answers and takes the key.

        Raises:
            AccessDenied, Unavailable, BadAnswer, NotFound: it does not.
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
        """Return the tasks, newest first, each once: at most *last*, *active* the unfinished only.

        One request for each 500 tasks, the pages after the first in parallel. A listing whose
        length changed between its pages is read again: a task that moved over a page's edge would
        be missing from it.
        """
        filters: dict[str, Any] = {"sort": "create_time:desc"}
        if project is not None:
            filters["project"] = project
        if status is not None:
            filters["status"] = status
        if active:
            filters["active"] = "true"
        for _ in range(LISTING_TRIES):
            tasks, whole = self._read_pages(filters, last)
            if whole:
                break
        return tasks

    def _read_pages(self, filters: Mapping[str, Any], last: int | None) -> tuple[list[Task], bool]:
        """Return the tasks of one pass over the pages, and whether the pass saw all of them."""
        per_page = PAGE if last is None else max(1, min(PAGE, last))
        first = self._page(1, per_page, filters)
        wanted = first.total_size if last is None else min(last, first.total_size)
        numbers = range(2, -(-wanted // per_page) + 1)
        rest = list(self._pages.map(lambda n: self._page(n, per_page, filters), numbers))
        pages = [first, *rest]
        records = [raw for page in pages for raw in page.tasks]
        tasks = {task.id: task for task in self._parse(records)}
        steady = all(page.total_size == first.total_size for page in rest)
        whole = not rest or (steady and len(records) >= wanted)
        return list(tasks.values())[:last], whole

    def _page(self, number: int, per_page: int, filters: Mapping[str, Any]) -> _Page:
        params = {"page": number, "per_page": per_page, **filters}
        return self._call("GET", "/tasks", _Page, params=params)

    def _parse(self, records: Iterable[msgspec.Raw]) -> Iterable[Task]:
        for raw in records:
            try:
                yield parse_task(bytes(raw))
            except BadAnswer as exc:
                with self._lock:
                    known = str(exc) in self._bad_records
                    self._bad_records.add(str(exc))
                if not known:
                    log.warning("a record of the listing is left out: %s", exc)

    def get_task(self, task_id: str) -> Task:
        """Return one task's record as a listing would give it; NotFound if there is none."""
        fields = self._call("GET", f"/tasks/{quote(task_id, safe='')}", dict[str, msgspec.Raw])
        for name in DETAIL_ONLY:
            fields.pop(name, None)
        task = parse_task(msgspec.json.encode(fields))
        if task.id != task_id:
            raise BadAnswer(f"the API answered with task {task.id!r} when asked for {task_id!r}")
        return task

    def task_detail(self, task_id: str) -> dict[str, Any]:
        """Return the whole record of one task, with its status history, as the API gave it."""
        return self._call("GET", f"/tasks/{quote(task_id, safe='')}", dict[str, Any])

    def get_status(self, task_id: str) -> TaskStatus:
        """Return the task's status and its place in the queue."""
        answer = self._call("GET", f"/tasks/{quote(task_id, safe='')}/status", _Status)
        return _task_status(task_id, answer)

    def kill_task(self, task_id: str) -> TaskStatus:
        """Ask the API to kill the task; return what it says of it then.

        Nothing is sent for a task that is already `pending-kill`. If an answer was lost, the
        status is read before the request is repeated.

        Raises:
            NotFound, AlreadyTerminated, AccessDenied: refused (ENOENT, ESRCH, EACCES).
            Unavailable: no answer after 5 tries (ETIMEDOUT).
            BadAnswer: any other refusal (EIO).
        """
        deadline = time.monotonic() + self._transport.timeout_s
        lost: Transient | None = None
        for _ in range(KILL_TRIES):
            status = self.get_status(task_id)
            if status.status == "pending-kill" or (lost and status.status == "killed"):
                return status
            if status.is_terminated:
                raise AlreadyTerminated(f"task {task_id} is {status.status}")
            try:
                return self._send_kill(task_id, deadline)
            except Transient as exc:
                lost = exc
                log.info("kill %s: %s; its status is read before another try", task_id, exc)
            pause_s = max(lost.retry_after_s or 0.0, KILL_PAUSE_S * random.uniform(0.75, 1.25))
            if time.monotonic() + pause_s >= deadline:
                break
            time.sleep(pause_s)
        raise Unavailable(f"kill {task_id}: no answer from the API ({lost})") from lost

    def _send_kill(self, task_id: str, deadline: float) -> TaskStatus:
        """Send one kill request; Transient where nobody knows whether it arrived."""
        path = f"/tasks/{quote(task_id, safe='')}/kill"
        now = time.monotonic()
        budget = Budget(max(0.1, deadline - now), now)
        try:
            answer = self._attempt("POST", path, _Status, budget)
        except (AccessDenied, NotFound):
            raise
        except BadAnswer as exc:
            status = self.get_status(task_id)
            if status.is_terminated:
                raise AlreadyTerminated(f"task {task_id} is {status.status}") from exc
            raise
        return _task_status(task_id, answer)

    def set_metadata(self, task_id: str, key: str, value: str) -> None:
        """Set one metadata key of the task; InvalidValue for an empty key or value."""
        if not key or not value:
            raise InvalidValue("a metadata key or value cannot be empty")
        self._call("PATCH", self._metadata_path(task_id), msgspec.Raw, json={key: value})

    def remove_metadata(self, task_id: str, key: str) -> None:
        """Remove one metadata key of the task; NoAttribute if it is not there."""
        path = self._metadata_path(task_id)
        metadata = self._call("GET", path, dict[str, Any])
        if key not in metadata:
            raise NoAttribute(f"task {task_id} has no metadata key {key!r}")
        del metadata[key]
        self._call("PUT", path, msgspec.Raw, json=metadata)

    @staticmethod
    def _metadata_path(task_id: str) -> str:
        return f"/tasks/{quote(task_id, safe='')}/metadata"

    def list_projects(self) -> list[dict[str, Any]]:
        """Return the projects of the account as the API gave them."""
        return self._call("GET", "/projects", list[dict[str, Any]])

    def signed_url(self, path: str, region: str | None) -> str:
        """Return a new URL, good for GET for a while, of the object stored at *path*."""
        params = {"operation": "download", "paths": path}
        if region:
            params["region"] = region
        urls = self._call("GET", "/storage/signed-urls", list[str], params=params)
        if len(urls) != 1:
            raise BadAnswer(f"the API gave {len(urls)} URLs for {path}")
        return urls[0]

    def open_object(self, path: str, region: str | None) -> RemoteObject:
        """Return the object stored at *path*; nothing goes out yet."""
        return StoredObject(path, lambda: self.signed_url(path, region), self._store)

    def _call(
        self, method: str, path: str, kind: type[T], *, params: Any = None, json: Any = None
    ) -> T:
        """Return the answer to one call, decoded as *kind*, retried while that may help."""
        return self._transport.retrying(
            f"{method} {path}",
            lambda budget: self._attempt(method, path, kind, budget, params=params, json=json),
        )

    def _attempt(
        self,
        method: str,
        path: str,
        kind: type[T],
        budget: Budget,
        *,
        params: Any = None,
        json: Any = None,
    ) -> T:
        what = f"{method} {path}"
        response = self._transport.send(
            what, method, self._base + path, budget, params=params, json=json
        )
        body = bytearray()
        self._transport.receive(what, response, budget, body)
        if response.status_code >= 300:
            raise refusal(what, response.status_code, _detail(body) or response.reason)
        try:
            return msgspec.json.decode(body, type=kind)
        except NOT_JSON as exc:
            with contextlib.suppress(*NOT_JSON):
                return msgspec.json.decode(mend_json(body), type=kind)
            # A page of HTML from a proxy may be gone a moment later; wrong JSON stays wrong.
            error = BadAnswer(f"{what}: the answer is not what the API promises ({exc})")
            raise Transient(error, tries=2) from exc


def _task_status(task_id: str, answer: _Status) -> TaskStatus:
    queue = answer.position_in_queue
    ahead = queue.get("tasks_ahead") if isinstance(queue, dict) else None
    return TaskStatus(
        id=task_id,
        status=answer.status,
        is_terminated=answer.is_terminated,
        tasks_ahead=ahead if isinstance(ahead, int) else None,
    )


def _detail(body: bytes | bytearray) -> str:
    """Return the text of an API error: `{"detail": …}`, a string or a list of `{loc, msg}`."""
    try:
        detail = msgspec.json.decode(body)["detail"]
        if isinstance(detail, list):
            detail = "; ".join(str(item["msg"]) for item in detail)
        return str(detail)[:MAX_DETAIL]
    except (*NOT_JSON, KeyError, TypeError):
        return ""
