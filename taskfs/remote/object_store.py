"""`StoredObject`: one object in the store, read by range through a signed URL.

The formats are RFC 9110: Range (14.2), Content-Range (14.4), If-Match (13.1.1), ETag (8.8.3).
"""

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import partial
from typing import Final, NamedTuple, TypeVar

import requests

from taskfs.errors import (
    AccessDenied,
    BadAnswer,
    NotFound,
    StaleObject,
    TaskFSError,
    Unavailable,
    Unsupported,
)
from taskfs.model import Fetched, ObjectVersion
from taskfs.remote.answers import (
    ABSENT_CODES,
    ZIP_MAGIC,
    content_length,
    content_range,
    contradicts,
    error_code,
    has_tag_of,
    is_page,
    is_plain,
    is_weak,
    looks_like_page,
    unsatisfied_size,
    validator,
    version_of,
)
from taskfs.remote.retry import Budget, Transient
from taskfs.remote.transport import ReceiveBuffer, Transport, error_for_status
from taskfs.support.buffers import Buffer, allocate

T = TypeVar("T")

# A store that ignores Range answers 200 with everything: worth taking for a small object only.
SMALL_OBJECT: Final = 1 << 20
MAX_REFUSAL: Final = 4096
# How a store without suffix ranges refuses one; some send the whole object instead.
NO_SUFFIX: Final = frozenset({400, 416, 501})


class EmptyObject(BadAnswer):
    """The object has no bytes, so no range of it can be asked for."""


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
        self._is_weak = False  # the store's tags fail If-Match, at least at times

    def fetch_tail(self, length: int) -> Fetched:
        """Return the last *length* bytes of the object (all of it if it is smaller); see model.

        Where the first answer holds other bytes, as of a store without suffix ranges, it tells the
        size and the version all the same, and plain ranges bring the tail.
        """
        body = ReceiveBuffer(allocate(0))
        seen: ObjectVersion | None = None

        def attempt(budget: Budget) -> Fetched:
            nonlocal seen, body
            if seen is None or not body.filled:
                response, part = self._first(length, budget)
                seen = part.version
                start = max(0, seen.size - length)
                body = ReceiveBuffer(allocate(seen.size - start))
                if part.start == start:
                    self._receive(response, part, body, budget)
                else:
                    response.close()
            start = max(0, seen.size - length)
            # What came of the first answer is kept.
            self._resume(start, seen.size, seen, body, budget)
            return Fetched(start, bytes(body.buffer), seen)

        try:
            return self._run(attempt)
        except EmptyObject:
            return Fetched(0, b"", ObjectVersion(0, ""))

    def _first(self, length: int, budget: Budget) -> tuple[requests.Response, _Part]:
        """Send the first request for an object and return its answer, which tells the version."""
        response = self._get(f"bytes=-{length}", None, budget, returned=NO_SUFFIX)
        status = response.status_code
        if status == 206 or (status == 200 and _is_small(response)):
            return response, self._part(
                response, None, lambda size: (max(0, size - length), size), budget
            )
        if status == 200 and is_page(response.headers):
            raise self._mismatch("a page instead of the object", response)
        response.close()
        response = self._get("bytes=0-0", None, budget)
        return response, self._part(response, None, lambda size: (0, min(1, size)), budget)

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> Buffer:
        """Return the bytes [start, stop) of *version*, exactly that many; see model."""
        body = ReceiveBuffer(allocate(stop - start))

        def attempt(budget: Budget) -> Buffer:
            self._resume(start, stop, version, body, budget)
            return body.buffer

        return self._run(attempt)

    def _run(self, attempt: Callable[[Budget], T]) -> T:
        """Run one operation with retries; a URL that led to a failure is not used again."""
        try:
            return self._transport.run_with_retries(attempt)
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
            part = self._part(response, version, lambda _: (at, stop), budget)
            if part.start != at or part.stop > stop:
                raise self._mismatch("the range is not the one asked for", response)
            self._receive(response, part, body, budget)

    def _get(
        self,
        byte_range: str,
        version: ObjectVersion | None,
        budget: Budget,
        *,
        returned: Collection[int] = (),
    ) -> requests.Response:
        """Send one range request and return a 200, a 206 or a refusal that is in *returned*."""
        headers = {"Range": byte_range}
        # If-Match compares strongly: a weak tag would never match (RFC 9110, 13.1.1).
        if version is not None and version.etag.startswith('"') and not self._is_weak:
            headers["If-Match"] = version.etag
        response = self._send(headers, budget, returned)
        if response.status_code == 412 and version is not None:
            response.close()
            response = self._repeat_unpinned(byte_range, version, budget)
        if is_weak(response.headers):
            self._is_weak = True
        status = response.status_code
        if status in (200, 206):
            return response
        size = unsatisfied_size(response.headers.get("Content-Range", ""))
        if status == 416 and version is not None:
            if size == version.size:
                raise self._mismatch("a range within the object is refused", response)
            response.close()
            raise StaleObject(f"{self.path}: the object was replaced")
        if status == 416 and size == 0:
            response.close()
            raise EmptyObject(f"{self.path}: the object is empty")
        if status in returned:
            return response
        code = self._error_code(response, budget)
        text = f"{status} {code or response.reason}"
        if status in (404, 410):
            if code in ABSENT_CODES:
                raise NotFound(f"GET {self.path}: {text}")
            raise self._mismatch(f"{text}, without the store's word that the object is absent")
        if status < 400:
            raise self._mismatch(f"{text} in place of a range")
        raise error_for_status(f"GET {self.path}", status, text)

    def _send(
        self, headers: dict[str, str], budget: Budget, returned: Collection[int] = ()
    ) -> requests.Response:
        """Send one request; a URL that expired or was revoked is renewed once."""
        what, url = f"GET {self.path}", self._current_url(None)
        send = partial(
            self._transport.send, what, "GET", budget=budget, headers=headers, returned=returned
        )
        response = send(url)
        if response.status_code not in (400, 401, 403):
            return response
        code = self._error_code(response, budget)
        if response.status_code != 400 or "Expired" in code:
            response = send(self._current_url(url))
            if response.status_code == 400:
                code = self._error_code(response, budget)
                if "Expired" in code:
                    raise AccessDenied(f"{what}: the store says that a new URL has expired")
        if response.status_code == 400 and 400 not in returned:
            raise error_for_status(what, 400, f"400 {code or response.reason}")
        return response

    def _repeat_unpinned(
        self, byte_range: str, version: ObjectVersion, budget: Budget
    ) -> requests.Response:
        """Repeat a request without If-Match, because a tag in its weak form fails it too.

        Raises:
            StaleObject: the answer carries another tag than *version*, or is a 412 again.
            Transient: it carries none, which leaves open why the first one was refused.
        """
        response = self._send({"Range": byte_range}, budget)
        if response.status_code in (200, 206) and not is_page(response.headers):
            if not has_tag_of(response.headers, version):
                response.close()
                stale = StaleObject(f"{self.path}: the object was replaced")
                if validator(response.headers, version):
                    raise stale
                raise Transient(stale, max_tries=2)
            self._is_weak = True
        elif response.status_code == 412:
            response.close()
            raise StaleObject(f"{self.path}: the object was replaced")
        return response

    def _error_code(self, response: requests.Response, budget: Budget) -> str:
        """Return the store's error code, such as `NoSuchKey`: the rest may quote the signature."""
        body = bytearray()
        self._transport.receive(f"GET {self.path}", response, budget, body, MAX_REFUSAL)
        return error_code(response.headers, bytes(body))

    def _part(
        self,
        response: requests.Response,
        version: ObjectVersion | None,
        asked: Callable[[int], tuple[int, int]],
        budget: Budget,
    ) -> _Part:
        """Return what the answer's head says its body is, checked against *version*.

        A 200 is taken for a small object: the part is what was *asked* for, by the object's size.
        """
        headers = response.headers
        is_known = version is not None and has_tag_of(headers, version)
        if response.status_code == 200 and is_page(headers) and not is_known:
            raise self._mismatch("a page instead of the object", response)
        if not is_plain(headers.get("Content-Encoding", "")):
            response.close()
            raise Unsupported(f"{self.path}: the store sends a compressed representation")
        length = content_length(headers)
        if response.status_code == 200:
            self._check_whole(response, version, budget)
            size = length or 0
            return _Part(*asked(size), version or version_of(headers, size))
        told = content_range(headers.get("Content-Range", ""))
        if told is None:
            raise self._mismatch("no usable Content-Range", response)
        if not told.start < told.stop <= told.size or length not in (None, told.stop - told.start):
            raise self._mismatch("a Content-Range that contradicts itself", response)
        if version is not None and contradicts(headers, told.size, version):
            response.close()
            raise StaleObject(f"{self.path}: the object was replaced")
        return _Part(told.start, told.stop, version or version_of(headers, told.size))

    def _check_whole(
        self, response: requests.Response, version: ObjectVersion | None, budget: Budget
    ) -> None:
        """Return if a 200 holds the whole object, a small one, and *version* of it.

        A login page in place of an answer proves nothing about the object: only an archive's own
        first bytes do.
        """
        headers, size = response.headers, content_length(response.headers)
        if size == 0:
            raise self._mismatch("an empty answer", response)
        if version is not None and (size is None or contradicts(headers, size, version)):
            if not self._begins_as_archive(response, budget):
                raise self._mismatch("something else instead of the object")
            if _is_small(response):
                raise StaleObject(f"{self.path}: the object was replaced")
        if not _is_small(response):
            response.close()
            raise Unsupported(f"{self.path}: the store ignores byte ranges")

    def _begins_as_archive(self, response: requests.Response, budget: Budget) -> bool:
        """Read the first bytes of an answer, and close it."""
        body = bytearray()
        self._transport.receive(f"GET {self.path}", response, budget, body, len(ZIP_MAGIC))
        return body.startswith(ZIP_MAGIC)

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
        if looks_like_page(bytes(whole.buffer[:64])):
            raise self._mismatch("a page instead of the object")
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

    def _mismatch(self, why: str, response: requests.Response | None = None) -> Transient:
        """Close a wrong answer; it is looked at once more, then not believed."""
        if response is not None:
            response.close()
        error: TaskFSError = BadAnswer(f"GET {self.path}: {why}")
        return Transient(error, max_tries=2)


def _is_small(response: requests.Response) -> bool:
    length = content_length(response.headers)
    return length is not None and length <= SMALL_OBJECT
