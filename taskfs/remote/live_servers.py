"""The STUN and TURN server, and whether it answers.

A server that does not answer costs aiortc five seconds of gathering. A connection therefore uses
the server only after a probe of our own got an answer from it.
"""

import asyncio
import os
import secrets
import socket
import struct
import threading
import time
from typing import Any, Final

DEFAULT_SERVER: Final = "webrtc.inductiva.ai:3478"
ENVIRONMENT: Final = "INDUCTIVA_TURN_SERVER_URL"
_DEFAULT_PORT: Final = 3478
# In seconds after the start of a probe, when its request is sent again.
_SEND_AT_S: Final = (0.0, 0.2, 0.6, 1.4)
_PROBE_S: Final = 3.0
# In seconds: how long an outcome holds. Networks change, for example on a laptop.
_OUTCOME_S: Final = 60.0
_BINDING_REQUEST: Final = 0x0001
_BINDING_SUCCESS: Final = 0x0101
_MAGIC_COOKIE: Final = 0x2112A442


class IceServer:
    """One server for STUN and TURN. Lives in one event loop."""

    def __init__(self, address: str | None = None) -> None:
        if address is None:
            address = os.environ.get(ENVIRONMENT) or DEFAULT_SERVER
        self._host, self._port = split_address(address)
        self._probe: asyncio.Task[str | None] | None = None
        self._probed_at_s = float("-inf")
        self._last: str | None = None

    async def urls(self, patience_s: float) -> list[str]:
        """Return the server's URLs; none if it does not answer within *patience_s*.

        After a probe without an answer there is no waiting: a new probe runs beside the connection.
        """
        now = time.monotonic()
        is_fresh = now - self._probed_at_s < _OUTCOME_S
        if self._probe is None or (self._probe.done() and not (is_fresh and self._last)):
            was_silent = is_fresh and self._probe is not None and self._last is None
            self._probe = asyncio.ensure_future(self._run_probe())
            if was_silent:
                return []
        await asyncio.wait([self._probe], timeout=patience_s)
        return self._urls() if self._probe.done() else []

    def _urls(self) -> list[str]:
        if self._last is None:
            return []
        return [f"stun:{self._last}:{self._port}", f"turn:{self._last}:{self._port}"]

    async def _run_probe(self) -> str | None:
        try:
            self._last = await asyncio.wait_for(self._answering_address(), _PROBE_S)
        except (OSError, asyncio.TimeoutError, ValueError):
            self._last = None
        self._probed_at_s = time.monotonic()
        return self._last

    async def _answering_address(self) -> str:
        loop = asyncio.get_running_loop()
        address = await _resolve(self._host, loop)
        transaction = secrets.token_bytes(12)
        answered: asyncio.Future[None] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Probe(transaction, answered), remote_addr=(address, self._port)
        )
        try:
            request = struct.pack(">HHI", _BINDING_REQUEST, 0, _MAGIC_COOKIE) + transaction
            for before_s, after_s in zip(_SEND_AT_S, (*_SEND_AT_S[1:], _PROBE_S), strict=True):
                transport.sendto(request)
                await asyncio.wait([answered], timeout=after_s - before_s)
                if answered.done():
                    answered.result()
                    return address
            raise TimeoutError
        finally:
            transport.close()


class _Probe(asyncio.DatagramProtocol):
    def __init__(self, transaction: bytes, answered: "asyncio.Future[None]") -> None:
        self._transaction = transaction
        self._answered = answered

    def datagram_received(self, data: bytes, addr: Any) -> None:
        head = struct.pack(">H", _BINDING_SUCCESS)
        if data[:2] == head and data[8:20] == self._transaction and not self._answered.done():
            self._answered.set_result(None)

    def error_received(self, exc: Exception) -> None:
        if not self._answered.done():
            self._answered.set_exception(exc)  # such as refused, which needs no more waiting


async def _resolve(host: str, loop: asyncio.AbstractEventLoop) -> str:
    """Return an IPv4 address of *host*. The lookup has a daemon thread of its own.

    The event loop's default threads would hold up the interpreter's end until the lookup ends.
    """
    found: asyncio.Future[str] = loop.create_future()

    def set_found(address: str | None) -> None:
        if not found.done():
            if address is None:
                found.set_exception(OSError("no address"))
            else:
                found.set_result(address)

    def look_up() -> None:
        try:
            address = socket.gethostbyname(host)
        except (OSError, UnicodeError):
            address = None
        if not loop.is_closed():
            loop.call_soon_threadsafe(set_found, address)

    threading.Thread(target=look_up, name="taskfs-live-dns", daemon=True).start()
    return await found


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host[:port]`; the port 3478 where it has none or a wrong one."""
    host, _, port = address.strip().rpartition(":")
    if not host:
        return port, _DEFAULT_PORT
    return host, int(port) if port.isdecimal() and 0 < int(port) < 65536 else _DEFAULT_PORT
