"""HTTP: sessions, timeouts, retries within a budget; renames HTTP failures to ours.

Two sides use it. The API side sends the key, and only to the API's own origin, also across
redirects. The store side sends no key, asks for byte ranges and never sends HEAD, which a
presigned URL refuses.
"""

import http.client
import http.cookiejar
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urljoin

import requests
import urllib3

from taskfs import __version__
from taskfs.errors import AccessDenied, BadAnswer, TaskFSError, Unavailable
from taskfs.remote.connection_errors import (
    cause,
    permanent_error,
    proxy_refusal,
    proxy_setting_error,
)
from taskfs.remote.header_timeout import HeaderTimeoutAdapter
from taskfs.remote.http_session import HTTPSession, origin_of
from taskfs.remote.request_log import log_answer
from taskfs.remote.retry import Budget, Transient, http_date_s, retry_after_s, retry_transient
from taskfs.support.clock import age_clock
from taskfs.support.stats import Stats
from taskfs.support.thread_pool import submitted_s

log = logging.getLogger(__name__)
T = TypeVar("T")

KEY_HEADER: Final = "X-API-Key"
CHUNK: Final = 256 << 10
IMPATIENT_STATUSES: Final = frozenset({408, 425, 429})
MAX_REDIRECTS: Final = 5
# Connections that nobody used for so long may have died unseen, as they do while a laptop sleeps.
MAX_IDLE_S: Final = 60.0
# What a request has at least that stood in a queue until its time was up.
QUICK_S: Final = 1.0
TRANSPORT_ERRORS: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)


@dataclass(slots=True)
class ReceiveBuffer:
    """A buffer of the length that is wanted, filled from its start as bytes come."""

    buffer: memoryview
    filled: int = 0


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class Transport:
    """One side of the network: a pool of connections and the retries over it.

    Safe for concurrent use: the session is never changed after construction.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        stats: Stats,
        side: str,
        connections: int = 32,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._stats = stats
        self._side = side
        self.clock_offset_s: float | None = None
        self._used_s = age_clock()
        self._answered_s = float("-inf")  # when anything came from this side, by time.monotonic
        self._session = HTTPSession()
        self._adapter = HeaderTimeoutAdapter(
            pool_connections=4, pool_maxsize=connections, max_retries=0
        )
        self._session.mount("https://", self._adapter)
        self._session.mount("http://", self._adapter)
        # A ~/.netrc entry for the store's host would break a presigned request.
        self._session.auth = _no_auth
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers["User-Agent"] = f"taskfs/{__version__}"
        # A compressed representation has other byte offsets than the object.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.headers.update(headers or {})

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()

    def budget(self) -> Budget:
        """Return the time that one operation has from now on.

        Its time in a queue counts where nothing at all came from this side meanwhile; then it has
        one quick try left, however long that was.
        """
        now_s = time.monotonic()
        since_s = submitted_s()
        if since_s is None or self._answered_s > since_s:
            return Budget(self.timeout_s, now_s)
        quick_s = min(QUICK_S, self.timeout_s / 2)
        return Budget(self.timeout_s, max(since_s, now_s + quick_s - self.timeout_s))

    def run_with_retries(self, attempt: Callable[[Budget], T], budget: Budget | None = None) -> T:
        """Call *attempt* until it does not raise `Transient`, and return its result.

        *budget* is the rest of a longer operation's; without it, the operation begins now.

        Raises:
            TaskFSError: the error inside the last `Transient`; see `retry_transient`.
        """

        def before_pause(failure: Transient, pause_s: float) -> None:
            self._stats.add(f"{self._side}_retries")
            log.info("%s; retry in %.1f s", failure, pause_s)

        return retry_transient(attempt, budget or self.budget(), before_pause)

    def send(
        self,
        what: str,
        method: str,
        url: str,
        budget: Budget,
        *,
        headers: Mapping[str, str] | None = None,
        params: Any = None,
        json: Any = None,
        returned: Collection[int] = (),
    ) -> requests.Response:
        """Send one request and return the answer's head; the body is still to be read.

        Raises:
            Transient: no connection, no answer in time, 408, 425, 429 or any 5xx that is not in
                *returned*.
            BadAnswer: redirects without end, or a URL that cannot be requested.
        """
        self._stats.add(f"{self._side}_requests")
        self._drop_idle_connections()
        began_s = time.monotonic()
        try:
            response = self._follow(what, method, url, budget, headers or {}, params, json)
        except ValueError as exc:  # no URL at all
            raise proxy_setting_error(what, exc, self._proxy_of(url)) from exc
        except TRANSPORT_ERRORS as exc:
            log.debug("%s: no answer after %.0f ms", what, 1000 * (time.monotonic() - began_s))
            # What became of this connection became of its idle neighbours: the next try must not
            # wait for each of them in turn.
            self._adapter.close()
            asked = getattr(getattr(exc, "request", None), "url", None) or url
            error = permanent_error(
                what, exc, asked, self._proxy_of(asked), has_answered=self._has_answered
            )
            if error is not None:
                raise error from exc
            raise Transient(Unavailable(f"{what}: no answer ({cause(exc)})")) from exc
        self._answered_s = time.monotonic()
        self._note_clock(response)
        if response.status_code >= 400 and log.isEnabledFor(logging.INFO):
            # Not every refusal's body is read, so its length is the one that is announced.
            log_answer(log, what, response, response.headers.get("Content-Length", "?"))
        if (refused := proxy_refusal(response, what, self._proxy_of(response.url))) is not None:
            response.close()
            raise refused
        status = response.status_code
        if (status in IMPATIENT_STATUSES or status >= 500) and status not in returned:
            wait_s = retry_after_s(response.headers.get("Retry-After"))
            text = f"{what}: {status} {response.reason}"
            response.close()
            # Too many requests is a request for patience, not a broken answer.
            error = Unavailable(text) if status in IMPATIENT_STATUSES else BadAnswer(text)
            raise Transient(error, retry_after_s=wait_s)
        return response

    @property
    def _has_answered(self) -> bool:
        return self._answered_s > float("-inf")

    def _proxy_of(self, url: str) -> str | None:
        try:
            return self._session.proxy_of(url)
        except ValueError:  # no URL at all
            return None

    def _follow(
        self,
        what: str,
        method: str,
        url: str,
        budget: Budget,
        headers: Mapping[str, str | None],
        params: Any,
        json: Any,
    ) -> requests.Response:
        """Send the request, to where redirects lead; the key goes to the first origin alone.

        `requests` would follow them itself, but unpacks their bodies whatever their size, adds
        what ~/.netrc says, and makes a GET of a POST.
        """
        origin = origin_of(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._session.request(
                method,
                url,
                params=params,
                json=json,
                headers=headers,
                timeout=budget.attempt_timeout_s(),
                stream=True,
            )
            location = requests.Session.get_redirect_target(self._session, response)
            if location is None:
                return response
            response.close()
            url, params = urljoin(url, location), None
            if origin_of(url) != origin:
                headers = {**headers, KEY_HEADER: None}  # for all that follows
            if method != "GET" and (
                KEY_HEADER in headers or response.status_code not in (307, 308)
            ):
                raise BadAnswer(f"{what}: redirected to where it cannot be sent")
        raise BadAnswer(f"{what}: redirects without end")

    def _drop_idle_connections(self) -> None:
        now_s = age_clock()
        if now_s - self._used_s > MAX_IDLE_S:
            self._adapter.close()
        self._used_s = now_s

    def receive(
        self,
        what: str,
        response: requests.Response,
        budget: Budget,
        sink: bytearray,
        most: int | None = None,
    ) -> None:
        """Append the answer's body to *sink* as it comes, so that a cut one can be resumed.

        Of a body longer than *most* bytes, not much more is taken, and the rest is not awaited.

        Raises:
            Transient: the body was cut, stalled, or the budget is used up.
        """
        before = len(sink)
        stop = None if most is None else before + most
        began_s = time.monotonic()
        with response:
            try:
                # Not `read`, which comes back with all of it: bytes that drip must be noticed.
                while chunk := response.raw.read1(CHUNK, decode_content=False):
                    sink += chunk
                    budget.received += len(chunk)
                    self._answered_s = time.monotonic()
                    self._stats.add(f"{self._side}_bytes", len(chunk))
                    if stop is not None and len(sink) > stop:
                        return
                    if budget.remaining_s <= 0:
                        raise Transient(Unavailable(f"{what}: the answer takes too long"))
            except TRANSPORT_ERRORS as exc:
                raise Transient(Unavailable(f"{what}: cut short ({cause(exc)})")) from exc
            finally:
                if response.status_code < 400 and log.isEnabledFor(logging.INFO):
                    log_answer(log, what, response, len(sink) - before, time.monotonic() - began_s)

    def receive_into(
        self, what: str, response: requests.Response, budget: Budget, body: ReceiveBuffer, size: int
    ) -> None:
        """Fill *body* with the answer's, *size* bytes, as they come; a cut one leaves what came.

        They go from the socket to where they stay: `requests` would copy each of them three times.

        Raises:
            Transient: the body was cut, stalled, is too long, or the budget is used up.
        """
        before = body.filled
        began_s = time.monotonic()
        with response, body.buffer[before : before + size] as room:
            source = getattr(response.raw, "_fp", None)
            if not isinstance(source, http.client.HTTPResponse):
                source = response.raw
            try:
                while count := _read_into(source, room[body.filled - before :][:CHUNK]):
                    body.filled += count
                    budget.received += count
                    self._answered_s = time.monotonic()
                    self._stats.add(f"{self._side}_bytes", count)
                    if budget.remaining_s <= 0:
                        raise Transient(Unavailable(f"{what}: the answer takes too long"))
                if body.filled == before + size and source.read(1):
                    body.filled = before
                    raise Transient(BadAnswer(f"{what}: longer than announced"), max_tries=2)
            except TRANSPORT_ERRORS as exc:
                raise Transient(Unavailable(f"{what}: cut short ({cause(exc)})")) from exc
            finally:
                if log.isEnabledFor(logging.INFO):
                    log_answer(
                        log, what, response, body.filled - before, time.monotonic() - began_s
                    )
            if body.filled < before + size:
                raise Transient(Unavailable(f"{what}: cut short"))
            response.raw.release_conn()

    def _note_clock(self, response: requests.Response) -> None:
        moment = http_date_s(response.headers.get("Date", ""))
        if moment is not None:
            self.clock_offset_s = moment - time.time()


def error_for_status(what: str, status: int, text: str) -> TaskFSError:
    """Return the error that an HTTP status of 4xx (or an unexpected one) means to a user.

    Never NotFound: a status alone does not tell who answered, so callers look at the body first.
    """
    text = f"{what}: {text or status}"
    return AccessDenied(text) if status in (401, 403) else BadAnswer(text)


def _read_into(source: Any, room: memoryview) -> int:
    """Fill *room* with what is there at once, and return how much that is; 0 at the end.

    `HTTPResponse.readinto` comes back only with all of it: then bytes that drip go unnoticed, and
    those that came before a connection broke are lost.
    """
    if not isinstance(source, http.client.HTTPResponse) or source.chunked or not source.length:
        piece = source.read1(len(room))
        room[: len(piece)] = piece
        return len(piece)
    count: int = source.fp.readinto1(room[: source.length])
    source.length -= count
    return count
