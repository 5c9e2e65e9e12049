"""Keeps keys and URL signatures out of everything a person or a file gets to see."""

import logging
import re

# Whatever follows `?` in a URL may be a signature, whatever the store calls it.
_QUERY = re.compile(r"(https?://[^\s?'\"<>]+|/[^\s?'\"<>]*)\?[^\s'\"<>]+")
_USERINFO = re.compile(r"(https?://)[^/\s@'\"]+@")
_KEY_HEADER = re.compile(r"(?i)(x-api-key['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+")

_secrets: set[str] = set()


def register_secret(secret: str) -> None:
    """From now on *secret* is written as `***` wherever `redact` is applied."""
    if secret:
        _secrets.add(secret)


def redact(text: str) -> str:
    """Return *text* with registered secrets, URL queries and credentials in URLs as `***`."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    text = _QUERY.sub(r"\1?***", text)
    text = _USERINFO.sub(r"\1***@", text)
    return _KEY_HEADER.sub(r"\1***", text)


class RedactingFormatter(logging.Formatter):
    """Formats a record as usual, traceback included, and redacts the result."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
