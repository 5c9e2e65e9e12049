"""The STUN and TURN server, and whether it answers.

A server that does not answer costs aiortc five seconds of gathering. A connection therefore uses
the server only after a probe of our own got an answer from it.
"""

import asyncio
import os
import secrets
import socket
import struct
import time
from typing import Any, Final

from taskfs.remote.live_threads import in_thread

DEFAULT_SERVER: Final = "webrtc.inductiva.ai:3478"
ENVIRONMENT: Final = "INDUCTIVA_TURN_SERVER_URL"
_DEFAULT_PORT: Final = 3478  # of STUN and TURN (RFC 8489, RFC 8656)
# In seconds after the start of a probe, when its request is sent again.
_SEND_AT_S: Final = (0.0, 0.2, 0.6, 1.4)
_PROBE_S: Final = 3.0  # in seconds: the longest time of a probe
# In seconds: how long an outcome holds. Networks change, for example on a laptop.
_OUTCOME_S: Final = 60.0
# In seconds after the answer in one protocol: wait this long for the other one.
_OTHER_S: Final = 0.1
# The requests Binding and Allocate, both without attributes: the latter is refused, which shows
# that the server speaks TURN, and allocates nothing.
_REQUESTS: Final = {"stun": 0x0001, "turn": 0x0003}
_MAGIC_COOKIE: Final = 0x2112A442


class IceServer:
    """One server for STUN and TURN. Lives in one event loop."""

    def __init__(self, address: str | None = None) -> None:
        if address is None:
            address = os.environ.get(ENVIRONMENT) or DEFAULT_SERVER
        self._host, self._port = split_address(address)
        self._probe: asyncio.Task[None] | None = None
        self._probed_at_s = float("-inf")
        self._last: list[str] = []

    async def urls(self, timeout_s: float) -> list[str]:
        """Return the URLs, of STUN and TURN, at which the server answers within *timeout_s*.

        After a probe without an answer, return none immediately, and start a new probe.
        """
        now = time.monotonic()
        is_fresh = now - self._probed_at_s < _OUTCOME_S
        if self._probe is None or (self._probe.done() and not (is_fresh and self._last)):
            was_silent = is_fresh and self._probe is not None and not self._last
            self._probe = asyncio.ensure_future(self._run_probe())
            if was_silent:
                return []
        await asyncio.wait([self._probe], timeout=timeout_s)
        return list(self._last) if self._probe.done() else []

    async def _run_probe(self) -> None:
        try:
            self._last = await asyncio.wait_for(self._answering_urls(), _PROBE_S)
        except (OSError, asyncio.TimeoutError, ValueError):
            self._last = []
        self._probed_at_s = time.monotonic()

    async def _answering_urls(self) -> list[str]:
        """Return the URLs of the protocols that the server answers in.

        Raises:
            OSError, UnicodeError: the server's name does not resolve, or is no host name.
        """
        loop = asyncio.get_running_loop()
        address = await in_thread(
            lambda _: socket.gethostbyname(self._host), name="taskfs-live-dns"
        )
        probe = _Probe()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: probe, remote_addr=(address, self._port)
        )
        try:
            for before_s, after_s in zip(_SEND_AT_S, (*_SEND_AT_S[1:], _PROBE_S), strict=True):
                for scheme, transaction in probe.transactions.items():
                    head = struct.pack(">HHI", _REQUESTS[scheme], 0, _MAGIC_COOKIE)
                    transport.sendto(head + transaction)
                if await probe.is_answered(after_s - before_s):
                    return [f"{scheme}:{address}:{self._port}" for scheme in probe.answering()]
            return []
        finally:
            transport.close()


class _Probe(asyncio.DatagramProtocol):
    """One request of STUN and one of TURN.

    An error response counts as an answer, because it shows that the server responds in time.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.transactions = {scheme: secrets.token_bytes(12) for scheme in _REQUESTS}
        self._answered: dict[str, asyncio.Future[None]] = {
            scheme: loop.create_future() for scheme in _REQUESTS
        }

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for scheme, transaction in self.transactions.items():
            if data[8:20] == transaction and not self._answered[scheme].done():
                self._answered[scheme].set_result(None)

    def error_received(self, exc: Exception) -> None:
        for answered in self._answered.values():  # such as ECONNREFUSED: no answer will come
            if not answered.done():
                answered.cancel()

    async def is_answered(self, timeout_s: float) -> bool:
        """Return whether a request is answered or refused; then wait `_OTHER_S` for the other."""
        futures = list(self._answered.values())
        first = asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait(futures, timeout=timeout_s, return_when=first)
        if done:
            await asyncio.wait(futures, timeout=_OTHER_S)
        return bool(done)

    def answering(self) -> list[str]:
        return [
            scheme
            for scheme, answered in self._answered.items()
            if answered.done() and not answered.cancelled()
        ]


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host[:port]`; the port 3478 where it has none or a wrong one."""
    host, _, port = address.strip().rpartition(":")
    if not host:
        return port, _DEFAULT_PORT
    return host, int(port) if port.isdecimal() and 0 < int(port) < 65536 else _DEFAULT_PORT
