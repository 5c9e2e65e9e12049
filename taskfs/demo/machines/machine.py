"""The machine of one task: it accepts offers of connections and answers questions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from taskfs.demo.machines.faults import MachineFaults
from taskfs.demo.machines.files import OutputFiles, WrittenFiles

_STATUS_POLL_S: Final = 0.5  # between two checks of whether the task still runs
_MAX_QUESTIONS: Final = 10_000  # that are remembered for tests


class Machine:
    """A machine with its files, its faults, and the questions that it received.

    With `ignores_offers`, no connection is made. `written` is None while the run itself writes
    the files.
    """

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.faults = MachineFaults()
        self.ignores_offers = False
        self.written: WrittenFiles | None = None
        self.questions: list[dict[str, Any]] = []
        self.connections = 0
        self._peers: list[Any] = []
        self._worker: asyncio.Task[None] | None = None

    @property
    def open_connections(self) -> int:
        return sum(not peer.is_closed for peer in self._peers)

    def _note(self, question: dict[str, Any]) -> None:
        if len(self.questions) < _MAX_QUESTIONS:
            self.questions.append(question)

    def start(
        self,
        offers: asyncio.Queue[dict[str, Any]],
        reply: Callable[[str, dict[str, Any]], None],
        files: Callable[[], OutputFiles | None],
    ) -> None:
        """Start accepting offers; *files* returns None once the task has ended."""
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._serve(offers, reply, files))

    async def close(self) -> None:
        """Close all connections and stop accepting offers."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
        await self.hang_up()

    async def hang_up(self) -> None:
        """Close all connections."""
        peers, self._peers = self._peers, []
        for peer in peers:
            await peer.close()

    async def _serve(
        self,
        offers: asyncio.Queue[dict[str, Any]],
        reply: Callable[[str, dict[str, Any]], None],
        files: Callable[[], OutputFiles | None],
    ) -> None:
        while (source := files()) is not None:
            for peer in [peer for peer in self._peers if peer.is_closed]:
                self._peers.remove(peer)
                await peer.close()  # a failed connection still has tasks
            try:
                offer = await asyncio.wait_for(offers.get(), _STATUS_POLL_S)
            except asyncio.TimeoutError:
                continue
            if self.ignores_offers:
                continue
            try:
                from taskfs.demo.machines.peer import Peer

                peer = Peer(self.task_id, source, self.faults, self._note)
            except ImportError:  # aiortc is not installed: the machine never answers
                continue
            self._peers.append(peer)
            self.connections += 1
            with contextlib.suppress(Exception):  # an invalid offer, or hung up in the meantime
                answer = await peer.answer(offer["sdp"])
                reply(offer["sender_id"], {"type": "answer", "sdp": answer})
        await self.hang_up()
