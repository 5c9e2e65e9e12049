"""An HTTP adapter with a timeout for all headers of a response.

A socket's timeout restarts with every byte, so it does not bound headers that arrive slowly. One
thread shuts down the sockets of overdue responses; it sleeps while no request is in flight. The
reader of such a socket gets an error of a broken connection, and the request is tried again.
"""

import http.client
import os
import queue
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

# Seconds between two checks of the sockets, so a timeout is exceeded by no more than this.
INTERVAL_S: Final = 0.25


class HeaderWatchdog:
    """Shuts down overdue sockets.

    Safe for concurrent use: the condition's lock guards the table.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._until_s: dict[socket.socket, float] = {}
        self._is_running = False

    @contextmanager
    def watch(self, sock: socket.socket, seconds: float) -> Iterator[None]:
        """Shut down *sock* and raise TimeoutError if the block takes longer than *seconds*."""
        with self._changed:
            if not self._is_running:
                threading.Thread(target=self._run, name="taskfs-headers", daemon=True).start()
                self._is_running = True
            self._until_s[sock] = time.monotonic() + seconds
            if len(self._until_s) == 1:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                is_overdue = self._until_s.pop(sock, None) is None
        if is_overdue:  # the parser does not notice headers that are cut off
            raise TimeoutError("the response headers take too long")

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
                        # The shutdown of SSLSocket would drop the TLS state under the reader.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)
            time.sleep(INTERVAL_S)


_watchdog = HeaderWatchdog()


def _replace_watchdog() -> None:
    """Replace the watchdog in a forked process, where its thread is missing.

    Its lock may be held, by a thread that is missing as well.
    """
    global _watchdog
    _watchdog = HeaderWatchdog()


os.register_at_fork(after_in_child=_replace_watchdog)


def _watched(connection: HTTPConnection) -> Any:
    seconds = connection.timeout
    assert connection.sock is not None
    return _watchdog.watch(connection.sock, seconds if isinstance(seconds, (int, float)) else 60.0)


class _FinalResponse(http.client.HTTPResponse):
    """A response that skips interim responses, such as 103 Early Hints.

    `http.client` skips only 100. It would take another 1xx for the response, and the response for
    that of the next request.
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


def _close_all(idle: "queue.LifoQueue[Any]") -> None:
    """Close the connections in *idle*; the queue is empty then, as it is for a busy pool."""
    with suppress(queue.Empty):
        while True:
            if (connection := idle.get(block=False)) is not None:  # None is a free place
                connection.close()


_POOLS: Final = {"http": _Pool, "https": _SecurePool}


class HeaderTimeoutAdapter(HTTPAdapter):
    """An adapter whose read timeout bounds all headers of a response, not only the next byte."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        if proxy.lower().startswith("https:"):
            kwargs["proxy_ssl_context"] = tls_context()
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def drop_idle_connections(self) -> None:
        """Close the idle connections to all hosts; those in use are not affected.

        `close` would only forget the pools: urllib3 closes their sockets once no response refers to
        them, which may be much later.
        """
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in list(manager.pools.keys()):
                pool = manager.pools.get(key)
                if pool is not None and pool.pool is not None:
                    _close_all(pool.pool)

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> Any:
        """Use one TLS context for all connections, because it loads the certificates."""
        host, settings = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https":
            settings.pop("ca_certs", None)
            settings.pop("ca_cert_dir", None)
            settings["ssl_context"] = tls_context()
        return host, settings

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing, because the TLS context has the trusted certificates."""
