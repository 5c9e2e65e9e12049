"""`ReceiveBuffer`: the memory that a response's body is received into, without copies."""

import http.client
from typing import Any

import requests


class ReceiveBuffer:
    """A buffer of the wanted length, of which the first *filled* bytes have arrived."""

    def __init__(self, buffer: memoryview) -> None:
        self.buffer = buffer
        self.filled = 0


def body_source(response: requests.Response) -> Any:
    """Return the object to read the body from: below urllib3 if possible, which would copy it."""
    source = getattr(response.raw, "_fp", None)
    return source if isinstance(source, http.client.HTTPResponse) else response.raw


def read_available(source: Any, target: memoryview) -> int:
    """Read the bytes that are available into *target*; return their number, 0 at the end.

    `HTTPResponse.readinto` returns only when *target* is full. A slow body would then not be
    noticed, and the bytes before a broken connection would be lost.
    """
    if not isinstance(source, http.client.HTTPResponse) or source.chunked or not source.length:
        piece = source.read1(len(target))
        target[: len(piece)] = piece
        return len(piece)
    count: int = source.fp.readinto1(target[: source.length])
    source.length -= count
    return count
