"""The embedded cloud with scripted faults.

`FakeCloud` starts empty. Its `faults` change responses on the wire; the clients under test and
their connections are real.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aiohttp import web

from taskfs.demo.cloud import EmbeddedCloud
from taskfs.demo.endpoint import (
    CloudResponse,
    RequestRecord,
    Responder,
    bytes_response,
    json_response,
    reset,
)
from taskfs.demo.sources import ByteSource, BytesSource

_POLL_S: Final = 0.01
# Releases the request that the task answers.
_released: Final[ContextVar[threading.Event]] = ContextVar("_released")


def begin_of(record: RequestRecord) -> int:
    """Return the first byte that a request asks for, 0 where it counts from the end."""
    return int((record.range or "bytes=0-").removeprefix("bytes=").partition("-")[0] or 0)


@dataclass(eq=False)
class Fault:
    """One fault of the script: its kind, the requests it applies to, and how often.

    *times*: how many more requests it hits; None means until `Faults.clear`. The first *skip*
    matching requests are not hit. `hits` counts the hits.
    """

    kind: str
    side: str | None = None
    times: int | None = 1
    skip: int = 0
    path: str = ""
    method: str | None = None
    match: Callable[[RequestRecord], bool] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    hits: int = 0

    def hit(self, record: RequestRecord) -> bool:
        """Whether this request is hit; if so, count it."""
        if (
            self.times == 0
            or self.side not in (None, record.side)
            or self.method not in (None, record.method)
            or self.path not in record.path
            or not (self.match is None or self.match(record))
        ):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        self.hits += 1
        return True


class Faults:
    """The script of faults: the first fault that matches a request changes its response.

    The test's thread adds faults, the server's thread applies them; a lock guards the list.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a *match* may call `release`
        self._faults: list[Fault] = []
        self._released = threading.Event()

    def add(
        self,
        kind: str,
        *,
        side: str | None = None,
        times: int | None = 1,
        skip: int = 0,
        path: str = "",
        method: str | None = None,
        match: Callable[[RequestRecord], bool] | None = None,
        **options: Any,
    ) -> Fault:
        """Add a fault of a *kind* of `KINDS`; *options* are the arguments of that function."""
        assert kind in KINDS, f"unknown fault {kind}, not one of {', '.join(KINDS)}"
        fault = Fault(kind, side, times, skip, path, method, match, options)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults and release the stalled requests."""
        with self._lock:
            self._faults.clear()
            self._release()

    def release(self) -> None:
        """Release the requests that were hit until now; later ones stall again."""
        with self._lock:
            self._release()

    def _release(self) -> None:
        self._released.set()
        self._released = threading.Event()

    async def __call__(
        self, request: web.Request, record: RequestRecord, respond: Responder
    ) -> CloudResponse:
        with self._lock:
            fault = next((fault for fault in self._faults if fault.hit(record)), None)
            _released.set(self._released)  # of the time when the hit was counted
        if fault is None:
            return await respond(request)
        return await KINDS[fault.kind](self, request, respond, **fault.options)

    async def hold(self, seconds: float | None) -> None:
        """Wait for *seconds* or until `release`; None waits for `release` only."""
        released = _released.get()
        until = time.monotonic() + seconds if seconds is not None else float("inf")
        while not released.is_set() and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)


class FakeCloud(EmbeddedCloud):
    """An empty cloud whose responses pass through `faults`."""

    def __init__(self, faults: Faults | None = None, **options: Any) -> None:
        self.faults = faults or Faults()
        super().__init__(**{"populate": False, "faults": self.faults, **options})

    def fail(self, side: str | None = None) -> None:
        """Answer every request, or every one to *side*, with 503 until `faults.clear`."""
        self.faults.add("status", side=side, times=None, status=503)

    def fail_for_long(self, side: str | None = None) -> None:
        """Answer as `fail` does, and ask for so long a pause that clients give up at once."""
        self.faults.add("status", side=side, times=None, status=503, retry_after=3600)

    def stop(self) -> None:
        self.faults.clear()
        super().stop()


class FlippedSource:
    """A source with the bytes at some offsets inverted."""

    def __init__(self, source: ByteSource, offsets: tuple[int, ...]) -> None:
        self._source = source
        self._offsets = offsets

    @property
    def size(self) -> int:
        return self._source.size

    def read(self, start: int, stop: int) -> bytes:
        content = bytearray(self._source.read(start, stop))
        for offset in self._offsets:
            if start <= offset < stop:
                content[offset - start] ^= 0xFF
        return bytes(content)


class EndlessSource:
    """Zeros without end, in practice."""

    size = 1 << 50

    def read(self, start: int, stop: int) -> bytes:
        return bytes(stop - start)


# The kinds of faults. Each replaces `await respond(request)`.


async def _status(
    faults: Faults,
    request: web.Request,
    respond: Responder,
    *,
    status: int,
    retry_after: float | str | None = None,
    acted: bool = False,
) -> CloudResponse:
    """Respond with an error; with *acted*, execute the request first."""
    if acted:
        await respond(request)
    response = json_response({"detail": f"scripted {status}"}, status)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


async def _reset(
    faults: Faults,
    request: web.Request,
    respond: Responder,
    *,
    after_bytes: int | None = None,
    acted: bool = False,
) -> CloudResponse:
    """Reset the connection (RST) instead of responding, or after *after_bytes* of the body."""
    if after_bytes is None:
        if acted:
            await respond(request)
        await _cut(request)
    response = await respond(request)
    response.interrupt_at, response.interrupt = after_bytes or 0, _cut
    return response


async def _short(
    faults: Faults, request: web.Request, respond: Responder, *, after_bytes: int
) -> CloudResponse:
    """Announce the whole body, send *after_bytes* of it, and close the connection (FIN)."""
    response = await respond(request)
    response.interrupt_at, response.interrupt = after_bytes, _close
    return response


async def _long(
    faults: Faults, request: web.Request, respond: Responder, *, extra: bytes = b"surplus"
) -> CloudResponse:
    """Send *extra* bytes after the announced body, and close the connection."""

    async def add_surplus(request: web.Request) -> None:
        if request.transport is not None:
            request.transport.write(extra)
        await _close(request)

    response = await respond(request)
    response.interrupt_at, response.interrupt = response.stop - response.start, add_surplus
    return response


async def _stall(
    faults: Faults,
    request: web.Request,
    respond: Responder,
    *,
    seconds: float | None = None,
    after_bytes: int | None = None,
    acted: bool = False,
) -> CloudResponse:
    """Stall for *seconds* (None: until `release`), before the response or within it.

    With *acted*, execute the request before the stall.
    """
    if after_bytes is None and not acted:
        await faults.hold(seconds)
        return await respond(request)
    response = await respond(request)
    if after_bytes is None:
        await faults.hold(seconds)
    else:
        response.interrupt_at = after_bytes
        response.interrupt = lambda request: faults.hold(seconds)
    return response


async def _whole(faults: Faults, request: web.Request, respond: Responder) -> CloudResponse:
    """Ignore the range: respond with 200 and the whole object."""
    response = await respond(request)
    if response.status == 206:
        response.status, response.start, response.stop = 200, 0, response.source.size
        response.headers.pop("Content-Range")
    return response


async def _header(
    faults: Faults, request: web.Request, respond: Responder, *, name: str, value: str | None
) -> CloudResponse:
    """Replace a header such as ETag or Content-Range; None removes it."""
    response = await respond(request)
    response.headers.pop(name, None)
    if value is not None:
        response.headers[name] = value
    return response


async def _flip(
    faults: Faults, request: web.Request, respond: Responder, *, at: int
) -> CloudResponse:
    """Invert the byte at offset *at* of the object if the response contains it."""
    response = await respond(request)
    response.source = FlippedSource(response.source, (at,))
    return response


async def _body(
    faults: Faults,
    request: web.Request,
    respond: Responder,
    *,
    content: bytes,
    content_type: str = "application/json",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> CloudResponse:
    """Respond with *content*, whatever the request."""
    return bytes_response(status, content, {"Content-Type": content_type, **(headers or {})})


async def _chunked(
    faults: Faults, request: web.Request, respond: Responder, *, extra: bytes = b""
) -> CloudResponse:
    """Respond in chunks, without a length; send *extra* bytes after the body."""
    response = await respond(request)
    content = bytes(response.source.read(response.start, response.stop)) + extra
    return replace(response, source=BytesSource(content), start=0, stop=len(content), chunked=True)


async def _endless(
    faults: Faults,
    request: web.Request,
    respond: Responder,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> CloudResponse:
    """Send an endless body, with the correct status and headers or the given ones."""
    response = await respond(request)
    return replace(
        response,
        status=status or response.status,
        headers={**response.headers, **(headers or {})},
        source=EndlessSource(),
        start=0,
        stop=EndlessSource.size,
        chunked=True,
    )


async def _drip(
    faults: Faults, request: web.Request, respond: Responder, *, speed: int = 5
) -> CloudResponse:
    """Send *speed* bytes per second: no single read times out, but the response takes for ever."""
    return replace(await respond(request), speed=speed)


async def _html(
    faults: Faults, request: web.Request, respond: Responder, *, status: int = 200
) -> CloudResponse:
    """Respond with an HTML page, as proxies and login portals do."""
    page = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    return bytes_response(status, page, {"Content-Type": "text/html"})


async def _json(
    faults: Faults, request: web.Request, respond: Responder, *, value: Any, status: int = 200
) -> CloudResponse:
    """Respond with *value* as JSON; if it is callable, with its result for the request."""
    if callable(value):
        value = value(request)
    return bytes_response(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


async def _redirect(
    faults: Faults,
    request: web.Request,
    respond: Responder,
    *,
    to: str | None = None,
    status: int = 302,
) -> CloudResponse:
    """Redirect to another URL; None redirects to the same URL."""
    return bytes_response(status, b"", {"Location": to or request.path_qs})


async def _hints(faults: Faults, request: web.Request, respond: Responder) -> CloudResponse:
    """Send two informational responses before the final one (RFC 9110, 15.2)."""
    response = await respond(request)
    if request.transport is not None:
        request.transport.write(
            b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
            b"HTTP/1.1 102 Processing\r\n\r\n"
        )
    return response


async def _capped(
    faults: Faults, request: web.Request, respond: Responder, *, most: int, from_end: bool = False
) -> CloudResponse:
    """Send at most *most* bytes of a range: the first ones, or the last ones with *from_end*."""
    response = await respond(request)
    if response.status == 206 and response.stop - response.start > most:
        if from_end:
            response.start = response.stop - most
        else:
            response.stop = response.start + most
        size = response.source.size
        response.headers["Content-Range"] = f"bytes {response.start}-{response.stop - 1}/{size}"
    return response


async def _no_suffix(
    faults: Faults, request: web.Request, respond: Responder, *, how: int | str
) -> CloudResponse:
    """Refuse suffix ranges with status *how*, or treat them as ranges from 0 ("prefix")."""
    response = await respond(request)
    range_header = request.headers.get("Range", "")
    if not range_header.startswith("bytes=-") or response.status != 206:
        return response
    size = response.source.size
    if how == "prefix":
        response.start, response.stop = 0, min(int(range_header.removeprefix("bytes=-")) + 1, size)
        response.headers["Content-Range"] = f"bytes 0-{response.stop - 1}/{size}"
    elif how == 200:
        return await _whole(faults, request, respond)
    else:
        return bytes_response(int(how), b"no suffix ranges here", {"Content-Type": "text/plain"})
    return response


async def _range_case(
    faults: Faults, request: web.Request, respond: Responder, *, unit: str
) -> CloudResponse:
    """Write the unit of Content-Range as *unit*, in another letter case."""
    response = await respond(request)
    if content_range := response.headers.get("Content-Range"):
        response.headers["Content-Range"] = content_range.replace("bytes", unit)
    return response


async def _tag(
    faults: Faults, request: web.Request, respond: Responder, *, forms: list[str]
) -> CloudResponse:
    """Send the ETag in turn in each of *forms*: strong, weak or absent.

    If-Match uses strong comparison, so a weak tag responses it with 412.
    """
    forms.append(form := forms.pop(0))
    response = await respond(request)
    if form == "weak" and "If-Match" in request.headers:
        return bytes_response(412, b"", {})
    etag = response.headers.pop("ETag", "")
    if etag and form != "absent":
        response.headers["ETag"] = f"W/{etag}" if form == "weak" else etag
    return response


KINDS: Final[dict[str, Callable[..., Awaitable[CloudResponse]]]] = {
    "status": _status,
    "reset": _reset,
    "short": _short,
    "long": _long,
    "stall": _stall,
    "whole": _whole,
    "header": _header,
    "flip": _flip,
    "body": _body,
    "chunked": _chunked,
    "endless": _endless,
    "drip": _drip,
    "html": _html,
    "json": _json,
    "redirect": _redirect,
    "hints": _hints,
    "capped": _capped,
    "no suffix": _no_suffix,
    "range case": _range_case,
    "tag": _tag,
}


async def _cut(request: web.Request) -> None:
    """Reset the connection (RST); does not return."""
    if request.transport is not None:
        await asyncio.sleep(_POLL_S)  # until the kernel has delivered the sent bytes
        reset(request.transport)
    await asyncio.Event().wait()  # the server cancels the handler of a lost connection


async def _close(request: web.Request) -> None:
    """Close the connection (FIN) after the sent bytes; does not return."""
    if request.transport is not None:
        request.transport.close()
    await asyncio.Event().wait()
