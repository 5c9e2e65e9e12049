"""`StoreObject`: one object in the store, read by byte ranges through a signed URL.

The headers are those of RFC 9110: Range (14.2), Content-Range (14.4), If-Match (13.1.1) and ETag
(8.8.3).
"""

from collections.abc import Callable
from typing import Final, TypeVar

import requests

from taskfs.errors import (
    BadResponse,
    Unavailable,
)
from taskfs.model import Fetched, ObjectVersion
from taskfs.remote.range_requests import EmptyObject, Part, RangeRequests, is_small
from taskfs.remote.receive_buffer import ReceiveBuffer
from taskfs.remote.retry import Deadline
from taskfs.remote.store_headers import (
    is_page,
    looks_like_page,
)
from taskfs.remote.transport import Transport
from taskfs.support.buffers import Buffer, allocate

T = TypeVar("T")

# The statuses with which stores without suffix ranges refuse one; other such stores send the whole
# object.
NO_SUFFIX_STATUSES: Final = frozenset({400, 416, 501})


class StoreObject:
    """One object in the store. Safe for concurrent use, as `RangeRequests` is."""

    def __init__(self, path: str, sign: Callable[[], str], transport: Transport) -> None:
        self.path = path
        self._transport = transport
        self._requests = RangeRequests(path, sign, transport)

    def fetch_tail(self, length: int) -> Fetched:
        """Return the last *length* bytes of the object, or all of a smaller one; see model.

        A store without suffix ranges sends other bytes first. That response still has the size and
        the version, and plain ranges fetch the tail.
        """
        body = ReceiveBuffer(allocate(0))
        version: ObjectVersion | None = None

        def attempt(deadline: Deadline) -> Fetched:
            nonlocal version, body
            # A retry keeps the bytes that the first response brought.
            if version is None or not body.filled:
                response, part = self._send_first(length, deadline)
                version = part.version
                start = max(0, version.size - length)
                body = ReceiveBuffer(allocate(version.size - start))
                if part.start == start:
                    self._receive(response, part, body, deadline)
                else:
                    response.close()
            start = max(0, version.size - length)
            self._fetch_rest(start, version.size, version, body, deadline)
            return Fetched(start, bytes(body.buffer), version)

        try:
            return self._run(attempt)
        except EmptyObject:
            return Fetched(0, b"", ObjectVersion(0, ""))

    def _send_first(self, length: int, deadline: Deadline) -> tuple[requests.Response, Part]:
        """Send the first request for the object; the part has the object's version."""
        response = self._requests.get(
            f"bytes=-{length}", None, deadline, returned=NO_SUFFIX_STATUSES
        )
        status = response.status_code
        if status == 206 or (status == 200 and is_small(response)):
            return response, self._requests.part(
                response, None, lambda size: (max(0, size - length), size), deadline
            )
        if status == 200 and is_page(response.headers):
            raise self._requests.wrong_response("a page instead of the object", response)
        response.close()
        response = self._requests.get("bytes=0-0", None, deadline)
        return response, self._requests.part(
            response, None, lambda size: (0, min(1, size)), deadline
        )

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> Buffer:
        """Return the bytes [start, stop) of *version*, all of them; see model."""
        body = ReceiveBuffer(allocate(stop - start))

        def attempt(deadline: Deadline) -> Buffer:
            self._fetch_rest(start, stop, version, body, deadline)
            return body.buffer

        return self._run(attempt)

    def _run(self, attempt: Callable[[Deadline], T]) -> T:
        """Run one operation with retries, and discard the URL if it fails."""
        try:
            return self._transport.run_with_retries(attempt)
        except (BadResponse, Unavailable):
            self._requests.discard_url()
            raise

    def _fetch_rest(
        self, start: int, stop: int, version: ObjectVersion, body: ReceiveBuffer, deadline: Deadline
    ) -> None:
        """Fetch the bytes of [start, stop) that *body* lacks."""
        while (begin := start + body.filled) < stop:
            response = self._requests.get(f"bytes={begin}-{stop - 1}", version, deadline)
            part = self._requests.part(response, version, lambda _: (begin, stop), deadline)
            if part.start != begin or part.stop > stop:
                raise self._requests.wrong_response("the range is not the requested one", response)
            self._receive(response, part, body, deadline)

    def _receive(
        self, response: requests.Response, part: Part, body: ReceiveBuffer, deadline: Deadline
    ) -> None:
        """Append the part's bytes to *body*; a cut response leaves the bytes that arrived."""
        label = f"GET {self.path}"
        if response.status_code == 206:
            self._transport.bodies.receive_into(
                label, response, deadline, body, part.stop - part.start
            )
            return
        whole = ReceiveBuffer(allocate(part.version.size))
        self._transport.bodies.receive_into(label, response, deadline, whole, part.version.size)
        if looks_like_page(bytes(whole.buffer[:64])):
            raise self._requests.wrong_response("a page instead of the object")
        after = body.filled + part.stop - part.start
        body.buffer[body.filled : after] = whole.buffer[part.start : part.stop]
        body.filled = after
