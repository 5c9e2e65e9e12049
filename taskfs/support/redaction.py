"""Keeps keys and URL signatures out of everything a person or a file gets to see."""

import logging
import re
from typing import Any

from taskfs.support.formatting import escape_controls

# Whatever follows `?` may be a URL's signature, whatever the store calls it. What stands before is
# not looked at: a path of 64 KB would be gone through once for each of its slashes.
_QUERY = re.compile(r"\?[^\s'\"<>]+")
_USERINFO = re.compile(r"(https?://)[^/\s@'\"]+@")
_KEY_HEADER = re.compile(r"(?i)(x-api-key['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+")

_secrets: set[str] = set()


def register_secret(secret: str) -> None:
    """From now on *secret* is written as `***` wherever `redact` is applied."""
    if secret:
        _secrets.add(secret)


def redact(text: str) -> str:
    """Return *text* with registered secrets, URL queries and credentials in URLs as `***`."""
    for secret in tuple(_secrets):  # another thread may register one
        text = text.replace(secret, "***")
    text = _QUERY.sub("?***", text)
    text = _USERINFO.sub(r"\1***@", text)
    return _KEY_HEADER.sub(r"\1***", text)


class RedactingFormatter(logging.Formatter):
    """Formats a record as usual, traceback included, and redacts the result.

    Control characters, which the name of a member may have, are written as `\\xNN`: they neither
    begin a line of their own nor speak to a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = escape_controls(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(escape_controls(line) for line in lines)
