"""Judgements on answers of the store: whose words they are, and of which version of an object.

Pure functions of headers and bytes. A proxy, an ingress or a login portal answers in the store's
place with the same status codes, so a status alone proves nothing.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from taskfs.model import ObjectVersion

# Error codes that mean "there is no such object": S3, Google, MinIO, Ceph and others say NoSuchKey,
# S3 NoSuchVersion for a URL that names a version, Azure BlobNotFound. A missing bucket or container
# is a fault of the configuration, not an absent object.
ABSENT_CODES: Final = frozenset({"NoSuchKey", "NoSuchVersion", "BlobNotFound"})
AZURE_CODE: Final = "x-ms-error-code"
# Codings that some stores name although the bytes are the object's own.
PLAIN_CODINGS: Final = frozenset({"", "identity", "aws-chunked", "binary", "utf-8"})
PAGE_TYPES: Final = frozenset({"text/html", "application/xhtml+xml", "application/json"})
ZIP_MAGIC: Final = b"PK"

# At most 18 digits: what is larger is no size, and int() refuses text without end.
_CONTENT_RANGE: Final = re.compile(
    r"bytes\s+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.IGNORECASE
)
_CONTENT_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_UNSATISFIED: Final = re.compile(r"bytes\s+\*/([0-9]{1,18})", re.IGNORECASE)
_XML_ERROR: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*\?>\s*)?<Error[\s>]")
_CODE: Final = re.compile(rb"<Code>\s*([A-Za-z]{1,64})\s*</Code>")
_DATE: Final = re.compile(r"[A-Z][a-z]{2}, ")


class ContentRange(NamedTuple):
    """The bytes [start, stop) of an object of *size* bytes."""

    start: int
    stop: int
    size: int


def content_range(text: str) -> ContentRange | None:
    """Return what a Content-Range header says (RFC 9110, 14.4), None if it is unusable."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        return None
    first, last, size = map(int, match.groups())
    return ContentRange(first, last + 1, size)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return what the Content-Length header says, None if it is missing or unusable."""
    match = _CONTENT_LENGTH.fullmatch(headers.get("Content-Length", "").strip())
    return int(match[0]) if match else None


def unsatisfied_size(text: str) -> int | None:
    """Return the size that the Content-Range of a 416 tells, None if it tells none."""
    match = _UNSATISFIED.fullmatch(text.strip())
    return int(match[1]) if match else None


def is_plain(content_encoding: str) -> bool:
    """Whether a body under this Content-Encoding holds the object's bytes as they are."""
    return all(coding.strip().lower() in PLAIN_CODINGS for coding in content_encoding.split(","))


def error_code(headers: Mapping[str, str], body: bytes) -> str:
    """Return the store's own error code, such as `NoSuchKey`; empty if the answer has none."""
    if _XML_ERROR.match(body) and (match := _CODE.search(body)):
        return match[1].decode()
    code = headers.get(AZURE_CODE, "")
    return code if re.fullmatch("[A-Za-z]{1,64}", code) else ""


def opaque_tag(etag: str) -> str:
    """Return an entity tag without the mark of a weak one, for the weak comparison of RFC 9110,
    8.8.3.2."""
    etag = etag.strip()
    return etag[2:] if etag[:2] in ("W/", "w/") else etag


def is_weak(headers: Mapping[str, str]) -> bool:
    """Whether the answer carries a weak entity tag, which If-Match never matches."""
    return headers.get("ETag", "").strip()[:2] in ("W/", "w/")


def version_of(headers: Mapping[str, str], size: int) -> ObjectVersion:
    """Return the version that an answer's headers tell of."""
    etag = opaque_tag(headers.get("ETag", "")) or headers.get("Last-Modified", "").strip()
    return ObjectVersion(size, etag)


def has_tag_of(headers: Mapping[str, str], version: ObjectVersion) -> bool:
    """Whether the answer carries the validator of *version*."""
    return bool(version.etag) and validator(headers, version) == opaque_tag(version.etag)


def contradicts(headers: Mapping[str, str], size: int, version: ObjectVersion) -> bool:
    """Whether an answer for an object of *size* bytes is of another version than *version*.

    A validator is compared with its own kind; an answer without that kind tells nothing.
    """
    told = validator(headers, version)
    return size != version.size or bool(told and version.etag and told != opaque_tag(version.etag))


def validator(headers: Mapping[str, str], version: ObjectVersion) -> str:
    """Return the answer's validator of the kind that *version* has; empty if it has none."""
    if _DATE.match(version.etag):
        return headers.get("Last-Modified", "").strip()
    return opaque_tag(headers.get("ETag", ""))


def is_page(headers: Mapping[str, str]) -> bool:
    """Whether the answer calls itself a page for humans or an API's message, not an archive."""
    kind = headers.get("Content-Type", "").partition(";")[0]
    return kind.strip().lower() in PAGE_TYPES


def looks_like_page(body: bytes) -> bool:
    """Whether a body begins as HTML or XML does; no archive begins like that."""
    return body.lstrip().startswith(b"<")
