"""The object store: objects that presigned URLs give access to, with the responses of Google's."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from typing import Final
from urllib.parse import quote, urlencode

from aiohttp import web

from taskfs.demo.endpoint import (
    API_KEY_HEADER,
    CloudResponse,
    Endpoint,
    ErrorResponse,
    FaultHook,
    RequestRecord,
    bytes_response,
)
from taskfs.demo.objects import CloudObject, ObjectTable

BUCKET: Final = "demo-bucket"
_ONE_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


class StoreEndpoint(Endpoint):
    """Serve the objects to requests with a valid signature.

    `leaked_keys` lists the paths of requests that carried the API key, which a client must never
    send to the store.
    """

    def __init__(
        self,
        objects: ObjectTable,
        clock: Callable[[], float],
        records: deque[RequestRecord],
        faults: FaultHook | None,
    ) -> None:
        super().__init__("store", [("*", "/{path:.*}", self._object)], records, faults)
        self.url_lifetime_s = 3600.0
        self.leaked_keys: list[str] = []
        self._objects = objects
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._lock = threading.Lock()  # guards the serial number
        self._last_serial = 0
        self._last_expired = 0
        self._last_revoked = 0

    def signed_url(self, path: str) -> str:
        """Return a URL for the object at *path*, existing or not, valid for `url_lifetime_s`."""
        with self._lock:
            self._last_serial += 1
            serial = str(self._last_serial)
        expires = f"{self._clock() + self.url_lifetime_s:.3f}"
        full_path = f"/{BUCKET}/{path}"
        signature = self._signature(full_path, serial, expires)
        query = urlencode({"Expires": expires, "Serial": serial, "Signature": signature})
        return f"http://127.0.0.1:{self.port}{quote(full_path)}?{query}"

    def expire_urls(self) -> None:
        """Expire all URLs signed so far."""
        self._last_expired = self._last_serial

    def revoke_urls(self) -> None:
        """Revoke all URLs signed so far."""
        self._last_revoked = self._last_serial

    def _signature(self, path: str, serial: str, expires: str) -> str:
        text = f"{path}\n{serial}\n{expires}"
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    async def _object(self, request: web.Request) -> CloudResponse:
        if API_KEY_HEADER in request.headers:
            self.leaked_keys.append(request.path)
        self._check(request)
        path = request.path.removeprefix(f"/{BUCKET}/")
        stored = self._objects.get(path)
        if stored is None:
            raise _error_response(404, "NoSuchKey", "The specified key does not exist.")
        expected = request.headers.get("If-Match")
        if expected not in (None, "*", stored.etag):
            raise _error_response(412, "PreconditionFailed", "A precondition did not hold.")
        return _ranged(request, stored)

    def _check(self, request: web.Request) -> None:
        """Raise the error response unless it is a GET with a valid signature."""
        if request.method != "GET":
            raise _error_response(403, "SignatureDoesNotMatch", "This URL was signed for GET.")
        expires = request.query.get("Expires", "")
        serial = request.query.get("Serial", "")
        signature = self._signature(request.path, serial, expires)
        if not hmac.compare_digest(signature, request.query.get("Signature", "")):
            raise _error_response(403, "SignatureDoesNotMatch", "The signature does not match.")
        if int(serial) <= self._last_revoked:
            raise _error_response(403, "AccessDenied", "Access denied.")
        if int(serial) <= self._last_expired or float(expires) <= self._clock():
            raise _error_response(400, "ExpiredToken", "The provided token has expired.")


def _ranged(request: web.Request, stored: CloudObject) -> CloudResponse:
    """Return the object, or the requested range of it (RFC 9110, 14.2 and 14.4).

    Like Google's store, ignore several ranges and an invalid range: return the whole object.
    """
    size = stored.source.size
    headers = {
        "Content-Type": "application/zip",
        "Accept-Ranges": "bytes",
        "ETag": stored.etag,
        "Last-Modified": formatdate(stored.modified, usegmt=True),
    }
    response = CloudResponse(200, stored.source, headers, 0, size)
    requested = _ONE_RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    if requested is None or requested.group() == "bytes=-":
        return response
    if request.headers.get("If-Range", stored.etag) != stored.etag:
        return response
    first, last = requested.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return response  # an invalid range
    else:
        start, stop = max(0, size - int(last)), size
    if start >= size:
        refusal = _error_response(416, "InvalidRange", "The requested range cannot be satisfied.")
        refusal.response.headers["Content-Range"] = f"bytes */{size}"
        raise refusal
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return CloudResponse(206, stored.source, headers, start, stop)


def _error_response(status: int, code: str, message: str) -> ErrorResponse:
    text = (
        "<?xml version='1.0' encoding='UTF-8'?>"
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return ErrorResponse(
        bytes_response(status, text.encode(), {"Content-Type": "application/xml; charset=UTF-8"})
    )
