"""The store: objects behind presigned URLs, answered in the manner of Google's (GET only)."""

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
    Answer,
    Endpoint,
    FaultHook,
    Refused,
    RequestRecord,
    whole,
)
from taskfs.demo.objects import CloudObject, ObjectTable

BUCKET: Final = "demo-bucket"
_ONE_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


class StoreEndpoint(Endpoint):
    """Serves the objects to whoever has a URL signed here, until it expires or is revoked.

    `leaked_keys` tells the paths of requests that carried the API's key, which must never be.
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
        self._lock = threading.Lock()  # around the serial number alone
        self._last_serial = 0
        self._last_expired = 0
        self._last_revoked = 0

    def signed_url(self, path: str) -> str:
        """Return a URL that reads the object at *path*, there or not, for `url_lifetime_s`."""
        with self._lock:
            self._last_serial += 1
            serial = str(self._last_serial)
        expires = f"{self._clock() + self.url_lifetime_s:.3f}"
        full_path = f"/{BUCKET}/{path}"
        signature = self._signature(full_path, serial, expires)
        query = urlencode({"Expires": expires, "Serial": serial, "Signature": signature})
        return f"http://127.0.0.1:{self.port}{quote(full_path)}?{query}"

    def expire_urls(self) -> None:
        """Let every URL signed so far be expired."""
        self._last_expired = self._last_serial

    def revoke_urls(self) -> None:
        """Let every URL signed so far be forbidden."""
        self._last_revoked = self._last_serial

    def _signature(self, path: str, serial: str, expires: str) -> str:
        text = f"{path}\n{serial}\n{expires}"
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    async def _object(self, request: web.Request) -> Answer:
        if API_KEY_HEADER in request.headers:
            self.leaked_keys.append(request.path)
        self._check(request)
        path = request.path.removeprefix(f"/{BUCKET}/")
        stored = self._objects.get(path)
        if stored is None:
            raise _refused(404, "NoSuchKey", "The specified key does not exist.")
        expected = request.headers.get("If-Match")
        if expected not in (None, "*", stored.etag):
            raise _refused(412, "PreconditionFailed", "A precondition did not hold.")
        return _ranged(request, stored)

    def _check(self, request: web.Request) -> None:
        """Refuse what is no GET with a signature of ours that is still good."""
        if request.method != "GET":
            raise _refused(403, "SignatureDoesNotMatch", "This URL was signed for GET.")
        expires = request.query.get("Expires", "")
        serial = request.query.get("Serial", "")
        signature = self._signature(request.path, serial, expires)
        if not hmac.compare_digest(signature, request.query.get("Signature", "")):
            raise _refused(403, "SignatureDoesNotMatch", "The signature does not match.")
        if int(serial) <= self._last_revoked:
            raise _refused(403, "AccessDenied", "Access denied.")
        if int(serial) <= self._last_expired or float(expires) <= self._clock():
            raise _refused(400, "ExpiredToken", "The provided token has expired.")


def _ranged(request: web.Request, stored: CloudObject) -> Answer:
    """Return the object, or the one range of it that was asked for (RFC 9110, 14.2 and 14.4).

    Several ranges, and what is no range, are answered with the whole, as Google's store does.
    """
    size = stored.source.size
    headers = {
        "Content-Type": "application/zip",
        "Accept-Ranges": "bytes",
        "ETag": stored.etag,
        "Last-Modified": formatdate(stored.modified, usegmt=True),
    }
    answer = Answer(200, stored.source, headers, 0, size)
    asked = _ONE_RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    if asked is None or asked.group() == "bytes=-":
        return answer
    if request.headers.get("If-Range", stored.etag) != stored.etag:
        return answer
    first, last = asked.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return answer  # not a range at all
    else:
        start, stop = max(0, size - int(last)), size
    if start >= size:
        refusal = _refused(416, "InvalidRange", "The requested range cannot be satisfied.")
        refusal.answer.headers["Content-Range"] = f"bytes */{size}"
        raise refusal
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Answer(206, stored.source, headers, start, stop)


def _refused(status: int, code: str, message: str) -> Refused:
    text = (
        "<?xml version='1.0' encoding='UTF-8'?>"
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return Refused(whole(status, text.encode(), {"Content-Type": "application/xml; charset=UTF-8"}))
