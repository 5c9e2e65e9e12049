"""`APIConnection`: requests to the task API, with JSON bodies and the API's own errors."""

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from taskfs.errors import BadResponse, NotFound, Unavailable
from taskfs.remote.retry import Deadline, Transient
from taskfs.remote.task_json import NOT_JSON, mend_json
from taskfs.remote.transport import KEY_HEADER, Transport, error_for_status
from taskfs.support.redaction import register_secret
from taskfs.support.stats import Stats

if TYPE_CHECKING:
    from taskfs.remote.live_signalling import SignallingRequest

T = TypeVar("T")

# Bytes of one response: a page of 500 tasks has a few megabytes.
MAX_RESPONSE: Final = 64 << 20
# Bytes of one response of signalling: an offer or answer has a few kilobytes.
MAX_SIGNALLING_RESPONSE: Final = 1 << 20
# Characters of the API's error text that go into the error.
MAX_ERROR_TEXT: Final = 500
# The paths of requests for one task: only there is a 404 the API's own, never for a collection.
_ONE_TASK: Final = re.compile(r"/tasks/[^/]+(/|$)")


class APIConnection:
    """The connections to one task API, and the key. Safe for concurrent use: it is immutable."""

    def __init__(self, url: str, api_key: str, *, timeout_s: float, stats: Stats) -> None:
        register_secret(api_key)
        self.url = url.rstrip("/")
        self.transport = Transport(
            timeout_s=timeout_s,
            stats=stats,
            endpoint="api",
            headers={KEY_HEADER: api_key, "Accept": "application/json"},
        )

    def call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        params: Any = None,
        json: Any = None,
        deadline: Deadline | None = None,
    ) -> T:
        """Send a request with retries, and return the response decoded as *kind*."""
        return self.transport.run_with_retries(
            lambda deadline: self.send_once(method, path, kind, deadline, params=params, json=json),
            deadline,
        )

    def send_once(
        self,
        method: str,
        path: str,
        kind: type[T],
        deadline: Deadline,
        *,
        params: Any = None,
        json: Any = None,
    ) -> T:
        """Send a request once, and return the response decoded as *kind*.

        Raises:
            Transient: another try may succeed.
            NotFound, AccessDenied, BadResponse, Unreachable: another try would fail as well.
        """
        label = f"{method} {path}"
        response = self.transport.send(
            label, method, self.url + path, deadline, params=params, json=json
        )
        body = bytearray()
        self.transport.bodies.receive(label, response, deadline, body, MAX_RESPONSE)
        if len(body) > MAX_RESPONSE:
            raise BadResponse(f"{label}: the response is larger than {MAX_RESPONSE >> 20} MiB")
        if response.status_code in (404, 410):
            detail = _error_text(body)
            if detail and _ONE_TASK.match(path):
                raise NotFound(f"{label}: {detail}")
            # A proxy that cannot reach the API may send a 404 too. It must not look like an empty
            # listing or a deleted task.
            text = f"{label}: {response.status_code}, which the task API itself did not send"
            raise Transient(BadResponse(text), max_tries=2)
        if 300 <= response.status_code < 400:
            text = f"{label}: {response.status_code}, a redirect without a target"
            raise Transient(BadResponse(text), max_tries=2)
        if response.status_code >= 400:
            raise error_for_status(
                label, response.status_code, _error_text(body) or response.reason
            )
        try:
            return msgspec.json.decode(body, type=kind)
        except NOT_JSON as exc:
            with contextlib.suppress(*NOT_JSON):
                return msgspec.json.decode(mend_json(body), type=kind)
            # One more try, because it may be the error page of a proxy for a short failure.
            error = BadResponse(f"{label}: the response is not what the API promises ({exc})")
            raise Transient(error, max_tries=2) from exc

    def signal(self, request: "SignallingRequest") -> tuple[int, bytes]:
        """Send one signalling request and return the status and the body, as `SignallingAPI` says.

        Raises:
            Unavailable: there is no usable response, and another try may succeed.
        """
        method, path, params, json, timeout_s = request
        label = f"{method} {path}"
        # One try may take a third of the time, and the API responds when the machine does.
        deadline = Deadline(3 * timeout_s, time.monotonic())
        body = bytearray()
        try:
            url = self.url + path
            response = self.transport.send(label, method, url, deadline, params=params, json=json)
            self.transport.bodies.receive(label, response, deadline, body, MAX_SIGNALLING_RESPONSE)
        except Transient as exc:
            raise Unavailable(str(exc)) from exc
        return response.status_code, bytes(body)


def _error_text(body: bytes | bytearray) -> str:
    """Return the text of an API error, `{"detail": …}` with a text or a list of `{loc, msg}`."""
    try:
        detail = msgspec.json.decode(body)["detail"]
        if isinstance(detail, list):
            detail = "; ".join(str(item["msg"]) for item in detail)
        return str(detail)[:MAX_ERROR_TEXT]
    except (*NOT_JSON, KeyError, TypeError):
        return ""
