"""The task API of the embedded cloud, as the public client (`inductiva` 0.18.12) expects it."""

from __future__ import annotations

import hmac
import json
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiohttp import web

from taskfs.demo.account import Account
from taskfs.demo.endpoint import (
    API_KEY_HEADER,
    CloudResponse,
    Endpoint,
    ErrorResponse,
    FaultHook,
    RequestRecord,
    Responder,
    encoded_json_response,
    json_response,
)
from taskfs.demo.machines.signalling import MachineTable
from taskfs.demo.profile import PROFILE_RESPONSES
from taskfs.demo.storage import StorageCalls
from taskfs.demo.store import StoreEndpoint
from taskfs.demo.tasks import STATUSES, CloudTask, iso

MAX_PER_PAGE: Final = 500  # tasks of one page; the service refuses more
_SORT_KEYS: Final[dict[str, Callable[[CloudTask], Any]]] = {
    "create_time": lambda task: task.created,
    "status": lambda task: task.status,
    "simulator": lambda task: task.simulator,
    "project": lambda task: task.project,
    "task_id": lambda task: task.id,
}


class TaskEndpoint(Endpoint):
    """Serve the account to requests with its key."""

    def __init__(
        self,
        account: Account,
        store: StoreEndpoint,
        machines: MachineTable,
        key: str | None,
        records: deque[RequestRecord],
        faults: FaultHook | None,
    ) -> None:
        self.key = ""
        self.rotate_key(key)
        self._account = account
        storage = StorageCalls(account, store)
        private: list[tuple[str, str, Responder]] = [
            ("GET", "/tasks", self._list),
            ("GET", "/tasks/{id}", self._task),
            ("GET", "/tasks/{id}/status", self._status),
            ("POST", "/tasks/{id}/kill", self._kill),
            ("GET", "/tasks/{id}/metadata", self._metadata),
            ("PUT", "/tasks/{id}/metadata", self._change_metadata),
            ("PATCH", "/tasks/{id}/metadata", self._change_metadata),
            ("GET", "/projects", self._projects),
            ("POST", "/projects", self._create_project),
            ("GET", "/projects/{name}", self._project),
            ("POST", "/projects/{name}/task/{id}/add", self._add_to_project),
            *machines.routes(),
            *storage.routes(),
        ]
        public: list[tuple[str, str, Responder]] = [("*", "/{path:.*}", _not_found)]
        for path, (needs_key, value) in PROFILE_RESPONSES.items():
            (private if needs_key else public).insert(0, ("GET", path, _constant(value)))
        routes = [(method, path, self._require_key(respond)) for method, path, respond in private]
        super().__init__("api", routes + public, records, faults)

    def rotate_key(self, key: str | None) -> None:
        """Replace the key by *key*, or by a random one of `[A-Za-z0-9_-]`."""
        self.key = key or secrets.token_urlsafe(24)

    def _require_key(self, respond: Responder) -> Responder:
        async def guarded(request: web.Request) -> CloudResponse:
            given = request.headers.get(API_KEY_HEADER, "")
            if not hmac.compare_digest(given.encode(), self.key.encode()):
                raise error_response(401, "Invalid API key." if given else "Not authenticated.")
            return await respond(request)

        return guarded

    def _requested_task(self, request: web.Request) -> CloudTask:
        task = self._account.get(request.match_info["id"])
        if task is None:
            raise error_response(404, f"Task {request.match_info['id']} was not found.")
        return task

    async def _list(self, request: web.Request) -> CloudResponse:
        page = _integer(request, "page", 1, 1, None)
        per_page = _integer(request, "per_page", 10, 1, MAX_PER_PAGE)
        tasks = self._filter_tasks(request)
        first = (page - 1) * per_page
        shown = self._account.json(tasks[first : first + per_page])
        return encoded_json_response(
            [b'{"total_size":%d,"tasks":[' % len(tasks), b",".join(shown), b"]}"]
        )

    def _filter_tasks(self, request: web.Request) -> Sequence[CloudTask]:
        """Return the tasks that match the filters of the query, in its sort order."""
        tasks = self._account.newest_first()
        query = request.query
        statuses = {s for text in query.getall("status", []) for s in text.split(",")}
        if unknown := statuses - STATUSES.keys() - {task.status for task in tasks if statuses}:
            raise invalid("status", f"{min(unknown)} is not a valid status", "enum")
        if statuses:
            tasks = [task for task in tasks if task.status in statuses]
        if "project" in query:
            tasks = [task for task in tasks if task.project == query["project"]]
        if "active" in query:
            active = query["active"].lower() in ("true", "1", "yes", "on")
            tasks = [task for task in tasks if task.is_terminated is not active]
        if "task_id_filter" in query:
            tasks = [task for task in tasks if query["task_id_filter"] in task.id]
        for term in reversed(query.getall("sort", [])):
            name, _, order = term.partition(":")
            if name not in _SORT_KEYS or order not in ("", "asc", "desc"):
                raise invalid("sort", f"cannot sort by {term}", "value_error")
            if (name, order) != ("create_time", "desc"):  # the order that they have already
                tasks = sorted(tasks, key=_SORT_KEYS[name], reverse=order == "desc")
        return tasks

    async def _task(self, request: web.Request) -> CloudResponse:
        return json_response(self._account.record(self._requested_task(request)))

    async def _status(self, request: web.Request) -> CloudResponse:
        return self._status_response(self._requested_task(request))

    def _status_response(self, task: CloudTask) -> CloudResponse:
        ahead = self._account.tasks_ahead(task)
        return json_response(
            {
                "id": task.id,
                "status": task.status,
                "position_in_queue": None if ahead is None else {"tasks_ahead": ahead},
                "is_terminated": task.is_terminated,
            }
        )

    async def _kill(self, request: web.Request) -> CloudResponse:
        task = self._requested_task(request)
        if not self._account.kill(task):
            raise error_response(
                400, f"Task {task.id} is already in a terminal state: {task.status}."
            )
        return self._status_response(task)

    async def _metadata(self, request: web.Request) -> CloudResponse:
        return json_response(self._requested_task(request).metadata)

    async def _change_metadata(self, request: web.Request) -> CloudResponse:
        task = self._requested_task(request)
        given = await _json_body(request)
        if not isinstance(given, dict):
            raise invalid("body", "Input should be a valid dictionary", "dict_type")
        for key, value in given.items():
            if not key or not isinstance(value, str) or not value:
                raise invalid(key, "Keys and values must be non-empty strings", "string_type")
        self._account.set_metadata(task, given, replace=request.method == "PUT")
        return json_response(task.metadata)

    async def _projects(self, request: web.Request) -> CloudResponse:
        projects = self._account.projects()
        return json_response([_project_json(name, *about) for name, about in projects.items()])

    async def _create_project(self, request: web.Request) -> CloudResponse:
        given = await _json_body(request)
        name = given.get("name") if isinstance(given, dict) else None
        if not isinstance(name, str) or not 1 <= len(name) <= 128:
            raise invalid("name", "String should have 1 to 128 characters", "string_type")
        self._account.add_to_project(name)
        return json_response(_project_json(name, *self._account.projects()[name]))

    async def _project(self, request: web.Request) -> CloudResponse:
        name = request.match_info["name"]
        about = self._account.projects().get(name)
        if about is None:
            raise error_response(404, f"Project {name} was not found.")
        return json_response(_project_json(name, *about))

    async def _add_to_project(self, request: web.Request) -> CloudResponse:
        self._account.add_to_project(request.match_info["name"], self._requested_task(request))
        return json_response(None)


def error_response(status: int, detail: str) -> ErrorResponse:
    return ErrorResponse(json_response({"detail": detail}, status))


def invalid(name: str, message: str, kind: str) -> ErrorResponse:
    """Return the 422 response for an invalid parameter, in the format of FastAPI."""
    problem = {"loc": ["query", name], "msg": message, "type": kind}
    return ErrorResponse(json_response({"detail": [problem]}, 422))


async def _not_found(request: web.Request) -> CloudResponse:
    raise error_response(404, "Not Found")


def _constant(value: Any) -> Responder:
    async def constant(request: web.Request) -> CloudResponse:
        return json_response(value)

    return constant


async def _json_body(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError:
        raise invalid("body", "JSON decode error", "json_invalid") from None


def _integer(
    request: web.Request, name: str, default: int, lowest: int, highest: int | None
) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal():
        raise invalid(name, "Input should be a valid integer", "int_parsing")
    if int(text) < lowest or (highest is not None and int(text) > highest):
        raise invalid(name, f"Input should be from {lowest} to {highest or 'any'}", "value_error")
    return int(text)


def _project_json(name: str, created: float, tasks: Sequence[CloudTask]) -> dict[str, Any]:
    overview: dict[str, int] = {}
    for task in tasks:
        overview[task.status] = overview.get(task.status, 0) + 1
    return {
        "name": name,
        "project_type": "project",
        "id": f"project-{name}",
        "created_at": iso(created),
        "num_tasks": len(tasks),
        "estimated_computation_cost": 0.0,
        "total_orchestration_fee": 0.01 * len(tasks),
        "total_orchestration_fee_undiscounted": 0.01 * len(tasks),
        "task_status_overview": overview,
        "project_metadata": {},
        "statistics": None,
    }
