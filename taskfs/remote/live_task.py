"""The one connection to the machine of a task: opened when asked, shared, closed when idle."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from taskfs.errors import Unavailable
from taskfs.remote.live_connection import LiveConnection
from taskfs.remote.live_messages import Answer, MachineGone, Question, SilenceProbe

log = logging.getLogger(__name__)


class TaskConnection:
    """The one connection of a task, shared by all its readers. Lives in the loop."""

    def __init__(
        self,
        task_id: str,
        connect: Callable[[], Coroutine[Any, Any, LiveConnection]],
        idle_time_s: float,
    ) -> None:
        self._task_id = task_id
        self._connect = connect
        self._idle_time_s = idle_time_s
        self._connection: LiveConnection | None = None
        self._opening: asyncio.Task[LiveConnection] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self.readers = 0  # guarded by the lock of `LiveChannels`

    @property
    def is_connected(self) -> bool:
        return self._connection is not None or self._opening is not None

    async def ask(
        self,
        question: Question,
        timeout_s: float,
        question_timeout_s: float,
        silence_probe: SilenceProbe | None,
    ) -> Answer | None:
        """Ask within *timeout_s*; a question without progress ends after *question_timeout_s*."""
        deadline_s = time.monotonic() + timeout_s
        connection = await self._get(timeout_s)
        self._cancel_idle()
        try:
            longest_s = max(0.0, deadline_s - time.monotonic())
            return await connection.ask(
                question, min(question_timeout_s, longest_s), longest_s, silence_probe
            )
        finally:
            self._after(connection)

    async def _get(self, timeout_s: float) -> LiveConnection:
        """Return the connection; open a new one if there is none that is usable."""
        if self._connection is not None and not self._connection.is_usable:
            old, self._connection = self._connection, None
            if old.in_flight == 0:
                old.close_soon()
            if old.is_gone:  # reported once, because the task may have ended
                raise MachineGone(f"task {self._task_id}: the machine closed the connection")
        if self._connection is not None:
            return self._connection
        deadline_s = time.monotonic() + timeout_s
        while True:
            opening, is_joined = self._opening, self._opening is not None
            if opening is None:
                opening = self._opening = asyncio.ensure_future(self._connect())
                opening.add_done_callback(self._on_opened)
            await asyncio.wait([opening], timeout=max(0.0, deadline_s - time.monotonic()))
            if not opening.done():
                raise Unavailable(f"task {self._task_id}: the machine was not reached in time")
            # An attempt that began before this call may have had less time than this call has.
            failed_early = is_joined and isinstance(opening.exception(), Unavailable)
            if not failed_early:
                return opening.result()
            await asyncio.sleep(0)  # `_on_opened` is called by the loop

    def _on_opened(self, opening: "asyncio.Task[LiveConnection]") -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._connection = opening.result()
            self._after(self._connection)

    def _after(self, connection: LiveConnection) -> None:
        """Close a connection without questions: an unusable one now, others after the idle time."""
        if connection.in_flight:
            return
        if connection is not self._connection or not connection.is_usable:
            if connection is self._connection:
                self._connection = None
            connection.close_soon()
            return
        self._cancel_idle()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._idle_time_s, self._on_idle, connection)

    def _cancel_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _on_idle(self, connection: LiveConnection) -> None:
        self._idle = None  # it refers to the connection
        if connection is self._connection and connection.in_flight == 0:
            self._connection = None
            log.info("task %s: closed the idle connection to its machine", self._task_id)
            connection.close_soon()

    async def close(self) -> None:
        if (opening := self._opening) is not None:
            opening.cancel()
            await asyncio.wait([opening])
        self._cancel_idle()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
