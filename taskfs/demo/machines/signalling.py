"""Signalling: the API calls with which client and machine exchange session descriptions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from taskfs.demo.account import Account
from taskfs.demo.endpoint import (
    CloudResponse,
    ErrorResponse,
    Responder,
    bytes_response,
    json_response,
)
from taskfs.demo.machines.files import Clock, GrowingFiles, OutputFiles, Run, WrittenFiles
from taskfs.demo.machines.machine import Machine

# Seconds for which a request for a message waits for one: by default, and at most.
DEFAULT_LONG_POLL_S: Final = 10
MAX_LONG_POLL_S: Final = 60
# The statuses in which a machine runs the tracker.
RUNNING: Final = frozenset({"computation-started", "computation-ended", "pending-kill"})


class MachineTable:
    """The mailboxes, and a machine for each running task, in the cloud's event loop.

    Any thread may call `machine`.
    """

    def __init__(self, account: Account, clock: Clock) -> None:
        self._account = account
        self._clock = clock
        self._mailboxes: dict[tuple[str, str], asyncio.Queue[dict[str, Any]]] = {}
        self._machines: dict[str, Machine] = {}
        self._growing: dict[str, tuple[Run, GrowingFiles]] = {}

    def routes(self) -> list[tuple[str, str, Responder]]:
        return [
            ("POST", "/tasks/{id}/register", self._register),
            ("POST", "/tasks/{id}/offer", self._offer),
            ("GET", "/tasks/{id}/message", self._message),
        ]

    def machine(self, task_id: str) -> Machine:
        """Return the machine of a task, running or not."""
        return self._machines.setdefault(task_id, Machine(task_id))

    def written(self, task_id: str) -> WrittenFiles:
        """Return writable files for a task's machine; they replace its other files."""
        machine = self.machine(task_id)
        if machine.written is None:
            machine.written = WrittenFiles(self._clock)
        return machine.written

    async def close(self) -> None:
        for machine in self._machines.values():
            await machine.close()

    def _files(self, task_id: str) -> OutputFiles | None:
        """Return the files of a task; None if it is not running."""
        task = self._account.get(task_id)
        if task is None or task.status not in RUNNING:
            return None
        if (written := self.machine(task_id).written) is not None:
            return written
        run = self._account.run_of(task)
        if run is None:
            return self.written(task_id)
        if task_id not in self._growing:
            self._growing[task_id] = run, GrowingFiles(run, self._clock)
        return self._growing[task_id][1]

    def _mailbox(self, task_id: str, client: str) -> asyncio.Queue[dict[str, Any]]:
        return self._mailboxes.setdefault((task_id, client), asyncio.Queue())

    def _require_task(self, request: web.Request) -> str:
        task_id = request.match_info["id"]
        if self._account.get(task_id) is None:
            raise ErrorResponse(json_response({"detail": f"Task {task_id} was not found."}, 404))
        return task_id

    async def _register(self, request: web.Request) -> CloudResponse:
        task_id = self._require_task(request)
        self._mailbox(task_id, (await _fields(request, "sender_id"))["sender_id"])
        return json_response(None)

    async def _offer(self, request: web.Request) -> CloudResponse:
        task_id = self._require_task(request)
        message = await _fields(request, "sender_id", "receiver_id", "type", "sdp")
        offers = self._mailbox(task_id, message["receiver_id"])
        offers.put_nowait(message)
        if message["receiver_id"] == task_id and self._files(task_id) is not None:
            self.machine(task_id).start(
                offers,
                lambda client, answer: self._mailbox(task_id, client).put_nowait(
                    {"sender_id": task_id, "receiver_id": client, **answer}
                ),
                self._files_function(task_id),
            )
        return json_response(None)

    def _files_function(self, task_id: str) -> Callable[[], OutputFiles | None]:
        return lambda: self._files(task_id)

    async def _message(self, request: web.Request) -> CloudResponse:
        task_id = self._require_task(request)
        client = request.query.get("client")
        block = request.query.get("block_s", str(DEFAULT_LONG_POLL_S))
        if client is None or not block.isdecimal() or int(block) > MAX_LONG_POLL_S:
            raise _invalid("client" if client is None else "block_s")
        mailbox = self._mailbox(task_id, client)
        try:
            message = await asyncio.wait_for(mailbox.get(), max(int(block), 0.01))
        except asyncio.TimeoutError:
            return bytes_response(204, b"", {})
        if client != task_id and mailbox.empty():  # the client of one connection
            self._mailboxes.pop((task_id, client), None)
        return json_response(message)


async def _fields(request: web.Request, *names: str) -> dict[str, str]:
    """Return the named fields of the JSON body, which must be strings."""
    try:
        given = json.loads(await request.read())
    except ValueError:
        raise _invalid("body") from None
    for name in names:
        if not isinstance(given, dict) or not isinstance(given.get(name), str):
            raise _invalid(name)
    return {name: given[name] for name in names}


def _invalid(name: str) -> ErrorResponse:
    problem = {"loc": ["body", name], "msg": f"{name} is missing or wrong", "type": "value_error"}
    return ErrorResponse(json_response({"detail": [problem]}, 422))
