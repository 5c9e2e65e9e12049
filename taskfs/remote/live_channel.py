"""The data channels to the machines of running tasks, with a synchronous interface.

One event loop in one daemon thread serves all tasks. Both start with the first question, and so
does the import of aiortc.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from taskfs.errors import Unavailable
from taskfs.remote.live_connection import LiveConnection, require_aiortc, wait_closed
from taskfs.remote.live_messages import Answer, Question, SilenceProbe
from taskfs.remote.live_servers import IceServer
from taskfs.remote.live_signalling import SignallingAPI, exchange_descriptions
from taskfs.remote.live_task import TaskConnection
from taskfs.remote.live_threads import in_thread
from taskfs.support.interruptible_wait import Waiter

log = logging.getLogger(__name__)

# In seconds: how long an unused connection stays open, and how long one may take to be set up. Half
# of a minute covers the pauses of a program that looks again and again, and a slow TURN server.
IDLE_TIME_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 30.0
# In seconds: longest time for one answer once there is a connection. A machine that computes may
# take some seconds; 4 MiB take about one second of the reader's CPU.
QUESTION_TIMEOUT_S: Final = 10.0
# In seconds: wait this long for the STUN server before the offer is sent without it.
SERVER_WAIT_S: Final = 0.3
# In seconds after the machine's answer: a connection without the STUN server that is not open by
# then has failed.
HOST_ONLY_S: Final = 5.0
# In seconds: wait this long for the probe of the server before a second offer.
SECOND_PROBE_S: Final = 3.0
# In seconds: `close` waits this long for the connections, and as long again for the thread.
CLOSE_S: Final = 3.0


class LiveChannels:
    """The connections to the machines of all tasks. Safe for concurrent use.

    The lock guards the loop and the table of tasks, and is never held across a wait. There is
    neither thread nor connection before the first question, nor after `close`; a later question
    starts new ones. After fork(2) the child starts with none.
    """

    def __init__(
        self,
        signalling: SignallingAPI,
        *,
        idle_time_s: float = IDLE_TIME_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        question_timeout_s: float = QUESTION_TIMEOUT_S,
        turn_server: str | None = None,
    ) -> None:
        self._signalling = signalling
        self.idle_time_s = idle_time_s
        self.connect_timeout_s = connect_timeout_s
        self.question_timeout_s = question_timeout_s
        self._turn_server = turn_server
        self._inherited: tuple[object, ...] = ()
        self._reset()

    def _reset(self) -> None:
        # After a fork, the parent's connections are kept as they are: their finalizers would act.
        self._inherited = (self.__dict__.get("_loop"), self.__dict__.get("_tasks"))
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: dict[str, TaskConnection] = {}
        self._server: IceServer | None = None

    def machine(self, task_id: str) -> "TaskMachine":
        """Return the machine of a task; this sends no request."""
        return TaskMachine(self, task_id)

    def ask(
        self,
        task_id: str,
        question: Question,
        timeout_s: float,
        interrupted: Callable[[], bool],
        silence_probe: SilenceProbe | None = None,
    ) -> Answer | None:
        """Ask a task's machine; see `LiveMachine.ask`. A new connection is made where needed."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            loop = self._running_loop()
            task = self._tasks.get(task_id) or self._add_task(task_id)
            task.readers += 1
            future = asyncio.run_coroutine_threadsafe(
                task.ask(question, timeout_s, self.question_timeout_s, silence_probe), loop
            )
        try:
            # The coroutine ends in time by itself; a loop that does not run must not hang a reader.
            return Waiter(interrupted).result(future, timeout_s + 1.0)
        except BaseException:
            future.cancel()
            raise
        finally:
            with self._lock:
                task.readers -= 1

    def _add_task(self, task_id: str) -> TaskConnection:
        """Add a task to the table, and drop those that are not connected."""
        connect = partial(self._open, task_id)
        used = {i: each for i, each in self._tasks.items() if each.readers or each.is_connected}
        self._tasks = used | {task_id: TaskConnection(task_id, connect, self.idle_time_s)}
        return self._tasks[task_id]

    def close(self) -> None:
        """Close the connections to all machines and end the thread, within twice `CLOSE_S`."""
        if self._pid != os.getpid():
            return self._reset()
        with self._lock:
            loop, thread, tasks = self._loop, self._thread, list(self._tasks.values())
            self._loop = self._thread = self._server = None
            self._tasks = {}
        if loop is None or thread is None:
            return None
        future = asyncio.run_coroutine_threadsafe(_close_all(tasks), loop)
        with contextlib.suppress(Exception):
            future.result(CLOSE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_S)
        return None

    @property
    def open_connections(self) -> int:
        """The number of connections that are open or being opened."""
        with self._lock:
            return sum(task.is_connected for task in self._tasks.values())

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_exception_handler(_log_exception)
            self._server = IceServer(self._turn_server)
        if self._thread is None:  # also after its start has failed
            thread = threading.Thread(
                target=_run, args=(self._loop,), name="taskfs-live", daemon=True
            )
            thread.start()
            self._thread = thread
        return self._loop

    async def _open(self, task_id: str) -> LiveConnection:
        """Return a new connection to a task's machine. Runs in the loop."""
        require_aiortc()
        deadline_s = time.monotonic() + self.connect_timeout_s
        server = self._server
        urls = await server.urls(SERVER_WAIT_S) if server else []
        try:
            open_timeout_s = self.connect_timeout_s if urls else HOST_ONLY_S
            return await self._connect(task_id, urls, deadline_s, open_timeout_s)
        except _NotOpened:
            late = [] if urls or server is None else await server.urls(SECOND_PROBE_S)
            if not late:
                raise
            return await self._connect(task_id, late, deadline_s, self.connect_timeout_s)

    async def _connect(
        self, task_id: str, urls: list[str], deadline_s: float, open_timeout_s: float
    ) -> LiveConnection:
        connection = LiveConnection(task_id, urls)
        is_answered = False

        async def exchange(offer: str) -> str:
            nonlocal is_answered
            answer = await in_thread(
                lambda abandoned: exchange_descriptions(
                    self._signalling, task_id, offer, deadline_s, abandoned
                ),
                name="taskfs-live-signalling",
            )
            is_answered = True
            return answer

        try:
            remaining_s = deadline_s - time.monotonic()
            opening = connection.open(exchange, min(open_timeout_s, remaining_s))
            await asyncio.wait_for(opening, remaining_s)
        except BaseException as exc:
            connection.close_soon()
            if isinstance(exc, asyncio.TimeoutError):
                raise Unavailable(f"task {task_id}: the machine was not reached in time") from None
            if isinstance(exc, Unavailable) and is_answered:
                raise _NotOpened(str(exc)) from exc
            raise
        log.info("task %s: connected to its machine", task_id)
        return connection


class TaskMachine:
    """The machine of one task, as `LiveMachine`."""

    def __init__(self, channels: LiveChannels, task_id: str) -> None:
        self._channels = channels
        self._task_id = task_id

    def ask(
        self,
        question: Question,
        timeout_s: float,
        interrupted: Callable[[], bool],
        silence_probe: SilenceProbe | None = None,
    ) -> Answer | None:
        return self._channels.ask(self._task_id, question, timeout_s, interrupted, silence_probe)


class _NotOpened(Unavailable):
    """The machine answered the offer, but no channel to it opened."""


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        # A task that has not begun would warn that its coroutine was never awaited.
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()


async def _close_all(tasks: list[TaskConnection]) -> None:
    await asyncio.gather(*(task.close() for task in tasks), return_exceptions=True)
    await wait_closed(CLOSE_S / 2)
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _log_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log the type only: texts of aiortc may hold descriptions of connections."""
    log.debug("in the data channel's loop: %s", type(context.get("exception")).__name__)
