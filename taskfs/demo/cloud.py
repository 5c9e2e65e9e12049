"""The embedded cloud as one object: started and stopped, and changed under way by tests."""

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
from taskfs.demo.objects import CloudObject
from taskfs.demo.sources import ByteSource
from taskfs.demo.store import StoreEndpoint

_MAX_RECORDS: Final = 100_000
_Cloud = TypeVar("_Cloud", bound="EmbeddedCloud")


class EmbeddedCloud:
    """The task API and its store on two loopback ports, served by one daemon thread.

    There is neither thread nor socket before `start` and after `stop`. Every method may be called
    by any thread; methods that change what is there have done so when they return.

    `api` and `store` are the two endpoints (`latency_s`, `bandwidth_per_connection`; the store's
    `leaked_keys`).
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
        self._account = Account(clock)
        self.store = StoreEndpoint(self._account.objects, clock, self._records, faults)
        self.api = TaskEndpoint(self._account, self.store, key, self._records, faults)
        self._ports = (api_port, store_port)
        self._populate = populate
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Serve; return once both ports accept connections.

        Raises:
            OSError: a port is taken.
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
            self._account.populate()
            self._populate = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="embedded-cloud", daemon=True
        )
        self._thread.start()
        for endpoint, listener in zip((self.api, self.store), listeners, strict=True):
            self._run(endpoint.listen(listener))

    def stop(self) -> None:
        """Cut all connections and end the thread; nothing happens where it does not run."""
        if self._loop is None or self._thread is None:
            return
        for endpoint in (self.api, self.store):
            self._run(endpoint.close())
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
        """Replace the key, by a random one unless given; return it. The old one is worth a 401."""
        self.api.rotate_key(key)
        return self.api.key

    @property
    def url_lifetime_s(self) -> float:
        """How long URLs signed from now on are good for."""
        return self.store.url_lifetime_s

    @url_lifetime_s.setter
    def url_lifetime_s(self, seconds: float) -> None:
        self.store.url_lifetime_s = seconds

    # What is there.

    def statuses(self) -> dict[str, str]:
        """Return the present status of each task by its id, newest first."""
        return {task.id: task.status for task in self._account.newest_first()}

    def add_task(
        self,
        id: str | None = None,
        *,
        status: str = "success",
        outputs: Mapping[str, bytes] | None = None,
        **fields: Any,
    ) -> str:
        """Add a task that stays as it is; return its id. See `Account.add_task` for *fields*."""
        return self._account.add_task(id, status=status, outputs=outputs, **fields)

    def set_status(self, id: str, status: str) -> None:
        """Let *status* begin now, with the times that go with it. Raises KeyError."""
        self._account.set_status(id, status)

    def update_task(self, id: str, **fields: Any) -> None:
        """Let the task's JSON say *fields* from now on. Raises KeyError."""
        self._account.update_task(id, **fields)

    def remove_task(self, id: str) -> None:
        """Remove a task and its archives. Raises KeyError."""
        self._account.remove_task(id)

    def put_object(self, path: str, content: bytes | ByteSource) -> str:
        """Store an object, such as `<task id>/output.zip`, or a new version; return its ETag."""
        return self._account.put_object(path, content)

    def remove_object(self, path: str) -> None:
        """Remove an object, or all beneath a path that ends in `/`."""
        self._account.remove_object(path)

    def get_object(self, path: str) -> CloudObject | None:
        """Return the object at *path* as it is now, without a request."""
        return self._account.objects.get(path)

    def signed_url(self, path: str) -> str:
        """Return a URL as the API gives it, without a request."""
        return self.store.signed_url(path)

    def expire_urls(self) -> None:
        """Let all URLs signed so far be expired (400)."""
        self.store.expire_urls()

    def revoke_urls(self) -> None:
        """Let all URLs signed so far be forbidden (403)."""
        self.store.revoke_urls()

    # What was asked for.

    @property
    def killed(self) -> list[str]:
        """The task of each kill request that was accepted, in order."""
        return list(self._account.killed)

    @property
    def requests(self) -> list[RequestRecord]:
        """The latest requests to both ports, in the order they came."""
        return list(self._records)

    def clear_requests(self) -> None:
        self._records.clear()

    # Whether it answers.

    def pause(self, side: str | None = None) -> None:
        """Refuse connections and cut those there are, on both sides or on *side* alone."""
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
