"""`BodyReceiver`: receives the bodies of responses until a deadline, and counts their bytes."""

import http.client
import logging
import time
from typing import Final

import requests
import urllib3

from taskfs.errors import BadResponse, Unavailable
from taskfs.remote.connection_errors import cause
from taskfs.remote.receive_buffer import ReceiveBuffer, body_source, read_available
from taskfs.remote.request_log import log_response
from taskfs.remote.retry import Deadline, Transient
from taskfs.support.stats import Stats

log = logging.getLogger(__name__)

# Bytes per read from a socket: the deadline and the counters are updated after each.
CHUNK: Final = 256 << 10
# The exceptions that the HTTP libraries raise if a connection fails.
TRANSPORT_ERRORS: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)


class BodyReceiver:
    """Receives the bodies of one transport's responses. Safe for concurrent use.

    *endpoint*, `api` or `store`, is the prefix of the names of its counters.
    """

    def __init__(self, stats: Stats, endpoint: str) -> None:
        self.received_s = float("-inf")  # when the last bytes arrived, by time.monotonic
        self._stats = stats
        self._endpoint = endpoint

    def receive(
        self,
        label: str,
        response: requests.Response,
        deadline: Deadline,
        sink: bytearray,
        max_bytes: int | None = None,
    ) -> None:
        """Append the body of *response* to *sink* as it arrives.

        Reading stops soon after *max_bytes* bytes.

        Raises:
            Transient: the body was cut short or stalled, or the deadline is past; *sink* keeps
                the bytes that arrived.
        """
        before = len(sink)
        stop = None if max_bytes is None else before + max_bytes
        began_s = time.monotonic()
        with response:
            try:
                # `read` would return only when the chunk is full, so a slow body would not be
                # noticed.
                while chunk := response.raw.read1(CHUNK, decode_content=False):
                    sink += chunk
                    deadline.received += len(chunk)
                    self.received_s = time.monotonic()
                    self._stats.add(f"{self._endpoint}_bytes", len(chunk))
                    if stop is not None and len(sink) > stop:
                        return
                    if deadline.remaining_s <= 0:
                        raise Transient(Unavailable(f"{label}: the response takes too long"))
            except TRANSPORT_ERRORS as exc:
                raise Transient(Unavailable(f"{label}: cut short ({cause(exc)})")) from exc
            finally:
                if response.status_code < 400 and log.isEnabledFor(logging.INFO):
                    log_response(
                        log, label, response, len(sink) - before, time.monotonic() - began_s
                    )

    def receive_into(
        self,
        label: str,
        response: requests.Response,
        deadline: Deadline,
        body: ReceiveBuffer,
        size: int,
    ) -> None:
        """Append the body of *response*, *size* bytes, to *body* as it arrives.

        The bytes go from the socket into their buffer; `requests` would copy them three times.

        Raises:
            Transient: the response was cut short, stalled or too long, or the deadline is past;
                *body* keeps the bytes that arrived.
        """
        before = body.filled
        began_s = time.monotonic()
        with response, body.buffer[before : before + size] as target:
            source = body_source(response)
            try:
                while count := read_available(source, target[body.filled - before :][:CHUNK]):
                    body.filled += count
                    deadline.received += count
                    self.received_s = time.monotonic()
                    self._stats.add(f"{self._endpoint}_bytes", count)
                    if deadline.remaining_s <= 0:
                        raise Transient(Unavailable(f"{label}: the response takes too long"))
                if body.filled == before + size and source.read(1):
                    body.filled = before
                    raise Transient(BadResponse(f"{label}: longer than announced"), max_tries=2)
            except TRANSPORT_ERRORS as exc:
                raise Transient(Unavailable(f"{label}: cut short ({cause(exc)})")) from exc
            finally:
                if log.isEnabledFor(logging.INFO):
                    log_response(
                        log, label, response, body.filled - before, time.monotonic() - began_s
                    )
            if body.filled < before + size:
                raise Transient(Unavailable(f"{label}: cut short"))
            response.raw.release_conn()
