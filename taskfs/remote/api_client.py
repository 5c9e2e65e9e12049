"""`TaskClient`: typed calls on the task API (remote-api.md).

An answer is read leniently, field by field: a field of the wrong type is a missing one, a record
without a usable id is left out and logged, and one bad record does not break the others.
"""

import contextlib
import logging
import random
import re
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
from taskfs.remote.object_store import StoredObject
from taskfs.remote.pagination import Page, read_listing
from taskfs.remote.retry import Budget, Transient
from taskfs.remote.task_json import NOT_JSON, mend_json, parse_task
from taskfs.remote.transport import KEY_HEADER, Transport, error_for_status
from taskfs.support.redaction import register_secret
from taskfs.support.stats import Stats
from taskfs.support.thread_pool import DaemonPool

log = logging.getLogger(__name__)
T = TypeVar("T")

KILL_TRIES: Final = 5
KILL_PAUSE_S: Final = 1.0
MAX_ANSWER: Final = 64 << 20
MAX_BAD_RECORDS: Final = 1000
# The errors of a 404, whatever its body was.
_NOT_FOUND: Final = re.compile(r"\b404\b|Not Found")
# What GET /tasks/{id} adds to a record as a listing gives it.
DETAIL_ONLY: Final = ("status_history", "machine_operations", "steps")
MAX_DETAIL: Final = 500
# Only a request for one task can be answered by "there is no such thing", never a collection.
_ONE_TASK: Final = re.compile(r"/tasks/[^/]+(/|$)")


class _Status(msgspec.Struct):
    status: str
    is_terminated: Any = None
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
        self._has_listed = False
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
        length changed between its pages is read again: see `read_listing`.

        Raises:
            AccessDenied, Unavailable, BadAnswer: there is no listing.
        """
        filters: dict[str, Any] = {"sort": "create_time:desc"}
        if project is not None:
            filters["project"] = project
        if status is not None:
            filters["status"] = status
        if active:
            filters["active"] = "true"
        return read_listing(
            lambda number, per_page: self._page(number, per_page, filters),
            self._parse,
            self._pages,
            last,
        )

    def _page(self, number: int, per_page: int, filters: Mapping[str, Any]) -> Page:
        params = {"page": number, "per_page": per_page, **filters}
        try:
            page = self._call("GET", "/tasks", Page, params=params)
        except (NotFound, BadAnswer) as exc:
            # The API always has a listing: one that was never there is at another URL.
            if self._has_listed or not _NOT_FOUND.search(str(exc)):
                raise
            raise BadAnswer(
                f"no task API answers at {self._base} ({exc}): check --api-url"
            ) from exc
        self._has_listed = True
        return page

    def _parse(self, records: Iterable[msgspec.Raw]) -> list[Task]:
        tasks = []
        for raw in records:
            try:
                tasks.append(parse_task(bytes(raw)))
            except BadAnswer as exc:
                with self._lock:
                    is_new = str(exc) not in self._bad_records
                    is_new = is_new and len(self._bad_records) < MAX_BAD_RECORDS
                    if is_new:
                        self._bad_records.add(str(exc))
                if is_new:
                    log.warning("a record of the listing is left out: %s", exc)
        return tasks

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
        return self._get_status(task_id, self._transport.budget())

    def _get_status(self, task_id: str, budget: Budget) -> TaskStatus:
        path = f"/tasks/{quote(task_id, safe='')}/status"
        return _task_status(task_id, self._call("GET", path, _Status, budget=budget))

    def kill_task(self, task_id: str) -> TaskStatus:
        """Ask the API to kill the task; return what it says of it then.

        Nothing is sent for a task that is already `pending-kill`. If an answer was lost, the
        status is read before the request is repeated.

        Raises:
            NotFound, AlreadyTerminated, AccessDenied: refused (ENOENT, ESRCH, EACCES).
            Unavailable: no answer after 5 tries (ETIMEDOUT).
            BadAnswer: any other refusal (EIO).
        """
        budget = self._transport.budget()
        lost: Transient | None = None
        for _ in range(KILL_TRIES):
            status = self._get_status(task_id, budget)
            if status.status == "pending-kill" or (lost and status.status == "killed"):
                return status
            if status.is_terminated:
                raise AlreadyTerminated(f"task {task_id} is {status.status}")
            try:
                return self._send_kill(task_id, budget)
            except Transient as exc:
                lost = exc
                log.info("kill %s: %s; its status is read before another try", task_id, exc)
            pause_s = max(lost.retry_after_s or 0.0, KILL_PAUSE_S * random.uniform(0.75, 1.25))
            if pause_s >= budget.remaining_s:
                break
            time.sleep(pause_s)
        raise Unavailable(f"kill {task_id}: no answer from the API ({lost})") from lost

    def _send_kill(self, task_id: str, budget: Budget) -> TaskStatus:
        """Send one kill request; Transient where nobody knows whether it arrived."""
        path = f"/tasks/{quote(task_id, safe='')}/kill"
        try:
            answer = self._attempt("POST", path, _Status, budget)
        except (AccessDenied, NotFound):
            raise
        except BadAnswer as exc:
            status = self._get_status(task_id, budget)
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
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        params: Any = None,
        json: Any = None,
        budget: Budget | None = None,
    ) -> T:
        """Return the answer to one call, decoded as *kind*, retried while that may help."""
        return self._transport.run_with_retries(
            lambda budget: self._attempt(method, path, kind, budget, params=params, json=json),
            budget,
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
        label = f"{method} {path}"
        response = self._transport.send(
            label, method, self._base + path, budget, params=params, json=json
        )
        body = bytearray()
        self._transport.receive(label, response, budget, body, MAX_ANSWER)
        if len(body) > MAX_ANSWER:
            raise BadAnswer(f"{label}: an answer of more than {MAX_ANSWER >> 20} MiB")
        if response.status_code in (404, 410):
            detail = _detail(body)
            if detail and _ONE_TASK.match(path):
                raise NotFound(f"{label}: {detail}")
            # A proxy that lost sight of the API says 404 too: it must not look like an empty
            # listing or a task that is gone.
            text = f"{label}: {response.status_code}, which is not the task API's own answer"
            raise Transient(BadAnswer(text), max_tries=2)
        if 300 <= response.status_code < 400:
            text = f"{label}: {response.status_code}, which leads nowhere"
            raise Transient(BadAnswer(text), max_tries=2)
        if response.status_code >= 400:
            raise error_for_status(label, response.status_code, _detail(body) or response.reason)
        try:
            return msgspec.json.decode(body, type=kind)
        except NOT_JSON as exc:
            with contextlib.suppress(*NOT_JSON):
                return msgspec.json.decode(mend_json(body), type=kind)
            # A page of HTML from a proxy may be gone a moment later; wrong JSON stays wrong.
            error = BadAnswer(f"{label}: the answer is not what the API promises ({exc})")
            raise Transient(error, max_tries=2) from exc


def _task_status(task_id: str, answer: _Status) -> TaskStatus:
    queue = answer.position_in_queue
    ahead = queue.get("tasks_ahead") if isinstance(queue, dict) else None
    return TaskStatus(
        id=task_id,
        status=answer.status,
        is_terminated=answer.is_terminated is True,
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
