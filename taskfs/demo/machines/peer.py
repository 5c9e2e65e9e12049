"""One connection of a machine: its end of the data channels, with aiortc."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from taskfs.demo.machines.faults import MachineFault, MachineFaults
from taskfs.demo.machines.files import OutputFiles
from taskfs.demo.machines.tracker import ErrorStatus, NoAnswer, operation

if TYPE_CHECKING:
    from aiortc import RTCDataChannel, RTCPeerConnection

LATE_POLL_S = 0.01  # between two looks whether a late answer is due
FOLLOW_S = 1.0  # between two answers to a question that follows a file


class Peer:
    """Answers the questions of one client, in the cloud's event loop.

    The client may open several channels; each handles one question after the other. As in the real
    tracker, closing one channel closes the whole connection.
    """

    def __init__(
        self,
        task_id: str,
        files: OutputFiles,
        faults: MachineFaults,
        note: Callable[[dict[str, Any]], None],
    ) -> None:
        import aiortc

        for name in ("aiortc", "aioice"):
            # At lower levels, they log session descriptions.
            logging.getLogger(name).setLevel(logging.WARNING)
        self._task_id = task_id
        self._files = files
        self._faults = faults
        self._note = note
        self._work: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Future[None] | None = None
        # No ICE server is needed, because both ends are on this machine.
        self._connection: RTCPeerConnection = aiortc.RTCPeerConnection(
            aiortc.RTCConfiguration(iceServers=[])
        )
        self._connection.on("datachannel", self._on_channel)

    @property
    def is_closed(self) -> bool:
        return self._connection.connectionState in ("closed", "failed")

    async def answer(self, sdp: str) -> str:
        """Accept the client's offer and return the session description of this end."""
        import aiortc

        offer = aiortc.RTCSessionDescription(sdp=sdp, type="offer")
        await self._connection.setRemoteDescription(offer)
        self._gather_on_loopback()
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        return str(self._connection.localDescription.sdp)

    def _gather_on_loopback(self) -> None:
        """Offer the loopback address, which aioice leaves out, if this machine has no other."""
        assert self._connection.sctp is not None
        ice: Any = self._connection.sctp.transport.transport._connection
        gather = ice.get_component_candidates

        def gather_or_loopback(component: int, addresses: list[str]) -> Any:
            return gather(component, addresses or ["127.0.0.1"])

        ice.get_component_candidates = gather_or_loopback

    async def close(self) -> None:
        """Close all channels and the connection."""
        if self._closing is None:
            for task in self._work - {asyncio.current_task()}:
                task.cancel()
            # One task for all callers, because aiortc's close never returns after a cancellation.
            self._closing = asyncio.ensure_future(self._connection.close())
        await asyncio.shield(self._closing)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        channel.on("message", lambda text: self._start(self._respond(channel, text)))
        channel.on("close", self._on_close)

    def _on_close(self) -> None:
        if self._closing is None:
            self._start(self.close())

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # as in the tracker, a question that fails gets no answer

    async def _respond(self, channel: RTCDataChannel, text: str) -> None:
        question = json.loads(text)
        self._note(question)
        fault = self._faults.take(str(question.get("type")))
        if fault is not None and await self._inject(channel, fault):
            return
        extra = "x" * fault.size if fault and fault.kind == "oversize" else ""
        try:
            pending = operation(question, self._task_id, self._files, asyncio.sleep)
        except ErrorStatus as exc:
            _send(channel, exc.status, str(exc))
            return
        status, message = "success", None
        while channel.readyState == "open":
            try:
                message = await pending.execute()
                if extra:
                    message = [extra, *message]
            except ErrorStatus as exc:
                status, message = exc.status, str(exc)
            except NoAnswer:
                if message is not None:  # the last message is repeated, and then none follows
                    _send(channel, status, message)
                return
            if message is not None:
                _send(channel, status, message)
            if question.get("follow") is not True:
                return
            await asyncio.sleep(FOLLOW_S)

    async def _inject(self, channel: RTCDataChannel, fault: MachineFault) -> bool:
        """Apply a fault; return whether it replaces the answer."""
        if fault.kind == "late":
            until_s = time.monotonic() + fault.seconds
            while not fault.released.is_set() and time.monotonic() < until_s:
                await asyncio.sleep(LATE_POLL_S)
        elif fault.kind == "nonsense":
            channel.send(fault.text)
        elif fault.kind == "goodbye":
            await self.close()
        elif fault.kind == "vanish":
            await channel.transport.transport.transport.stop()
        elif fault.kind == "oversize":
            # aiortc before 1.16 ignores the limit in the same way.
            channel.transport._remote_max_message_size = 0
        return fault.kind not in ("late", "oversize")


def _send(channel: RTCDataChannel, status: str, message: Any) -> None:
    """Send an answer. ValueError, and so no answer, if it exceeds the client's size limit."""
    channel.send(json.dumps({"status": status, "message": message}))
