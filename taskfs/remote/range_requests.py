"""`RangeRequests`: sends range requests for one object, and judges the store's responses."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Final, NamedTuple

import requests

from taskfs.errors import (
    AccessDenied,
    BadResponse,
    NotFound,
    StaleObject,
    TaskFSError,
    UnsupportedStore,
)
from taskfs.model import ObjectVersion
from taskfs.remote.retry import Deadline, Transient
from taskfs.remote.signed_url import SignedURL
from taskfs.remote.store_headers import (
    ABSENT_CODES,
    ZIP_MAGIC,
    content_length,
    content_range,
    contradicts,
    error_code,
    has_tag_of,
    has_weak_tag,
    is_page,
    is_plain,
    unsatisfied_size,
    validator,
    version_of,
)
from taskfs.remote.transport import Transport, error_for_status

# Bytes. A store that ignores Range sends the whole object, which is accepted up to this size.
SMALL_OBJECT: Final = 1 << 20
# Bytes that are read of an error body; the error code stands in the first few hundred.
MAX_ERROR_BODY: Final = 4096
# Tries after a 412 until a response has a tag, and tries of the whole request, each with a 412 and
# these tries. After all of them the object counts as replaced. So a store that omits the tag in one
# of three responses fails once in some 20,000 reads.
UNTAGGED_TRIES: Final = 3


class EmptyObject(BadResponse):
    """A signal to `StoreObject.fetch_tail`: the object has no bytes, so it has no range."""


class Part(NamedTuple):
    """The bytes [start, stop) of *version*, which the body of one response holds."""

    start: int
    stop: int
    version: ObjectVersion


class RangeRequests:
    """Sends range requests for one object.

    Safe for concurrent use: `SignedURL` has its own lock, and the weak-tag flag only ever changes
    from false to true.
    """

    def __init__(self, path: str, sign: Callable[[], str], transport: Transport) -> None:
        self._path = path
        self._transport = transport
        self._url = SignedURL(sign)
        # If set, no If-Match is sent, because the store refuses it for weak tags.
        self._has_weak_tags = False

    def discard_url(self) -> None:
        """Have the next request use a new URL."""
        self._url.discard()

    def get(
        self,
        byte_range: str,
        version: ObjectVersion | None,
        deadline: Deadline,
        *,
        returned: Collection[int] = (),
    ) -> requests.Response:
        """Send one range request; return a 200, a 206 or a response whose status is in *returned*.

        Raises:
            StaleObject: the object is no longer *version*.
            NotFound, AccessDenied, BadResponse, Transient: the store refuses the request.
        """
        headers = {"Range": byte_range}
        # If-Match uses strong comparison, which a weak tag never passes (RFC 9110, 13.1.1).
        if version is not None and version.etag.startswith('"') and not self._has_weak_tags:
            headers["If-Match"] = version.etag
        response = self._send(headers, deadline, returned)
        if response.status_code == 412 and version is not None:
            response.close()
            response = self._retry_without_if_match(byte_range, version, deadline)
        if has_weak_tag(response.headers):
            self._has_weak_tags = True
        status = response.status_code
        if status in (200, 206):
            return response
        size = unsatisfied_size(response.headers.get("Content-Range", ""))
        if status == 416 and version is not None:
            if size == version.size:
                raise self.wrong_response("a range within the object is refused", response)
            response.close()
            raise StaleObject(f"{self._path}: the object was replaced")
        if status == 416 and size == 0:
            response.close()
            raise EmptyObject(f"{self._path}: the object is empty")
        if status in returned:
            return response
        code = self._error_code(response, deadline)
        text = f"{status} {code or response.reason}"
        if status in (404, 410):
            if code in ABSENT_CODES:
                raise NotFound(f"GET {self._path}: {text}")
            raise self.wrong_response(f"{text}, without the store's code for an absent object")
        if status < 400:
            raise self.wrong_response(f"{text} in place of a range")
        raise error_for_status(f"GET {self._path}", status, text)

    def _send(
        self, headers: dict[str, str], deadline: Deadline, returned: Collection[int] = ()
    ) -> requests.Response:
        """Send one request, and once more with a new URL if the store refuses the URL."""
        label, url = f"GET {self._path}", self._url.get()
        send = partial(
            self._transport.send,
            label,
            "GET",
            deadline=deadline,
            headers=headers,
            returned=returned,
        )
        response = send(url)
        if response.status_code not in (400, 401, 403):
            return response
        code = self._error_code(response, deadline)
        if response.status_code != 400 or "Expired" in code:
            response = send(self._url.get(refused=url))
            if response.status_code == 400:
                code = self._error_code(response, deadline)
                if "Expired" in code:
                    raise AccessDenied(f"{label}: the store reports a new URL as expired")
        if response.status_code == 400 and 400 not in returned:
            raise error_for_status(label, 400, f"400 {code or response.reason}")
        return response

    def _retry_without_if_match(
        self, byte_range: str, version: ObjectVersion, deadline: Deadline
    ) -> requests.Response:
        """Repeat a request without If-Match, because If-Match fails for a weak tag as well.

        Raises:
            StaleObject: the response has another tag than *version*, or is a 412 again.
            Transient: no response has a tag, so the reason of the first 412 stays unknown.
        """
        for _ in range(UNTAGGED_TRIES):
            response = self._send({"Range": byte_range}, deadline)
            if response.status_code != 206 or validator(response.headers, version):
                break
            response.close()
        if response.status_code in (200, 206) and not is_page(response.headers):
            if not has_tag_of(response.headers, version):
                response.close()
                stale = StaleObject(f"{self._path}: the object was replaced")
                if validator(response.headers, version):
                    raise stale
                raise Transient(stale, max_tries=UNTAGGED_TRIES)
            self._has_weak_tags = True
        elif response.status_code == 412:
            response.close()
            raise StaleObject(f"{self._path}: the object was replaced")
        return response

    def _error_code(self, response: requests.Response, deadline: Deadline) -> str:
        """Return the store's error code, such as `NoSuchKey`.

        The rest of the body goes into no text, because it may quote the signature.
        """
        body = bytearray()
        self._transport.bodies.receive(
            f"GET {self._path}", response, deadline, body, MAX_ERROR_BODY
        )
        return error_code(response.headers, bytes(body))

    def part(
        self,
        response: requests.Response,
        version: ObjectVersion | None,
        requested: Callable[[int], tuple[int, int]],
        deadline: Deadline,
    ) -> Part:
        """Return the part of the object that the headers declare, checked against *version*.

        A 200 holds a whole small object. Its part is the *requested* range of an object of its
        size.
        """
        headers = response.headers
        is_known = version is not None and has_tag_of(headers, version)
        if response.status_code == 200 and is_page(headers) and not is_known:
            raise self.wrong_response("a page instead of the object", response)
        if not is_plain(headers.get("Content-Encoding", "")):
            response.close()
            raise UnsupportedStore(f"{self._path}: the store sends a compressed representation")
        length = content_length(headers)
        if response.status_code == 200:
            self._check_whole(response, version, deadline)
            size = length or 0
            return Part(*requested(size), version or version_of(headers, size))
        sent = content_range(headers.get("Content-Range", ""))
        if sent is None:
            raise self.wrong_response("no usable Content-Range", response)
        if not sent.start < sent.stop <= sent.size or length not in (None, sent.stop - sent.start):
            raise self.wrong_response("a Content-Range that contradicts itself", response)
        if version is not None and contradicts(headers, sent.size, version):
            response.close()
            raise StaleObject(f"{self._path}: the object was replaced")
        return Part(sent.start, sent.stop, version or version_of(headers, sent.size))

    def _check_whole(
        self, response: requests.Response, version: ObjectVersion | None, deadline: Deadline
    ) -> None:
        """Raise an error unless a 200 holds a small object as a whole, in *version*.

        A size or tag that differs means a replaced object only if the body begins like an archive:
        the response may also be a login page.
        """
        headers, size = response.headers, content_length(response.headers)
        if size == 0:
            raise self.wrong_response("an empty response", response)
        if version is not None and (size is None or contradicts(headers, size, version)):
            if not self._begins_as_archive(response, deadline):
                raise self.wrong_response("something else instead of the object")
            if is_small(response):
                raise StaleObject(f"{self._path}: the object was replaced")
        if not is_small(response):
            response.close()
            raise UnsupportedStore(f"{self._path}: the store ignores byte ranges")

    def _begins_as_archive(self, response: requests.Response, deadline: Deadline) -> bool:
        """Read the first bytes of the response, and close it."""
        body = bytearray()
        self._transport.bodies.receive(
            f"GET {self._path}", response, deadline, body, len(ZIP_MAGIC)
        )
        return body.startswith(ZIP_MAGIC)

    def wrong_response(self, why: str, response: requests.Response | None = None) -> Transient:
        """Close a wrong response, and return the error for it, which allows one more try."""
        if response is not None:
            response.close()
        error: TaskFSError = BadResponse(f"GET {self._path}: {why}")
        return Transient(error, max_tries=2)


def is_small(response: requests.Response) -> bool:
    """Return whether the response announces a body of at most `SMALL_OBJECT` bytes."""
    length = content_length(response.headers)
    return length is not None and length <= SMALL_OBJECT
