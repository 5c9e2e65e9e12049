"""Signalling: three calls of the task API that exchange the descriptions of two WebRTC peers."""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

from taskfs.errors import AccessDenied, BadResponse, Unavailable, Unreachable

# In seconds: longest time that one call may wait for the machine's answer. Proxies cut longer ones.
MAX_BLOCK_S: Final = 20
# In seconds, added to the waiting time of a call: the round trip to the API.
ROUND_TRIP_S: Final = 5.0
# In seconds, between two tries of a call that the API failed at.
RETRY_PAUSE_S: Final = 0.5


class SignallingRequest(NamedTuple):
    """An authenticated request to the task API.

    *path* begins with `/tasks/`. *timeout_s* bounds the wait for the response's header.
    """

    method: str
    path: str
    params: Mapping[str, str] | None
    json: Mapping[str, Any] | None
    timeout_s: float


class SignallingAPI(Protocol):
    """Sends signalling requests. Called by threads of this package, in parallel."""

    def __call__(self, request: SignallingRequest) -> tuple[int, bytes]:
        """Return the HTTP status and the body; an error status is returned or raised.

        Raises:
            Unavailable: there was no answer; the call is repeated while there is time, unless
                it is Unreachable.
            TaskFSError: any other refusal, which is final.
        """


def exchange_descriptions(
    api: SignallingAPI,
    task_id: str,
    offer_sdp: str,
    deadline_s: float,
    abandoned: Callable[[], bool],
) -> str:
    """Send the offer to the task's machine, and return the description that it answers with.

    Blocks until *deadline_s* (`time.monotonic`) at most. Each offer has a new sender id, so answers
    to earlier offers are not received.

    Raises:
        Unavailable: the machine did not answer, or the API failed until the deadline; Unreachable
            if no other try can succeed.
        AccessDenied: the API refuses the key.
        BadResponse: an answer makes no sense.
    """
    base = f"/tasks/{quote(task_id, safe='')}"
    sender = str(uuid.uuid4())

    def call(
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        block_s: int = 0,
    ) -> tuple[int, bytes]:
        while True:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0 or abandoned():
                raise Unavailable(f"task {task_id}: the machine was not reached in time")
            try:
                timeout_s = min(remaining_s, block_s + ROUND_TRIP_S)
                request = SignallingRequest(method, base + path, params, body, timeout_s)
                status, content = api(request)
            except Unreachable:
                raise
            except Unavailable as exc:
                failure = exc
            else:
                if status < 500 and status != 429:
                    return _checked(f"{method} {path}", status), content
                failure = Unavailable(f"{method} {path}: the API answers {status}")
            if time.monotonic() + RETRY_PAUSE_S >= deadline_s:
                raise failure
            time.sleep(RETRY_PAUSE_S)

    call("POST", "/register", body={"sender_id": sender})
    offer = {"sender_id": sender, "receiver_id": task_id, "type": "offer", "sdp": offer_sdp}
    call("POST", "/offer", body=offer)
    while True:
        # Never longer than the time that is left, and at least a second, as a whole number.
        block_s = max(1, min(MAX_BLOCK_S, int(deadline_s - time.monotonic())))
        params = {"client": sender, "block_s": str(block_s)}
        status, content = call("GET", "/message", params=params, block_s=block_s)
        if status == 200 and (answer := _answer_sdp(content)) is not None:
            return answer


def _checked(call: str, status: int) -> int:
    if status in (200, 201, 204):
        return status
    if status in (401, 403):
        raise AccessDenied(f"{call}: the API refuses the key ({status})")
    if status == 404:  # says nothing of a file on the machine, so it is not NotFound
        raise Unavailable(f"{call}: the API knows no machine of this task (404)")
    raise BadResponse(f"{call}: the API answers {status}")


def _answer_sdp(content: bytes) -> str | None:
    """Return the description in a message, None for a message of another type."""
    try:
        message = json.loads(content)
    except ValueError as exc:
        raise BadResponse("GET /message: the answer is not JSON") from exc
    if not isinstance(message, dict):
        raise BadResponse("GET /message: the answer is not an object")
    if message.get("type") != "answer":
        return None
    if not isinstance(message.get("sdp"), str):
        raise BadResponse("GET /message: the answer has no description")
    return str(message["sdp"])
