"""`Transport`: HTTP requests with timeouts, redirects and retries; converts the errors of HTTP.

There are two transports. The API's sends the key, and only to the API's own origin, also across
redirects. The store's sends no key, and no HEAD requests, which presigned URLs refuse.
"""

import http.cookiejar
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urljoin

import requests

from taskfs import __version__
from taskfs.errors import AccessDenied, BadResponse, TaskFSError, Unavailable
from taskfs.remote.connection_errors import (
    cause,
    permanent_error,
    proxy_refusal,
    proxy_setting_error,
)
from taskfs.remote.header_timeout import HeaderTimeoutAdapter
from taskfs.remote.http_session import HTTPSession, origin_of
from taskfs.remote.request_log import log_response
from taskfs.remote.response_body import TRANSPORT_ERRORS, BodyReceiver
from taskfs.remote.retry import Deadline, Transient, http_date_s, retry_after_s, retry_transient
from taskfs.support.clock import age_clock
from taskfs.support.stats import Stats
from taskfs.support.thread_pool import submitted_s

log = logging.getLogger(__name__)
T = TypeVar("T")

KEY_HEADER: Final = "X-API-Key"
# Statuses that ask for another try later; they do not mean a broken response.
TRY_LATER_STATUSES: Final = frozenset({408, 425, 429})
# Connections to one server that are kept: enough for all threads that send requests at once.
MAX_CONNECTIONS: Final = 32
# Redirects that one request follows; services use one or two, and a loop of them must end.
MAX_REDIRECTS: Final = 5
# Seconds after which idle connections are dropped: they may be dead, for example after a laptop
# slept.
MAX_IDLE_S: Final = 60.0
# Seconds that an operation gets if its time was used up in a queue.
QUICK_S: Final = 1.0


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class Transport:
    """A pool of connections to the API or to the store, with retries.

    *endpoint*, `api` or `store`, is the prefix of the names of its counters. Safe for concurrent
    use: the session is not changed after construction, and a race over the times costs at most a
    connection.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        stats: Stats,
        endpoint: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self._stats = stats
        self._endpoint = endpoint
        self.clock_offset_s: float | None = None
        self._used_s = age_clock()
        self.bodies = BodyReceiver(stats, endpoint)
        self._session = HTTPSession()
        self._adapter = HeaderTimeoutAdapter(
            pool_connections=4, pool_maxsize=MAX_CONNECTIONS, max_retries=0
        )
        self._session.mount("https://", self._adapter)
        self._session.mount("http://", self._adapter)
        # A ~/.netrc entry for the store's host would break a presigned request.
        self._session.auth = _no_auth
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers["User-Agent"] = f"taskfs/{__version__}"
        # Byte offsets of a compressed representation would not be those of the object.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.headers.update(headers or {})

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()

    def deadline(self) -> Deadline:
        """Return the deadline of an operation that begins now.

        The operation's time in the queue of its thread pool counts if the server was silent
        meanwhile. There is always time for one quick try.
        """
        now_s = time.monotonic()
        since_s = submitted_s()
        if since_s is None or self.bodies.received_s > since_s:
            return Deadline(self.timeout_s, now_s)
        quick_s = min(QUICK_S, self.timeout_s / 2)
        return Deadline(self.timeout_s, max(since_s, now_s + quick_s - self.timeout_s))

    def run_with_retries(
        self, attempt: Callable[[Deadline], T], deadline: Deadline | None = None
    ) -> T:
        """Call *attempt* until it does not raise `Transient`, and return its result.

        *deadline* is a longer operation's; without it, the operation begins now.

        Raises:
            TaskFSError: the error inside the last `Transient`; see `retry_transient`.
        """

        def before_pause(failure: Transient, pause_s: float) -> None:
            self._stats.add(f"{self._endpoint}_retries")
            log.info("%s; retry in %.1f s", failure, pause_s)

        return retry_transient(attempt, deadline or self.deadline(), before_pause)

    def send(
        self,
        label: str,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        headers: Mapping[str, str] | None = None,
        params: Any = None,
        json: Any = None,
        returned: Collection[int] = (),
    ) -> requests.Response:
        """Send one request, follow redirects, and return the response with its body unread.

        *label* names the request in errors and in the log, without secrets: `GET /tasks`.

        Raises:
            Transient: no connection, no response in time, or the status is 408, 425, 429 or 5xx,
                and not in *returned*.
            Unreachable, ProxyRefused, ConfigError: another try would fail as well.
            BadResponse: too many redirects, or a URL that cannot be requested.
        """
        self._stats.add(f"{self._endpoint}_requests")
        self._drop_idle_connections()
        began_s = time.monotonic()
        try:
            response = self._follow(label, method, url, deadline, headers or {}, params, json)
        except ValueError as exc:  # the URL, or the address of the proxy, is unusable
            raise proxy_setting_error(label, exc, self._proxy_of(url)) from exc
        except TRANSPORT_ERRORS as exc:
            log.debug("%s: no response after %.0f ms", label, 1000 * (time.monotonic() - began_s))
            # Idle connections to this host are probably dead too. Drop them, or the next try waits
            # for one after another.
            self._adapter.drop_idle_connections()
            failed_url = getattr(getattr(exc, "request", None), "url", None) or url
            error = permanent_error(
                label,
                exc,
                failed_url,
                self._proxy_of(failed_url),
                has_responded=self._has_responded,
            )
            if error is not None:
                raise error from exc
            raise Transient(Unavailable(f"{label}: no response ({cause(exc)})")) from exc
        self.bodies.received_s = time.monotonic()
        self._note_clock(response)
        if response.status_code >= 400 and log.isEnabledFor(logging.INFO):
            # Not every error body is read, so log the declared length.
            log_response(log, label, response, response.headers.get("Content-Length", "?"))
        if (refused := proxy_refusal(response, label, self._proxy_of(response.url))) is not None:
            response.close()
            raise refused
        status = response.status_code
        if (status in TRY_LATER_STATUSES or status >= 500) and status not in returned:
            wait_s = retry_after_s(response.headers.get("Retry-After"))
            text = f"{label}: {status} {response.reason}"
            response.close()
            error = Unavailable(text) if status in TRY_LATER_STATUSES else BadResponse(text)
            raise Transient(error, retry_after_s=wait_s)
        return response

    @property
    def _has_responded(self) -> bool:
        return self.bodies.received_s > float("-inf")

    def _proxy_of(self, url: str) -> str | None:
        try:
            return self._session.proxy_of(url)
        except ValueError:  # the URL is unusable
            return None

    def _follow(
        self,
        label: str,
        method: str,
        url: str,
        deadline: Deadline,
        headers: Mapping[str, str | None],
        params: Any,
        json: Any,
    ) -> requests.Response:
        """Send the request and follow redirects; only the first origin is sent the key.

        `requests` does not follow them itself, because it unpacks bodies of redirects of any size,
        adds credentials from ~/.netrc, and turns a POST into a GET.
        """
        origin = origin_of(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._session.request(
                method,
                url,
                params=params,
                json=json,
                headers=headers,
                timeout=deadline.attempt_timeout_s(),
                stream=True,
            )
            location = requests.Session.get_redirect_target(self._session, response)
            if location is None:
                return response
            response.close()
            url, params = urljoin(url, location), None
            if origin_of(url) != origin:
                headers = {**headers, KEY_HEADER: None}  # for all further redirects
            if method != "GET" and (
                KEY_HEADER in headers or response.status_code not in (307, 308)
            ):
                raise BadResponse(f"{label}: redirected to a URL that it must not be sent to")
        raise BadResponse(f"{label}: too many redirects")

    def _drop_idle_connections(self) -> None:
        now_s = age_clock()
        if now_s - self._used_s > MAX_IDLE_S:
            self._adapter.drop_idle_connections()
        self._used_s = now_s

    def _note_clock(self, response: requests.Response) -> None:
        moment = http_date_s(response.headers.get("Date", ""))
        if moment is not None:
            self.clock_offset_s = moment - time.time()


def error_for_status(label: str, status: int, text: str) -> TaskFSError:
    """Return the error for a 4xx or an unexpected status.

    It is never NotFound, because a proxy may send a 404 too: callers must examine the body first.
    """
    text = f"{label}: {text or status}"
    return AccessDenied(text) if status in (401, 403) else BadResponse(text)
