"""An HTTP server of the embedded cloud: its socket, its request log, and sending responses."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aiohttp import web

from taskfs.demo.sources import ByteSource, BytesSource

CHUNK_BYTES: Final = 1 << 18  # bytes of a body that are written at once
API_KEY_HEADER: Final = "X-API-Key"
_SECRET_PARAMETERS: Final = frozenset({"Signature"})
_THROTTLED_CHUNKS_PER_SECOND: Final = 50  # where a speed is set: small steps look like a slow line
_JSON_HEADERS: Final = {"Content-Type": "application/json"}


@dataclass(slots=True)
class RequestRecord:
    """A request and its response; `bytes_sent` grows while the body is sent."""

    side: str
    method: str
    path: str
    query: dict[str, list[str]]
    range: str | None
    had_api_key: bool
    status: int = 0
    bytes_sent: int = 0


@dataclass(slots=True)
class CloudResponse:
    """A status, headers, and the bytes [start, stop) of a source as the body.

    The other fields inject faults. *length* replaces the Content-Length; *chunked* sends none.
    After *interrupt_at* bytes of the body (0: after the headers), *interrupt* is awaited. *speed*,
    in bytes per second, replaces the endpoint's bandwidth.
    """

    status: int
    source: ByteSource
    headers: dict[str, str] = field(default_factory=dict)
    start: int = 0
    stop: int = 0
    length: int | None = None
    chunked: bool = False
    speed: int | None = None
    interrupt_at: int = 0
    interrupt: Callable[[web.Request], Awaitable[None]] | None = None


class ErrorResponse(Exception):
    """Raised to end a request with an error status."""

    def __init__(self, response: CloudResponse) -> None:
        super().__init__(response.status)
        self.response = response


Responder = Callable[[web.Request], Awaitable[CloudResponse]]
Route = tuple[str, str, Responder]


class FaultHook(Protocol):
    """A function that may replace the response to any request."""

    async def __call__(
        self, request: web.Request, record: RequestRecord, respond: Responder
    ) -> CloudResponse:
        """Return the response to send; *respond* performs the request and returns its response."""


def bytes_response(status: int, content: bytes, headers: dict[str, str]) -> CloudResponse:
    """Return a response whose body is *content*."""
    return CloudResponse(status, BytesSource(content), headers, stop=len(content))


def json_response(value: Any, status: int = 200) -> CloudResponse:
    return bytes_response(status, json.dumps(value).encode(), dict(_JSON_HEADERS))


def encoded_json_response(pieces: Iterable[bytes]) -> CloudResponse:
    """Return a response with JSON that is encoded already."""
    return bytes_response(200, b"".join(pieces), dict(_JSON_HEADERS))


# Passes of the event loop until a connection that it has just accepted belongs to the server.
ACCEPT_STEPS: Final = 3


class Endpoint:
    """A server on one loopback port, in the cloud's event loop.

    Any thread may set `latency_s`, the delay before each response, and `bandwidth_per_connection`,
    in bytes per second; the next response uses the new value.
    """

    def __init__(
        self,
        side: str,
        routes: Iterable[Route],
        records: deque[RequestRecord],
        faults: FaultHook | None,
    ) -> None:
        self.latency_s = 0.0
        self.bandwidth_per_connection: int | None = None
        self.port = 0
        self._side = side
        self._routes = list(routes)
        self._records = records
        self._faults = faults
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._listener: socket.socket | None = None  # of the site
        self._reserved: socket.socket | None = None  # while paused

    async def listen(self, listener: socket.socket) -> None:
        """Serve the connections of a bound socket."""
        app = web.Application(client_max_size=1 << 20)
        for method, path, respond in self._routes:
            app.router.add_route(method, path, self._handler(respond))
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await self._attach(listener)

    async def pause(self) -> None:
        """Refuse new connections and reset the open ones until `resume`."""
        if self._site is not None and self._listener is not None:
            # Connections to a bound socket that does not listen are refused. It is bound before the
            # other is closed, so that no other program is given the port.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._reserved = bind(self.port, is_shared=True)
            # A connection that was just accepted needs the site: without it, it is never closed.
            asyncio.get_running_loop().remove_reader(self._listener)
            for _ in range(ACCEPT_STEPS):
                await asyncio.sleep(0)
            await self._site.stop()
            self._site = self._listener = None
        server = self._runner.server if self._runner else None
        for connection in list(server.connections) if server else ():
            if connection.transport is not None:
                reset(connection.transport)

    async def resume(self) -> None:
        """Accept connections again, on the same port."""
        if self._reserved is not None:
            await self._attach(self._reserved)
            self._reserved = None

    async def close(self) -> None:
        if self._runner is not None:
            # A response that no client reads would keep its socket open.
            await self.pause()
            await self._runner.cleanup()
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    async def _attach(self, listener: socket.socket) -> None:
        assert self._runner is not None
        self.port = listener.getsockname()[1]
        self._site, self._listener = web.SockSite(self._runner, listener), listener
        await self._site.start()

    def _handler(
        self, respond: Responder
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def respond_or_refuse(request: web.Request) -> CloudResponse:
            try:
                return await respond(request)
            except ErrorResponse as refusal:
                return refusal.response

        async def handle(request: web.Request) -> web.StreamResponse:
            query = request.query
            record = RequestRecord(
                self._side,
                request.method,
                request.path,
                {name: query.getall(name) for name in query if name not in _SECRET_PARAMETERS},
                request.headers.get("Range"),
                API_KEY_HEADER in request.headers,
            )
            self._records.append(record)
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            if self._faults is None:
                response = await respond_or_refuse(request)
            else:
                response = await self._faults(request, record, respond_or_refuse)
            return await self._send(request, response, record)

        return handle

    async def _send(
        self, request: web.Request, response: CloudResponse, record: RequestRecord
    ) -> web.StreamResponse:
        stream = web.StreamResponse(status=response.status, headers=response.headers)
        size = response.stop - response.start
        if response.chunked:
            stream.enable_chunked_encoding()
        else:
            stream.content_length = size if response.length is None else response.length
        record.status = response.status
        try:
            await stream.prepare(request)
            if request.method != "HEAD":
                await self._send_body(request, stream, response, record)
            await stream.write_eof()
        except ConnectionError:
            pass  # the client closed the connection, as it may
        return stream

    async def _send_body(
        self,
        request: web.Request,
        stream: web.StreamResponse,
        response: CloudResponse,
        record: RequestRecord,
    ) -> None:
        middle = response.stop
        if response.interrupt is not None:
            middle = min(response.start + response.interrupt_at, response.stop)
        speed = response.speed or self.bandwidth_per_connection
        await self._send_range(stream, response.source, response.start, middle, record, speed)
        if response.interrupt is not None:
            await stream.write(b"")  # sends the headers if no byte of the body did
            await wait_until_sent(request)
            await response.interrupt(request)
        await self._send_range(stream, response.source, middle, response.stop, record, speed)

    async def _send_range(
        self,
        stream: web.StreamResponse,
        source: ByteSource,
        start: int,
        stop: int,
        record: RequestRecord,
        speed: int | None,
    ) -> None:
        step = min(CHUNK_BYTES, speed // _THROTTLED_CHUNKS_PER_SECOND + 1) if speed else CHUNK_BYTES
        due = asyncio.get_running_loop().time()
        while start < stop:
            end = min(start + step, stop)
            # Counted before the write, so that a client with all bytes sees them counted.
            record.bytes_sent += end - start
            await stream.write(source.read(start, end))
            if speed:
                due += (end - start) / speed
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            start = end


async def wait_until_sent(request: web.Request) -> None:
    """Return once the kernel has all bytes written so far."""
    while request.transport is not None and request.transport.get_write_buffer_size():
        await asyncio.sleep(0.005)


def reset(transport: asyncio.BaseTransport) -> None:
    """End a connection with RST instead of FIN."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.Transport):
        transport.abort()


def bind(port: int, *, is_shared: bool = False) -> socket.socket:
    """Return a socket on a port of loopback; port 0 takes a free one. Raises OSError.

    It listens, unless it shares the port with another socket of this user.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        if not is_shared:
            listener.listen(256)
    except OSError:
        listener.close()
        raise
    return listener
