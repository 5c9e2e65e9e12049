"""A TCP relay whose connections can die silently, as they do while a laptop sleeps."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Forwards connections to `url` to a loopback port.

    `forget_all` drops all further data of the existing connections without closing them, as a
    router does that lost its state. New connections work. `accepted` and `ended` count the
    connections that the clients opened and closed. Safe for concurrent use: the lock guards the
    list of connections.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._alive: set[socket.socket] = set()
        self._all: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.accepted = self.ended = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def forget_all(self) -> None:
        with self._lock:
            self._alive.clear()

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            for end in self._all:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                with self._lock:
                    self.accepted += 1
                    self._alive |= {client, server}
                    self._all += [client, server]
                threading.Thread(
                    target=self._forward_client, args=(client, server), daemon=True
                ).start()
                threading.Thread(target=self._forward, args=(server, client), daemon=True).start()

    def _forward_client(self, client: socket.socket, server: socket.socket) -> None:
        self._forward(client, server)
        with self._lock:
            self.ended += 1

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                if self._is_alive(source):
                    sink.sendall(piece)
            if self._is_alive(source):
                sink.shutdown(socket.SHUT_WR)

    def _is_alive(self, end: socket.socket) -> bool:
        with self._lock:
            return end in self._alive


@contextlib.contextmanager
def relay_to(port: int) -> Iterator[Relay]:
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.close()
