"""One connection of a machine: its end of the data channel, spoken with aiortc."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from taskfs.demo.machines.faults import MachineFault, MachineFaults
from taskfs.demo.machines.files import FileSource
from taskfs.demo.machines.tracker import Refusal, Silence, operation

if TYPE_CHECKING:
    from aiortc import RTCDataChannel, RTCPeerConnection

FOLLOW_SECONDS = 1.0


class Peer:
    """Answers the questions of one client. Lives in the cloud's event loop.

    Every channel that the client opens takes one question after the other. When one channel closes,
    the whole connection closes, as the real tracker has it.
    """

    def __init__(
        self,
        task_id: str,
        files: FileSource,
        faults: MachineFaults,
        note: Callable[[dict[str, Any]], None],
    ) -> None:
        import aiortc

        for name in ("aiortc", "aioice"):
            logging.getLogger(name).setLevel(logging.WARNING)  # below, they log descriptions
        self._task_id = task_id
        self._files = files
        self._faults = faults
        self._note = note
        self._work: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Future[None] | None = None
        # No ICE server: both ends are on this machine.
        self._connection: RTCPeerConnection = aiortc.RTCPeerConnection(
            aiortc.RTCConfiguration(iceServers=[])
        )
        self._connection.on("datachannel", self._on_channel)

    @property
    def is_closed(self) -> bool:
        return self._connection.connectionState in ("closed", "failed")

    async def answer(self, sdp: str) -> str:
        """Take the client's offer and return the description of this end."""
        import aiortc

        offer = aiortc.RTCSessionDescription(sdp=sdp, type="offer")
        await self._connection.setRemoteDescription(offer)
        self._gather_on_loopback()
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        return str(self._connection.localDescription.sdp)

    def _gather_on_loopback(self) -> None:
        """Offer the loopback address where the machine has no other, which aioice leaves out."""
        assert self._connection.sctp is not None
        ice: Any = self._connection.sctp.transport.transport._connection
        gather = ice.get_component_candidates

        def gather_somewhere(component: int, addresses: list[str]) -> Any:
            return gather(component, addresses or ["127.0.0.1"])

        ice.get_component_candidates = gather_somewhere

    async def close(self) -> None:
        """Say goodbye: close all channels and the connection."""
        if self._closing is None:
            for task in self._work - {asyncio.current_task()}:
                task.cancel()
            # One task for all callers: aiortc's own close is never over once it was cancelled.
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
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # a question that fails is never answered

    async def _respond(self, channel: RTCDataChannel, text: str) -> None:
        question = json.loads(text)
        self._note(question)
        fault = self._faults.take(str(question.get("type")))
        if fault is not None and await self._broken(channel, fault):
            return
        extra = "x" * fault.size if fault and fault.kind == "oversize" else ""
        try:
            asked = operation(question, self._task_id, self._files, asyncio.sleep)
        except Refusal as exc:
            _send(channel, exc.status, str(exc))
            return
        status, message = "success", None
        while channel.readyState == "open":
            try:
                message = await asked.execute()
                if extra:
                    message = [extra, *message]
            except Refusal as exc:
                status, message = exc.status, str(exc)
            except Silence:
                if message is not None:  # the last piece is sent again, then nothing more
                    _send(channel, status, message)
                return
            if message is not None:
                _send(channel, status, message)
            if question.get("follow") is not True:
                return
            await asyncio.sleep(FOLLOW_SECONDS)

    async def _broken(self, channel: RTCDataChannel, fault: MachineFault) -> bool:
        """Let a fault happen; return whether it stands for the answer."""
        if fault.kind == "late":
            await asyncio.sleep(fault.seconds)
        elif fault.kind == "nonsense":
            channel.send(fault.text)
        elif fault.kind == "goodbye":
            await self.close()
        elif fault.kind == "vanish":
            await channel.transport.transport.transport.stop()
        elif fault.kind == "oversize":
            # As aiortc before 1.16 has it, which sends any size.
            channel.transport._remote_max_message_size = 0
        return fault.kind not in ("late", "oversize")


def _send(channel: RTCDataChannel, status: str, message: Any) -> None:
    """Send an answer; ValueError, and so silence, where the client announced that it takes less."""
    channel.send(json.dumps({"status": status, "message": message}))
