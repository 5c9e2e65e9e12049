"""The embedded cloud as one object, which starts, stops and changes it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Final, TypeVar

from taskfs.demo.account import Account
from taskfs.demo.api import TaskEndpoint
from taskfs.demo.endpoint import FaultHook, RequestRecord, bind
from taskfs.demo.machines.files import WrittenFiles
from taskfs.demo.machines.machine import Machine
from taskfs.demo.machines.signalling import MachineTable
from taskfs.demo.objects import CloudObject
from taskfs.demo.sources import ByteSource
from taskfs.demo.store import StoreEndpoint

_MAX_RECORDS: Final = 100_000  # requests that are remembered; the oldest go first
_Cloud = TypeVar("_Cloud", bound="EmbeddedCloud")


class EmbeddedCloud:
    """The task API and its store on two loopback ports, served by one daemon thread.

    Port 0 means any free port; the key is random by default. No thread and no socket exists before
    `start` and after `stop`. Any thread may call any method; changes are in effect on return.

    `account` has the tasks. `api` and `store` are the two endpoints (`latency_s`,
    `bandwidth_per_connection`; the store's `leaked_keys`).
    """

    def __init__(
        self,
        *,
        api_port: int = 0,
        store_port: int = 0,
        key: str | None = None,
        clock: Callable[[], float] = time.time,
        populate: bool = True,
        faults: FaultHook | None = None,
    ) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=_MAX_RECORDS)
        self.account = Account(clock)
        self.store = StoreEndpoint(self.account.objects, clock, self._records, faults)
        self._machines = MachineTable(self.account, clock)
        self.api = TaskEndpoint(
            self.account, self.store, self._machines, key, self._records, faults
        )
        self._ports = (api_port, store_port)
        self._populate = populate
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the server; return once both ports accept connections.

        Raises:
            OSError: a port is in use.
        """
        listeners: list[socket.socket] = []
        try:
            for port in self._ports:
                listeners.append(bind(port))
        except OSError:
            for listener in listeners:
                listener.close()
            raise
        if self._populate:
            self.account.populate()
            self._populate = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="embedded-cloud", daemon=True
        )
        self._thread.start()
        for endpoint, listener in zip((self.api, self.store), listeners, strict=True):
            self._run(endpoint.listen(listener))

    def stop(self) -> None:
        """Reset all connections and end the thread; do nothing if it does not run."""
        if self._loop is None or self._thread is None:
            return
        self._run(self._machines.close())
        for endpoint in (self.api, self.store):
            self._run(endpoint.close())
        self._run(_cancel_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def __enter__(self: _Cloud) -> _Cloud:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api.port}"

    @property
    def api_key(self) -> str:
        return self.api.key

    def rotate_key(self, key: str | None = None) -> str:
        """Replace the key by *key*, or by a random one; return it. The old key gets a 401."""
        self.api.rotate_key(key)
        return self.api.key

    @property
    def url_lifetime_s(self) -> float:
        """The lifetime of URLs that are signed from now on."""
        return self.store.url_lifetime_s

    @url_lifetime_s.setter
    def url_lifetime_s(self, seconds: float) -> None:
        self.store.url_lifetime_s = seconds

    # Tasks and objects.

    def statuses(self) -> dict[str, str]:
        """Return the current status of each task by its id, newest first."""
        return {task.id: task.status for task in self.account.newest_first()}

    def add_task(
        self,
        id: str | None = None,
        *,
        status: str = "success",
        outputs: Mapping[str, bytes] | None = None,
        **fields: Any,
    ) -> str:
        """Add a task that stays in *status*; return its id. See `Account.add_task`."""
        return self.account.add_task(id, status=status, outputs=outputs, **fields)

    def set_status(self, id: str, status: str) -> None:
        """Begin *status* now and set the times that belong to it. Raises KeyError."""
        self.account.set_status(id, status)

    def update_task(self, id: str, **fields: Any) -> None:
        """Override *fields* of the task's JSON. Raises KeyError."""
        self.account.update_task(id, **fields)

    def remove_task(self, id: str) -> None:
        """Remove a task and its archives. Raises KeyError."""
        self.account.remove_task(id)

    def put_object(self, path: str, content: bytes | ByteSource) -> str:
        """Store an object, such as `<task id>/output.zip`, or a new version; return its ETag."""
        return self.account.put_object(path, content)

    def remove_object(self, path: str) -> None:
        """Remove an object, or all beneath a path that ends in `/`."""
        self.account.remove_object(path)

    def get_object(self, path: str) -> CloudObject | None:
        """Return the current object at *path*, without a request."""
        return self.account.objects.get(path)

    def signed_url(self, path: str) -> str:
        """Return a signed URL like those of the API, without a request."""
        return self.store.signed_url(path)

    def expire_urls(self) -> None:
        """Expire all URLs signed so far: the store answers 400."""
        self.store.expire_urls()

    def revoke_urls(self) -> None:
        """Revoke all URLs signed so far: the store answers 403."""
        self.store.revoke_urls()

    def machine(self, id: str) -> Machine:
        """Return the machine of a task: its faults, and the questions that it received."""
        return self._machines.machine(id)

    def machine_files(self, id: str) -> WrittenFiles:
        """Return writable files for the machine of a task; they replace its earlier files."""
        return self._machines.written(id)

    def hang_up(self, id: str) -> None:
        """Close all connections to the machine of a task."""
        self._run(self._machines.machine(id).hang_up())

    # The request log.

    @property
    def killed(self) -> list[str]:
        """The task id of each accepted kill request, in order."""
        return list(self.account.killed)

    @property
    def requests(self) -> list[RequestRecord]:
        """The latest requests to both ports, in order of arrival."""
        return list(self._records)

    def clear_requests(self) -> None:
        self._records.clear()

    # Outages.

    def pause(self, side: str | None = None) -> None:
        """Refuse new connections and reset open ones, on both sides or only on *side*."""
        for endpoint in self._sides(side):
            self._run(endpoint.pause())

    def resume(self) -> None:
        """Accept connections again, on the same ports."""
        for endpoint in self._sides(None):
            self._run(endpoint.resume())

    def _sides(self, side: str | None) -> list[TaskEndpoint | StoreEndpoint]:
        sides: dict[str, TaskEndpoint | StoreEndpoint] = {"api": self.api, "store": self.store}
        return list(sides.values()) if side is None else [sides[side]]

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None, "the cloud is not started"
        asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _cancel_tasks() -> None:
    """Cancel the remaining tasks of the event loop, such as those of lost connections."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
