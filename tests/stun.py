"""A STUN server for tests of connections to machines."""

import contextlib
import socket
import struct
import threading
from typing import Any, Final

MAGIC: Final = 0x2112A442  # the magic cookie of RFC 8489


class StunServer:
    """Answers Binding with the address it sees, and refuses Allocate."""

    def __init__(self, delay_s: float = 0.0, turn: bool = True) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # Not 127.0.0.1, which cannot be reached from the address of another interface.
        self.socket.bind(("0.0.0.0", 0))
        self.delay_s, self.turn = delay_s, turn
        self.requests = 0
        self.allocations: set[bytes] = set()  # the transactions of Allocate
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self.socket.recvfrom(2000)
            except OSError:
                return
            if len(data) < 20:
                return
            self.requests += 1
            kind, transaction = struct.unpack(">H", data[:2])[0], data[8:20]
            if kind == 0x0003:
                self.allocations.add(transaction)
            answer = None
            if kind == 0x0001:
                port, address = peer[1] ^ (MAGIC >> 16), _number(peer[0]) ^ MAGIC
                mapped = struct.pack(">HHBBHI", 0x0020, 8, 0, 1, port, address)
                answer = struct.pack(">HHI", 0x0101, len(mapped), MAGIC) + transaction + mapped
            elif kind == 0x0003 and self.turn:
                error = struct.pack(">HHHBB", 0x0009, 4, 0, 4, 1)
                answer = struct.pack(">HHI", 0x0113, len(error), MAGIC) + transaction + error
            if answer is not None:
                threading.Timer(self.delay_s, self._send, (answer, peer)).start()

    def _send(self, answer: bytes, peer: Any) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendto(answer, peer)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"end", ("127.0.0.1", self.socket.getsockname()[1]))
        self._thread.join()
        self.socket.close()

    @property
    def address(self) -> str:
        """The server's host and port, as in `INDUCTIVA_TURN_SERVER_URL`."""
        return f"{_own_address()}:{self.socket.getsockname()[1]}"


def _number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")


def _own_address() -> str:
    """Return the machine's address towards the network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
