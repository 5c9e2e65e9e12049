"""Network components for tests: a proxy, a TLS server with its own CA, other servers."""

import contextlib
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Server:
    """Accepts connections on a loopback port and runs *serve* for each in its own thread."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # close() alone does not wake the thread in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._run, args=(client,), daemon=True).start()

    def _run(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            self._serve(client)


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[Server]:
    server = Server(serve)
    try:
        yield server
    finally:
        server.close()


def answer(status: str, kind: str, body: bytes) -> bytes:
    """Return a complete HTTP answer that closes the connection."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def read_head(client: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and (piece := client.recv(65536)):
        head += piece
    return head


def pump(left: socket.socket, right: socket.socket) -> None:
    """Forward bytes in both directions until both sides have closed."""

    def forward(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=forward, args=(right, left), daemon=True)
    back.start()
    forward(left, right)
    back.join()


class Proxy:
    """An HTTP proxy that forwards every request, whatever its host, to *port* on loopback.

    If `refusal` is set, the proxy answers every request with it, including CONNECT.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.index_error = b""
        self.heads: list[bytes] = []

    def __call__(self, client: socket.socket) -> None:
        head = read_head(client)
        self.heads.append(head)
        if self.index_error:
            client.sendall(self.index_error)
            return
        with socket.create_connection(("127.0.0.1", self.port)) as upstream:
            if head.startswith(b"CONNECT "):
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                head = re.sub(rb"^(\w+) http://[^/]*", rb"\1 ", head)
                upstream.sendall(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            pump(client, upstream)


class Authority:
    """A certificate authority that no system trusts, created by openssl(1) in *directory*."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "ca.pem"
        self._directory = directory
        self._key = directory / "ca.key"
        self._openssl(
            *("req", "-x509", *_KEY, "-days", "2", "-subj", "/CN=The company's own CA"),
            *("-keyout", self._key, "-out", self.file),
        )

    def context(self, name: str) -> ssl.SSLContext:
        """Return a server context with a certificate for *name*, such as `DNS:localhost`."""
        key, request, signed = (self._directory / f"server.{end}" for end in ("key", "csr", "pem"))
        names = self._directory / "names"
        names.write_text(f"subjectAltName={name}\n")
        self._openssl("req", *_KEY, "-subj", "/CN=server", "-keyout", key, "-out", request)
        self._openssl(
            *("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self._key),
            *("-CAcreateserial", "-days", "2", "-extfile", names, "-out", signed),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(signed, key)
        return context

    def hashed_directory(self) -> Path:
        """Return a directory with the certificate under its OpenSSL hash name."""
        directory = self._directory / "certs"
        directory.mkdir()
        (directory / "company.pem").write_bytes(self.file.read_bytes())
        self._openssl("rehash", directory)
        return directory

    @staticmethod
    def _openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def behind_tls(context: ssl.SSLContext, port: int) -> Callable[[socket.socket], None]:
    """Return a handler that terminates TLS and forwards to *port* on loopback."""

    def serve(client: socket.socket) -> None:
        with (
            context.wrap_socket(client, server_side=True) as inner,
            socket.create_connection(("127.0.0.1", port)) as upstream,
        ):
            head = read_head(inner)  # two threads must not share one TLS connection
            upstream.sendall(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            while piece := upstream.recv(65536):
                inner.sendall(piece)

    return serve
