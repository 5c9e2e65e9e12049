"""Headers and error bodies of the store's responses, parsed and compared; pure functions.

A proxy, an ingress or a login portal may respond in the store's place with the same status codes,
so a status alone proves nothing.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from taskfs.model import ObjectVersion

# Error codes for an absent object. S3, Google, MinIO, Ceph and others have NoSuchKey, S3 also
# NoSuchVersion for a URL that names a version, Azure BlobNotFound. A missing bucket or container is
# an error of the configuration, not an absent object.
ABSENT_CODES: Final = frozenset({"NoSuchKey", "NoSuchVersion", "BlobNotFound"})
AZURE_CODE: Final = "x-ms-error-code"
# Content codings that some stores declare although they send the object's own bytes.
PLAIN_CODINGS: Final = frozenset({"", "identity", "aws-chunked", "binary", "utf-8"})
# The content types of web pages and API messages.
PAGE_TYPES: Final = frozenset({"text/html", "application/xhtml+xml", "application/json"})
ZIP_MAGIC: Final = b"PK"

# At most 18 digits: no object is larger, and int() is slow on long texts.
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
    """Parse a Content-Range header (RFC 9110, 14.4); None if it is unusable."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        return None
    first, last, size = map(int, match.groups())
    return ContentRange(first, last + 1, size)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Parse the Content-Length header; None if it is missing or unusable."""
    match = _CONTENT_LENGTH.fullmatch(headers.get("Content-Length", "").strip())
    return int(match[0]) if match else None


def unsatisfied_size(text: str) -> int | None:
    """Return the object's size in the Content-Range header of a 416, None if it has none."""
    match = _UNSATISFIED.fullmatch(text.strip())
    return int(match[1]) if match else None


def is_plain(content_encoding: str) -> bool:
    """Whether a body with this Content-Encoding consists of the object's own bytes."""
    return all(coding.strip().lower() in PLAIN_CODINGS for coding in content_encoding.split(","))


def error_code(headers: Mapping[str, str], body: bytes) -> str:
    """Return the store's error code, such as `NoSuchKey`; empty if the response has none."""
    if _XML_ERROR.match(body) and (match := _CODE.search(body)):
        return match[1].decode()
    code = headers.get(AZURE_CODE, "")
    return code if re.fullmatch("[A-Za-z]{1,64}", code) else ""


def opaque_tag(etag: str) -> str:
    """Return an entity tag without its weak mark, for weak comparison (RFC 9110, 8.8.3.2)."""
    etag = etag.strip()
    return etag[2:] if etag[:2] in ("W/", "w/") else etag


def has_weak_tag(headers: Mapping[str, str]) -> bool:
    """Whether the entity tag is weak; If-Match never matches such a tag."""
    return headers.get("ETag", "").strip()[:2] in ("W/", "w/")


def version_of(headers: Mapping[str, str], size: int) -> ObjectVersion:
    """Return the version that the headers identify, of an object of *size* bytes."""
    etag = opaque_tag(headers.get("ETag", "")) or headers.get("Last-Modified", "").strip()
    return ObjectVersion(size, etag)


def validator(headers: Mapping[str, str], version: ObjectVersion) -> str:
    """Return the validator (tag or date) of the same kind as *version*'s; empty if missing."""
    if _DATE.match(version.etag):
        return headers.get("Last-Modified", "").strip()
    return opaque_tag(headers.get("ETag", ""))


def has_tag_of(headers: Mapping[str, str], version: ObjectVersion) -> bool:
    """Whether the response has the validator of *version*."""
    return bool(version.etag) and validator(headers, version) == opaque_tag(version.etag)


def contradicts(headers: Mapping[str, str], size: int, version: ObjectVersion) -> bool:
    """Whether a response for an object of *size* bytes cannot be of *version*.

    Only validators of one kind are compared; a missing one contradicts nothing.
    """
    tag = validator(headers, version)
    return size != version.size or bool(tag and version.etag and tag != opaque_tag(version.etag))


def is_page(headers: Mapping[str, str]) -> bool:
    """Whether the content type is that of a web page or an API message, not of an archive."""
    media_type = headers.get("Content-Type", "").partition(";")[0]
    return media_type.strip().lower() in PAGE_TYPES


def looks_like_page(body: bytes) -> bool:
    """Whether a body begins like HTML or XML; no archive does."""
    return body.lstrip().startswith(b"<")
