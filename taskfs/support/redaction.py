"""Removes keys and URL signatures from logs, errors and output."""

import logging
import re
from typing import Any

from taskfs.support.formatting import escape_controls

# Any text after `?` may be a URL's signature, whose name differs from store to store. The pattern
# does not match the URL before it, because that takes quadratic time on long paths.
_QUERY = re.compile(r"\?[^\s'\"<>]+")
_USERINFO = re.compile(r"(https?://)[^/\s@'\"]+@")
_KEY_HEADER = re.compile(r"(?i)(x-api-key['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+")

_secrets: set[str] = set()


def register_secret(secret: str) -> None:
    """Have `redact` replace *secret* with `***` from now on."""
    if secret:
        _secrets.add(secret)


def redact(text: str) -> str:
    """Return *text* with registered secrets, URL queries and credentials in URLs as `***`."""
    for secret in tuple(_secrets):  # a copy, because another thread may add one
        text = text.replace(secret, "***")
    text = _QUERY.sub("?***", text)
    text = _USERINFO.sub(r"\1***@", text)
    return _KEY_HEADER.sub(r"\1***", text)


def is_clean(text: str) -> bool:
    """Whether `redact` surely changes nothing in *text*: fast, but False for some clean texts."""
    if "?" in text or "@" in text or "api-key" in text.lower():
        return False
    return not any(secret in text for secret in tuple(_secrets))


class RedactingFormatter(logging.Formatter):
    """Formats a record with its traceback, redacts it, and escapes control characters.

    The name of a member may contain control characters.
    """

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = escape_controls(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(escape_controls(line) for line in lines)
