"""`StoredObject`: one object in the store, read by range through a signed URL.

The formats are RFC 9110: Range (14.2), Content-Range (14.4), If-Match (13.1.1), ETag (8.8.3).
"""

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, NamedTuple, TypeVar

import requests

from taskfs.errors import (
    AccessDenied,
    BadAnswer,
    StaleObject,
    TaskFSError,
    Unavailable,
    Unsupported,
)
from taskfs.model import Fetched, ObjectVersion
from taskfs.remote.retry import Budget, Transient
from taskfs.remote.transport import ReceiveBuffer, Transport, error_for_status
from taskfs.support.buffers import Buffer, allocate

T = TypeVar("T")

# At most 18 digits: what is larger is no size, and int() refuses text without end.
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_CONTENT_LENGTH: Final = re.compile(r"[0-9]{1,18}")
# A store that ignores Range answers 200 with everything: worth taking for a small object only.
SMALL_OBJECT: Final = 1 << 20
MAX_REFUSAL: Final = 4096


class _Part(NamedTuple):
    """What one answer said it holds: the bytes [start, stop) of *version*."""

    start: int
    stop: int
    version: ObjectVersion


class StoredObject:
    """One object in the store, through a signed URL that is renewed when it expires.

    Safe for concurrent use: the lock guards the URL and who asks for a new one, so that one expiry
    costs one renewal however many readers wait for it. Where it fails, it fails for all of them:
    each in turn would wait as long again.
    """

    def __init__(self, path: str, sign: Callable[[], str], transport: Transport) -> None:
        self.path = path
        self._sign = sign
        self._transport = transport
        self._lock = threading.Lock()
        self._url: str | None = None
        self._signing: Future[str] | None = None

    def fetch_tail(self, length: int) -> Fetched:
        """Return the last *length* bytes of the object (all of it if it is smaller); see model."""
        body = ReceiveBuffer(allocate(0))
        seen: _Part | None = None

        def attempt(budget: Budget) -> Fetched:
            nonlocal seen, body
            if seen is None or not body.filled:
                response = self._get(f"bytes=-{length}", None, budget)
                seen = self._part(response, None, lambda size: (max(0, size - length), size))
                expected = min(length, seen.version.size)
                if seen.stop != seen.version.size or seen.stop - seen.start != expected:
                    response.close()
                    raise self._mismatch("the range is not the one asked for")
                body = ReceiveBuffer(allocate(expected))
                self._receive(response, seen, body, budget)
            # What came of the first answer is kept.
            self._resume(seen.start, seen.stop, seen.version, body, budget)
            return Fetched(seen.start, bytes(body.buffer), seen.version)

        return self._retrying(attempt)

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> Buffer:
        """Return the bytes [start, stop) of *version*, exactly that many; see model."""
        body = ReceiveBuffer(allocate(stop - start))

        def attempt(budget: Budget) -> Buffer:
            self._resume(start, stop, version, body, budget)
            return body.buffer

        return self._retrying(attempt)

    def _retrying(self, attempt: Callable[[Budget], T]) -> T:
        """Return what *attempt* does; a URL that led to nothing is not used again."""
        try:
            return self._transport.retrying(f"GET {self.path}", attempt)
        except (BadAnswer, Unavailable):
            with self._lock:
                self._url = None
            raise

    def _resume(
        self, start: int, stop: int, version: ObjectVersion, body: ReceiveBuffer, budget: Budget
    ) -> None:
        """Fetch what *body* still lacks of [start, stop)."""
        while (at := start + body.filled) < stop:
            response = self._get(f"bytes={at}-{stop - 1}", version, budget)
            part = self._part(response, version, lambda _: (at, stop))
            if part.start != at or part.stop > stop:
                response.close()
                raise self._mismatch("the range is not the one asked for")
            self._receive(response, part, body, budget)

    def _get(
        self, byte_range: str, version: ObjectVersion | None, budget: Budget
    ) -> requests.Response:
        """Send one range request; a URL that expired or was revoked is renewed once."""
        what = f"GET {self.path}"
        headers = {"Range": byte_range}
        # If-Match compares strongly: a weak tag would never match (RFC 9110, 13.1.1).
        if version is not None and version.etag.startswith('"'):
            headers["If-Match"] = version.etag
        url = self._current_url(None)
        response = self._transport.send(what, "GET", url, budget, headers=headers)
        if response.status_code in (400, 401, 403):
            text = self._refusal_text(response, budget)
            if response.status_code != 400 or "Expired" in text:
                renewed = self._current_url(url)
                response = self._transport.send(what, "GET", renewed, budget, headers=headers)
                if response.status_code == 400 and "Expired" in self._refusal_text(
                    response, budget
                ):
                    raise AccessDenied(f"{what}: the store says that a new URL has expired")
            else:
                raise error_for_status(what, 400, text)
        if response.status_code in (200, 206):
            return response
        if response.status_code == 412 or (response.status_code == 416 and version is not None):
            response.close()
            raise StaleObject(f"{self.path}: the object was replaced")
        if response.status_code == 416 and response.headers.get("Content-Range") == "bytes */0":
            response.close()
            raise BadAnswer(f"{self.path}: the object is empty")
        text = self._refusal_text(response, budget)
        raise error_for_status(what, response.status_code, text)

    def _refusal_text(self, response: requests.Response, budget: Budget) -> str:
        """Return the store's error code, such as `NoSuchKey`: the rest may quote the signature."""
        body = bytearray()
        self._transport.receive(f"GET {self.path}", response, budget, body, MAX_REFUSAL)
        code = re.search(rb"<Code>([A-Za-z]{1,64})</Code>", bytes(body))
        return f"{response.status_code} {code[1].decode() if code else response.reason}"

    def _part(
        self,
        response: requests.Response,
        version: ObjectVersion | None,
        asked: Callable[[int], tuple[int, int]],
    ) -> _Part:
        """Return what the answer's head says its body is, checked against *version*.

        A 200 is taken for a small object: then the part is what was *asked* for, by the object's
        size, out of the whole.
        """
        etag = response.headers.get("ETag") or response.headers.get("Last-Modified", "")
        if response.headers.get("Content-Encoding", "identity") not in ("", "identity"):
            response.close()
            raise Unsupported(f"{self.path}: the store sends a compressed representation")
        told = _CONTENT_LENGTH.fullmatch(response.headers.get("Content-Length", "").strip())
        length = int(told[0]) if told else None
        if response.status_code == 200:
            if length is None or length > SMALL_OBJECT:
                response.close()
                raise Unsupported(f"{self.path}: the store ignores byte ranges")
            size = length
            part = _Part(*asked(size), ObjectVersion(size, etag))
        else:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            if match is None:
                response.close()
                raise self._mismatch("no usable Content-Range")
            first, last, size = map(int, match.groups())
            part = _Part(first, last + 1, ObjectVersion(size, etag))
            if last < first or last >= size or length not in (None, last + 1 - first):
                response.close()
                raise self._mismatch("a Content-Range that contradicts itself")
        if version is not None and part.version != version:
            response.close()
            raise StaleObject(f"{self.path}: the object was replaced")
        return part

    def _receive(
        self, response: requests.Response, part: _Part, body: ReceiveBuffer, budget: Budget
    ) -> None:
        """Add the part's bytes to *body*; one that is cut leaves there what came."""
        what = f"GET {self.path}"
        if response.status_code == 206:
            self._transport.receive_into(what, response, budget, body, part.stop - part.start)
            return
        whole = ReceiveBuffer(allocate(part.version.size))
        self._transport.receive_into(what, response, budget, whole, part.version.size)
        after = body.filled + part.stop - part.start
        body.buffer[body.filled : after] = whole.buffer[part.start : part.stop]
        body.filled = after

    def _current_url(self, refused: str | None) -> str:
        """Return the signed URL, a new one if there is none yet or *refused* is the current one."""
        with self._lock:
            if self._url is not None and self._url != refused:
                return self._url
            signing = self._signing
            if signing is None:
                mine = self._signing = Future()
        if signing is not None:
            return signing.result()
        try:
            url = self._sign()
        except BaseException as exc:
            with self._lock:
                self._signing = None
            mine.set_exception(exc)
            raise
        with self._lock:
            self._url, self._signing = url, None
        mine.set_result(url)
        return url

    def _mismatch(self, why: str) -> Transient:
        """A wrong answer is looked at once more, then not believed."""
        error: TaskFSError = BadAnswer(f"GET {self.path}: {why}")
        return Transient(error, tries=2)
