"""One connection to a task's machine: aiortc's data channels, and one question per channel."""

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from taskfs.errors import BadResponse, Unavailable, Unsupported
from taskfs.remote.live_ice import received_bytes, tune
from taskfs.remote.live_messages import (
    Answer,
    MachineGone,
    Question,
    SilenceProbe,
    decode_answer,
    encode_question,
)
from taskfs.support.installation import install_hint

if TYPE_CHECKING:
    from aiortc import RTCDataChannel, RTCPeerConnection

log = logging.getLogger(__name__)

# In bytes: largest message that the offer announces. The machine's aiortc may refuse to send more
# than that, and then never answers. Four times the size that a file question aims at.
MAX_MESSAGE_BYTES: Final = 16 << 20
# Questions in flight per connection, at most: the machine answers them one by one.
MAX_IN_FLIGHT: Final = 8
# In bytes per second: while they arrive faster on the connection, a question may take longer. The
# bytes of all its questions count together, because aiortc hands out whole messages only, and
# answers carry no id: nothing tells to which question they belong.
MIN_RATE: Final = 16_000
# In bytes: no answer that is asked for is longer than this. Once this many have arrived, a question
# gets no more time.
MAX_ARRIVING_BYTES: Final = MAX_MESSAGE_BYTES // 2
# Channels with an unanswered question; with more of them, a new connection replaces this one.
MAX_ABANDONED: Final = 200
# Closed connections between two collections of garbage. aiortc's objects refer to each other in
# circles, and hold 160 KB per connection; the daemon looks for circles rarely by itself.
COLLECT_AFTER: Final = 16
_closing: set["asyncio.Future[None]"] = set()  # a task without a reference may be dropped
_closed_count = itertools.count(1)
# Modules that the packages below aiortc import with a connection.
_IMPORTED_LATE: Final = (
    "aioice.mdns",
    "aioice.turn",
    "cryptography.hazmat.backends.openssl.backend",
    "cryptography.hazmat.primitives.serialization.ssh",
)
_SIZE_LINE: Final = re.compile(r"a=max-message-size:\d+")


class LiveConnection:
    """A connection to one machine. Lives in one event loop, and is used once: open, ask, close.

    A channel is never closed alone, because the machine then closes the whole connection. Answers
    carry no id, so a channel with an unanswered question is not used again.
    """

    def __init__(self, task_id: str, server_urls: Sequence[str]) -> None:
        aiortc = require_aiortc()
        self._task_id = task_id
        servers = [aiortc.RTCIceServer(url) for url in server_urls]
        # An empty list, because None stands for a public server.
        configuration = aiortc.RTCConfiguration(iceServers=servers)
        self._peer: RTCPeerConnection = aiortc.RTCPeerConnection(configuration)
        self._free: list[_Channel] = []
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing: asyncio.Future[None] | None = None
        self._abandoned = 0
        self._timed_out = False
        self.in_flight = 0
        self._peer.on("connectionstatechange", self._on_state)

    @property
    def is_usable(self) -> bool:
        """Whether new questions may be put to this connection."""
        return not (self._gone.done() or self._timed_out or self._abandoned > MAX_ABANDONED)

    @property
    def is_gone(self) -> bool:
        """Whether the connection has ended, on either side."""
        return self._gone.done()

    async def open(self, exchange: Callable[[str], Awaitable[str]], open_timeout_s: float) -> None:
        """Connect. *exchange* takes the offer's description to the machine and returns the answer.

        Raises:
            Unavailable: the first channel is not open *open_timeout_s* seconds after the answer.
            BadResponse: the machine's description makes no sense.
        """
        import aiortc

        channel = self._new_channel()
        tune(self._peer)
        await self._peer.setLocalDescription(await self._peer.createOffer())
        answer = await exchange(announce_size(self._peer.localDescription.sdp))
        try:
            description = aiortc.RTCSessionDescription(sdp=answer, type="answer")
            await self._peer.setRemoteDescription(description)
        except Exception as exc:  # aiortc's parser raises any type of exception
            raise BadResponse(f"task {self._task_id}: the machine's description is wrong") from exc
        await self._wait(channel.opened, open_timeout_s, "the machine is not reachable")
        self._free.append(channel)

    async def ask(
        self,
        question: Question,
        timeout_s: float,
        longest_s: float,
        silence_probe: SilenceProbe | None,
    ) -> Answer | None:
        """Return the answer, None for a silence that the probe's answer proves.

        The limit is *timeout_s*, or *longest_s* while bytes of any answer keep arriving, because a
        large answer takes long if one of the two machines is busy. Raises: see `LiveMachine.ask`.
        """
        self.in_flight += 1
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        asking = asyncio.ensure_future(self._ask(question, longest_s, silence_probe))
        try:
            await self._wait_while_arriving(asking, timeout_s, longest_s)
            if asking.done():
                return asking.result()
            # The answer may still be arriving, and a large one costs the CPU of all connections.
            self._timed_out = True
            waited_s = loop.time() - began_s
            what = f"task {self._task_id}: the machine did not answer within {waited_s:.3g} s"
            raise Unavailable(what)
        finally:
            asking.cancel()
            self.in_flight -= 1

    async def _wait_while_arriving(
        self, asking: "asyncio.Future[Any]", timeout_s: float, longest_s: float
    ) -> None:
        """Return once *asking* is done, too few bytes arrived on the connection, or time is up."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + longest_s
        first = before = received_bytes(self._peer)
        while True:
            step_s = min(timeout_s, deadline_s - loop.time())
            await asyncio.wait([asking], timeout=max(0.0, step_s))
            received = received_bytes(self._peer)
            is_arriving = received - before >= MIN_RATE * step_s
            is_too_large = received - first > MAX_ARRIVING_BYTES
            if asking.done() or not is_arriving or is_too_large or loop.time() >= deadline_s:
                return
            before = received

    async def _ask(
        self, question: Question, timeout_s: float, silence_probe: SilenceProbe | None
    ) -> Answer | None:
        async with self._slots:
            channel = await self._channel(timeout_s)
            try:
                answer = channel.send(question)
                if silence_probe is not None and not await self._settled(
                    answer, silence_probe.after_s
                ):
                    await self._ask_silence_probe(silence_probe.question, answer, timeout_s)
                    if not await self._settled(answer, silence_probe.silence_s):
                        return None
                await self._wait(answer, timeout_s, "the machine did not answer")
                return decode_answer(answer.result(), MAX_MESSAGE_BYTES)
            finally:
                self._release(channel)

    async def _ask_silence_probe(
        self, silence_probe: Question, answer: "asyncio.Future[object]", timeout_s: float
    ) -> None:
        """Return once the probe, or the question itself, is answered."""
        channel = await self._channel(timeout_s)
        try:
            seen = channel.send(silence_probe)
            waited: set[asyncio.Future[Any]] = {self._gone, seen, answer}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED, timeout=timeout_s)
            self._check()
            if seen.done():
                decode_answer(seen.result(), MAX_MESSAGE_BYTES)
        finally:
            self._release(channel)

    async def _channel(self, timeout_s: float) -> "_Channel":
        self._check()
        while self._free:
            channel = self._free.pop()
            if not channel.is_out_of_sync:
                return channel
        channel = self._new_channel()
        await self._wait(channel.opened, timeout_s, "no channel was opened")
        return channel

    def _new_channel(self) -> "_Channel":
        return _Channel(self._peer.createDataChannel("file_transfer"), self._set_gone)

    def _release(self, channel: "_Channel") -> None:
        if channel.is_answered and not channel.is_out_of_sync:
            self._free.append(channel)
        else:
            self._abandoned += 1

    async def _settled(self, answer: "asyncio.Future[object]", timeout_s: float) -> bool:
        waited: set[asyncio.Future[Any]] = {self._gone, answer}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED, timeout=timeout_s)
        if not answer.done():
            self._check()
        return answer.done()

    async def _wait(self, future: "asyncio.Future[Any]", timeout_s: float, failure: str) -> None:
        if not await self._settled(future, timeout_s):
            raise Unavailable(f"task {self._task_id}: {failure}")

    def _check(self) -> None:
        if self._gone.done():
            raise MachineGone(f"task {self._task_id}: the machine closed the connection")

    def _on_state(self) -> None:
        if self._peer.connectionState in ("failed", "closed"):
            self._set_gone()

    def _set_gone(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)

    def close_soon(self) -> None:
        """Close in the background."""
        if self._closing is None:
            self._set_gone()
            # One task for all callers: aiortc's own close is never over once it was cancelled.
            self._closing = asyncio.ensure_future(self._peer.close())
            _closing.add(self._closing)
            self._closing.add_done_callback(_forget)

    async def close(self) -> None:
        """Close the connection, and notify the machine, so that it frees its resources."""
        self.close_soon()
        assert self._closing is not None
        await asyncio.shield(self._closing)


class _Channel:
    """One data channel and the question in flight on it."""

    def __init__(self, channel: "RTCDataChannel", on_close: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._channel = channel
        self.opened: asyncio.Future[None] = loop.create_future()
        self._answer: asyncio.Future[object] | None = None
        self.is_out_of_sync = False
        channel.on("open", self._on_open)
        channel.on("message", self._on_message)
        channel.on("close", on_close)

    @property
    def is_answered(self) -> bool:
        return self._answer is None or self._answer.done()

    def send(self, question: Question) -> "asyncio.Future[object]":
        """Send a question, and return the future of its answer."""
        if self._channel.readyState != "open":
            raise MachineGone("the machine closed a channel")
        self._answer = asyncio.get_running_loop().create_future()
        self._channel.send(encode_question(question))
        return self._answer

    def _on_open(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def _on_message(self, message: object) -> None:
        if self._answer is None or self._answer.done():
            self.is_out_of_sync = True  # a surplus answer: later ones would be taken for others
        else:
            self._answer.set_result(message)


def _forget(closing: "asyncio.Future[None]") -> None:
    """Forget a connection that is closed, and collect the objects of those before it."""
    _closing.discard(closing)
    if next(_closed_count) % COLLECT_AFTER == 0:
        gc.collect()


async def wait_closed(timeout_s: float) -> None:
    """Return once the connections of this loop that are being closed are closed."""
    loop = asyncio.get_running_loop()
    if closing := {future for future in _closing if future.get_loop() is loop}:
        await asyncio.wait(closing, timeout=timeout_s)


def announce_size(sdp: str) -> str:
    """Return the description with the largest message that we take."""
    line = f"a=max-message-size:{MAX_MESSAGE_BYTES}"
    edited, count = _SIZE_LINE.subn(line, sdp)
    return edited if count else f"{sdp.rstrip()}\r\n{line}\r\n"


@functools.cache
def require_aiortc() -> Any:
    """Return the module; raise Unsupported, with the fix, where it is not installed.

    The first call imports all that connections need later: a daemon outlives its packages.
    """
    try:
        import aiortc
    except ImportError as exc:
        fix = f"the files of a running task need the extra `live`: {install_hint('live')}"
        raise Unsupported(fix) from exc
    for name in _IMPORTED_LATE:
        with contextlib.suppress(ImportError):  # other versions may have other modules
            import_module(name)
    for name in ("aiortc", "aioice"):
        # Below this level they log descriptions, with the passwords of ICE in them.
        logging.getLogger(name).setLevel(logging.WARNING)
    return aiortc
