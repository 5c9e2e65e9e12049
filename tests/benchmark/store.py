"""A store that serves ranges of files with little CPU time: threads and sendfile(2).

Under `/signed/` it behaves like a presigned URL: only GET, with the signature. Under `/plain/` it
is a web server with HEAD and a page of links for each directory, because some peers need both.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

OBJECT: Final = "output.zip"
_CHUNK: Final = 1 << 20
_PACED_CHUNKS_PER_SECOND: Final = 100
_SMALL: Final = 64 << 10
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_REASONS: Final = {200: "OK", 206: "Partial Content", 403: "Forbidden", 404: "Not Found"}
_REASONS[412], _REASONS[416] = "Precondition Failed", "Range Not Satisfiable"


@dataclass(frozen=True, slots=True)
class _Object:
    file: int
    size: int
    etag: str


@dataclass(slots=True)
class _Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


class Store:
    """Serves each of *files* under its name until the process exits.

    `latency_s` is the delay of each answer, `bandwidth` the bytes per second of each connection (0:
    no limit). Any thread may set them and read the counters; a lock guards the counters.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.latency_s = 0.0
        self.bandwidth = 0
        self.requests = 0
        self.sent = 0
        self.active = 0
        self._lock = threading.Lock()
        self._secret = secrets.token_hex(16)
        self._objects = {name: _opened(path) for name, path in files.items()}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]

    def signed_url(self, path: str) -> str:
        """Return a URL for GET of the object at *path* (`<name>/output.zip`)."""
        return f"http://127.0.0.1:{self.port}/signed/{path}?Signature={self._secret}"

    def plain_url(self, name: str) -> str:
        """Return the URL of the directory with the object of *name*, with a trailing slash."""
        return f"http://127.0.0.1:{self.port}/plain/{name}/"

    def start(self) -> None:
        """Accept connections in daemon threads."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        pending = b""
        with connection:
            try:
                while True:
                    head, found, pending = pending.partition(b"\r\n\r\n")
                    while not found:
                        more = connection.recv(1 << 16)
                        if not more:
                            return
                        head, found, pending = (head + more).partition(b"\r\n\r\n")
                    with self._lock:
                        self.requests += 1
                        self.active += 1
                    try:
                        keep = self._answer(connection, _parse(head.decode("latin-1")))
                    finally:
                        with self._lock:
                            self.active -= 1
                    if not keep:
                        return
            except (OSError, ValueError):
                return  # the client closed the connection or does not speak HTTP

    def _answer(self, connection: socket.socket, request: _Request) -> bool:
        """Answer one request; return whether the connection stays open."""
        if self.latency_s:
            time.sleep(self.latency_s)
        keep = request.headers.get("connection", "").lower() != "close"
        access, _, rest = request.path.lstrip("/").partition("/")
        name, _, file = rest.partition("/")
        signed = request.query.get("Signature", [""])[0] == self._secret
        stored = self._objects.get(name)
        if access == "signed" and not (signed and request.method == "GET"):
            return _send_text(connection, request, 403, "SignatureDoesNotMatch", keep)
        if stored is not None and access in ("signed", "plain") and file == OBJECT:
            return self._send_object(connection, request, stored, keep)
        if stored is not None and access == "plain" and not file:
            page = f'<html><body><a href="{OBJECT}">{OBJECT}</a></body></html>'
            return _send_text(connection, request, 200, page, keep)
        return _send_text(connection, request, 404, "NoSuchKey", keep)

    def _send_object(
        self, connection: socket.socket, request: _Request, stored: _Object, keep: bool
    ) -> bool:
        expected = request.headers.get("if-match", "*")
        if expected not in ("*", stored.etag):
            return _send_text(connection, request, 412, "PreconditionFailed", keep)
        start, stop, status = _range(request.headers.get("range", ""), stored.size)
        if status == 416:
            return _send_text(connection, request, 416, "InvalidRange", keep)
        head = [
            f"HTTP/1.1 {status} {_REASONS[status]}",
            "Content-Type: application/zip",
            "Accept-Ranges: bytes",
            f"ETag: {stored.etag}",
            "Last-Modified: Thu, 12 Jun 2025 08:00:00 GMT",
            f"Content-Length: {stop - start}",
            f"Connection: {'keep-alive' if keep else 'close'}",
        ]
        if status == 206:
            head.append(f"Content-Range: bytes {start}-{stop - 1}/{stored.size}")
        opening = ("\r\n".join(head) + "\r\n\r\n").encode()
        if request.method == "HEAD":
            connection.sendall(opening)
        elif stop - start <= _SMALL and not self.bandwidth:
            connection.sendall(opening + os.pread(stored.file, stop - start, start))
            self._count(stop - start)
        else:
            connection.sendall(opening, socket.MSG_MORE)
            self._send_body(connection, stored.file, start, stop)
        return keep

    def _send_body(self, connection: socket.socket, file: int, start: int, stop: int) -> None:
        due = time.monotonic()
        while start < stop:
            speed = self.bandwidth
            step = max(1, speed // _PACED_CHUNKS_PER_SECOND) if speed else _CHUNK
            sent = os.sendfile(connection.fileno(), file, start, min(step, stop - start))
            self._count(sent)
            start += sent
            if speed:
                due += sent / speed
                time.sleep(max(0.0, due - time.monotonic()))

    def _count(self, sent: int) -> None:
        with self._lock:
            self.sent += sent


def _opened(path: Path) -> _Object:
    """Open a file and read it once, so that its pages are in the page cache."""
    file = os.open(path, os.O_RDONLY)
    size = os.fstat(file).st_size
    for offset in range(0, size, 8 * _CHUNK):
        os.pread(file, 8 * _CHUNK, offset)
    return _Object(file, size, f'"{secrets.token_hex(8)}"')


def _parse(head: str) -> _Request:
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    parts = urlsplit(target)
    return _Request(method, parts.path, parse_qs(parts.query), headers)


def _range(text: str, size: int) -> tuple[int, int, int]:
    """Return the requested half-open range and the status of the answer."""
    match = _RANGE.fullmatch(text.replace(" ", ""))
    if match is None or match.group() == "bytes=-":
        return 0, size, 200
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    else:
        start, stop = max(0, size - int(last)), size
    return start, stop, 206 if start < stop else 416


def _send_text(
    connection: socket.socket, request: _Request, status: int, text: str, keep: bool
) -> bool:
    kind = "text/html" if status == 200 else "application/xml"
    body = text if status == 200 else f"<Error><Code>{text}</Code></Error>"
    opening = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    connection.sendall((opening + ("" if request.method == "HEAD" else body)).encode())
    return keep
