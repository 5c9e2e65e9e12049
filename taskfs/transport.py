"""HTTP: sessions, timeouts, retries within a budget; renames HTTP failures to ours.

Two sides use it. The API side sends the key, and only to the API's own origin, also across
redirects. The store side sends no key, asks for byte ranges and never sends HEAD, which a
presigned URL refuses.
"""

import email.utils
import http.client
import http.cookiejar
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter

from taskfs import __version__
from taskfs.errors import AccessDenied, BadAnswer, NotFound, TaskFSError, Unavailable
from taskfs.redaction import redact
from taskfs.stats import Stats

log = logging.getLogger(__name__)
T = TypeVar("T")

KEY_HEADER: Final = "X-API-Key"
CONNECT_TIMEOUT_S: Final = 5.0
# A body may take longer than the budget as long as bytes keep coming at this rate.
MIN_BYTES_PER_S: Final = 16 * 1024
CHUNK: Final = 256 << 10
TRANSIENT_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
MAX_REDIRECTS: Final = 5
FOREIGN: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)


class Transient(Exception):
    """A failure worth another try: `error` is raised once the budget is used up.

    `retry_after_s` is how long the server asked to wait; `tries` bounds answers that a second
    look may cure but patience will not.
    """

    def __init__(
        self, error: TaskFSError, *, retry_after_s: float | None = None, tries: int | None = None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s
        self.tries = tries


@dataclass(slots=True)
class Budget:
    """How long one exchange may go on trying; bytes that arrive extend it."""

    timeout_s: float
    began: float
    received: int = 0

    @property
    def remaining_s(self) -> float:
        """Seconds left; 0 or less when the budget is used up."""
        allowed = self.timeout_s + self.received / MIN_BYTES_PER_S
        return self.began + allowed - time.monotonic()

    def attempt_timeout_s(self) -> tuple[float, float]:
        """The connect and read timeouts of one attempt: a stall leaves time for another one."""
        remaining = max(0.05, self.remaining_s)
        return min(CONNECT_TIMEOUT_S, remaining), min(max(1.0, self.timeout_s / 3), remaining)


@dataclass(slots=True)
class Filling:
    """A buffer of the length that is wanted, filled from its start as bytes come."""

    buffer: memoryview
    filled: int = 0


class _Session(requests.Session):
    """A session whose key does not leave the origin it was meant for."""

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]
        if _origin(prepared_request.url) != _origin(response.request.url):
            prepared_request.headers.pop(KEY_HEADER, None)


def _origin(url: str | None) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url or "")
    return parts.scheme, parts.hostname, parts.port


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def retry_after_s(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3), or None."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


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
        self._session = _Session()
        adapter = HTTPAdapter(pool_connections=4, pool_maxsize=connections, max_retries=0)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        # A ~/.netrc entry for the store's host would break a presigned request.
        self._session.auth = _no_auth
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._session.max_redirects = MAX_REDIRECTS
        self._session.headers["User-Agent"] = f"taskfs/{__version__}"
        # A compressed representation has other byte offsets than the object.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.headers.update(headers or {})

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()

    def retrying(self, what: str, attempt: Callable[[Budget], T]) -> T:
        """Return what *attempt* returns, tried again with backoff and jitter while it is transient.

        *attempt* raises `Transient` for a failure worth another try; everything else passes.
        `Retry-After` is respected; one that lies beyond the budget ends the tries at once.

        Raises:
            the error inside the last `Transient` once `timeout_s` seconds are used up.
        """
        budget = Budget(self.timeout_s, time.monotonic())
        jitter = tenacity.wait_random_exponential(multiplier=0.1, max=4.0)

        def wait(state: tenacity.RetryCallState) -> float:
            return max(_failure(state).retry_after_s or 0.0, jitter(state))

        def stop(state: tenacity.RetryCallState) -> bool:
            tries = _failure(state).tries
            out_of_tries = tries is not None and state.attempt_number >= tries
            return out_of_tries or state.upcoming_sleep >= budget.remaining_s

        def before_sleep(state: tenacity.RetryCallState) -> None:
            self._stats.add(f"{self._side}_retries")
            log.info("%s: %s; again in %.1f s", what, _failure(state), state.upcoming_sleep)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient),
            wait=wait,
            stop=stop,
            before_sleep=before_sleep,
            reraise=True,
        )
        try:
            return retrying(attempt, budget)
        except Transient as exc:
            raise exc.error from exc.__cause__

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
    ) -> requests.Response:
        """Send one request and return the answer's head; the body is still to be read.

        Raises:
            Transient: no connection, no answer in time, 408, 429 or 5xx.
            BadAnswer: redirects without end, or a URL that cannot be requested.
        """
        self._stats.add(f"{self._side}_requests")
        try:
            response = self._session.request(
                method,
                url,
                params=params,
                json=json,
                headers=headers,
                timeout=budget.attempt_timeout_s(),
                stream=True,
            )
        except (requests.TooManyRedirects, ValueError) as exc:  # ValueError: no URL at all
            raise BadAnswer(f"{what}: {redact(str(exc))}") from exc
        except FOREIGN as exc:
            raise Transient(Unavailable(f"{what}: no answer ({_cause(exc)})")) from exc
        self._note_clock(response)
        if response.status_code in TRANSIENT_STATUSES:
            wait_s = retry_after_s(response.headers.get("Retry-After"))
            text = f"{what}: {response.status_code} {response.reason}"
            response.close()
            # Too many requests is a request for patience, not a broken answer.
            error = (
                Unavailable(text) if response.status_code in (408, 425, 429) else BadAnswer(text)
            )
            raise Transient(error, retry_after_s=wait_s)
        return response

    def receive(
        self, what: str, response: requests.Response, budget: Budget, sink: bytearray
    ) -> None:
        """Append the answer's body to *sink* as it comes, so that a cut one can be resumed.

        Raises:
            Transient: the body was cut, stalled, or the budget is used up.
        """
        with response:
            try:
                while chunk := response.raw.read(CHUNK, decode_content=False):
                    sink += chunk
                    budget.received += len(chunk)
                    self._stats.add(f"{self._side}_bytes", len(chunk))
                    if budget.remaining_s <= 0:
                        raise Transient(Unavailable(f"{what}: the answer takes too long"))
            except FOREIGN as exc:
                raise Transient(Unavailable(f"{what}: cut short ({_cause(exc)})")) from exc

    def receive_into(
        self, what: str, response: requests.Response, budget: Budget, body: Filling, size: int
    ) -> None:
        """Fill *body* with the answer's, *size* bytes, as they come; a cut one leaves what came.

        They go from the socket to where they stay: `requests` would copy each of them three times.

        Raises:
            Transient: the body was cut, stalled, is too long, or the budget is used up.
        """
        before = body.filled
        with response, body.buffer[before : before + size] as room:
            source = getattr(response.raw, "_fp", None)
            if not isinstance(source, http.client.HTTPResponse):
                source = response.raw
            try:
                while count := source.readinto(room[body.filled - before :][:CHUNK]):
                    body.filled += count
                    budget.received += count
                    self._stats.add(f"{self._side}_bytes", count)
                    if budget.remaining_s <= 0:
                        raise Transient(Unavailable(f"{what}: the answer takes too long"))
                if body.filled == before + size and source.read(1):
                    body.filled = before
            except FOREIGN as exc:
                raise Transient(Unavailable(f"{what}: cut short ({_cause(exc)})")) from exc
            if body.filled < before + size:
                raise Transient(BadAnswer(f"{what}: cut short"))
            response.raw.release_conn()

    def _note_clock(self, response: requests.Response) -> None:
        try:
            date = email.utils.parsedate_to_datetime(response.headers["Date"])
        except (KeyError, TypeError, ValueError):
            return
        self.clock_offset_s = date.timestamp() - time.time()


def refusal(what: str, status: int, text: str) -> TaskFSError:
    """Return the error that an HTTP status of 4xx (or an unexpected one) means to a user."""
    text = f"{what}: {text or status}"
    kinds: dict[int, type[TaskFSError]] = {
        401: AccessDenied,
        403: AccessDenied,
        404: NotFound,
        410: NotFound,
    }
    return kinds.get(status, BadAnswer)(text)


def _failure(state: tenacity.RetryCallState) -> Transient:
    assert state.outcome is not None
    failure = state.outcome.exception()
    assert isinstance(failure, Transient)
    return failure


def _cause(exc: BaseException) -> str:
    """Name the reason at the bottom: `requests` wraps it in texts that repeat the URL."""
    seen = exc
    while True:
        inner = seen.__cause__ or seen.__context__ or getattr(seen, "reason", None)
        if not isinstance(inner, BaseException) or inner is seen:
            break
        seen = inner
    text = (
        redact(str(seen)).split(": ", 1)[-1] if isinstance(seen, OSError) else type(seen).__name__
    )
    return text or type(seen).__name__
