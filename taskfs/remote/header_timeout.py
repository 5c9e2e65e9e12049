"""How long an answer's head may take: an HTTP adapter whose connections break off slow ones.

A socket's timeout starts anew with every byte, so a head that drips would never end. One thread,
asleep while nothing is asked, shuts the socket of an answer that is overdue: whoever reads it meets
a broken connection, and tries again.
"""

import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from taskfs.remote.trust import tls_context

INTERVAL_S: Final = 0.25


class HeaderWatchdog:
    """Shuts sockets whose time is up. Safe for concurrent use."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._until_s: dict[socket.socket, float] = {}
        self._is_running = False

    @contextmanager
    def watch(self, sock: socket.socket, seconds: float) -> Iterator[None]:
        """Shut *sock* if the block takes longer than *seconds*; TimeoutError then."""
        with self._changed:
            self._until_s[sock] = time.monotonic() + seconds
            if not self._is_running:
                threading.Thread(target=self._run, name="taskfs-heads", daemon=True).start()
                self._is_running = True
            elif len(self._until_s) == 1:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                is_overdue = self._until_s.pop(sock, None) is None
        if is_overdue:  # the parser takes a head that ends anywhere for a whole one
            raise TimeoutError("the answer's head takes too long")

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._until_s:
                    self._changed.wait()
                now_s = time.monotonic()
                overdue = [sock for sock, until_s in self._until_s.items() if until_s < now_s]
                for sock in overdue:
                    del self._until_s[sock]
                    with suppress(OSError):
                        # Not a TLS socket's own, which would take its state from the reader.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)
            time.sleep(INTERVAL_S)


_overdue = HeaderWatchdog()


def _begin_anew() -> None:
    """In a forked process the thread is missing, and the lock may be held for good."""
    global _overdue
    _overdue = HeaderWatchdog()


os.register_at_fork(after_in_child=_begin_anew)


def _watched(connection: HTTPConnection) -> Any:
    seconds = connection.timeout
    assert connection.sock is not None
    return _overdue.watch(connection.sock, seconds if isinstance(seconds, (int, float)) else 60.0)


class _FinalResponse(http.client.HTTPResponse):
    """A response that skips what a server sends ahead of it, such as 103 Early Hints.

    `http.client` skips 100 alone: it takes any other 1xx for the answer, and the answer itself for
    that to the next request.
    """

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 101 < status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _Connection(HTTPConnection):
    response_class = _FinalResponse

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _watched(self):
            return super().getresponse()


class _SecureConnection(HTTPSConnection):
    response_class = _FinalResponse

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _watched(self):
            return super().getresponse()


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS: Final = {"http": _Pool, "https": _SecurePool}


class HeaderTimeoutAdapter(HTTPAdapter):
    """An adapter whose read timeout bounds all of an answer's head, and not its next byte alone."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        if proxy.lower().startswith("https:"):
            kwargs["proxy_ssl_context"] = tls_context()
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> Any:
        """Have all connections share one TLS context, which reads the certificates once."""
        host, settings = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https":
            settings.pop("ca_certs", None)
            settings.pop("ca_cert_dir", None)
            settings["ssl_context"] = tls_context()
        return host, settings

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave the pool as it is: the TLS context says which certificates count."""
