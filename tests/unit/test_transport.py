"""`Transport`: timeouts, retries until a deadline, and the conversion of errors."""

import contextlib
import email.utils
import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import urllib3

from taskfs.errors import AccessDenied, BadResponse, TaskFSError, Unavailable
from taskfs.remote.header_timeout import HeaderWatchdog
from taskfs.remote.retry import Deadline, Transient, retry_after_s
from taskfs.remote.transport import KEY_HEADER, Transport, error_for_status
from taskfs.support.stats import Stats
from tests.fake_api import FakeCloud
from tests.faults.relay import relay_to
from tests.mounts import eventually
from tests.threads import no_new_threads


@pytest.fixture
def transport() -> Iterator[Transport]:
    transport = transport_of(30)
    yield transport
    transport.close()


def transport_of(timeout_s: float, **options: Any) -> Transport:
    return Transport(timeout_s=timeout_s, stats=Stats(), endpoint="api", **options)


def get(transport: Transport, url: str, **options: Any) -> bytes:
    """Return the body of one GET, with retries."""

    def attempt(deadline: Deadline) -> bytes:
        body = bytearray()
        response = transport.send("GET it", "GET", url, deadline, **options)
        transport.bodies.receive("GET it", response, deadline, body)
        return bytes(body)

    return transport.run_with_retries(attempt)


def test_idle_connections_that_are_dropped_are_closed(cloud: FakeCloud) -> None:
    """X-12: Idle connections are closed after a failed one, also while a response is in use."""
    transport, patient = transport_of(6.0), Deadline(60.0, time.monotonic())
    with relay_to(cloud.api.port) as relay:
        url = f"{relay.url}/version"
        held = [transport.send("GET it", "GET", url, patient) for _ in range(4)]
        unread = held.pop()
        for response in held:
            assert response.content  # its connection is idle now
        relay.forget_all()
        get(transport, url)
        eventually(lambda: relay.ended == len(held))
        unread.close()
    transport.close()


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 507, 520, 527, 598])
def test_a_transient_status_is_retried(cloud: FakeCloud, transport: Transport, status: int) -> None:
    """X-11: A transient status is retried with backoff and jitter."""
    cloud.faults.add("status", status=status, times=2)
    assert b"version" in get(transport, f"{cloud.api_url}/version")
    assert len(cloud.requests) == 3


def test_a_timeout_of_months_waits_for_a_response(cloud: FakeCloud) -> None:
    """C-1, X-3: A timeout of 150 days is no short one: poll(2) has 32 bits for milliseconds."""
    transport = transport_of(3 * 2**32 / 1000)
    cloud.faults.add("stall", seconds=0.5)
    assert b"version" in get(transport, f"{cloud.api_url}/version")
    assert len(cloud.requests) == 1
    transport.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(503, BadResponse), (500, BadResponse), (429, Unavailable), (408, Unavailable)],
)
def test_the_last_error_is_raised_after_the_deadline(
    cloud: FakeCloud, status: int, kind: type[TaskFSError]
) -> None:
    """X-3, X-4: After the last retry a 5xx is EIO and no response is ETIMEDOUT."""
    transport = transport_of(2.0)
    cloud.faults.add("status", status=status, times=None)
    began = time.monotonic()
    with pytest.raises(kind, match=f"GET it: {status}"):
        get(transport, f"{cloud.api_url}/version")
    assert time.monotonic() - began < 20
    assert len(cloud.requests) >= 2
    transport.close()


def test_a_last_try_too_short_for_an_answer_hides_none(
    cloud: FakeCloud, transport: Transport
) -> None:
    """X-4, X-15: Where the deadline cuts the last try short, the error is that of the try
    before it."""
    cloud.faults.add("status", status=500)
    cloud.faults.add("stall", times=None)
    tries = []

    def attempt(deadline: Deadline) -> None:
        tries.append(deadline)
        try:
            transport.send("GET it", "GET", f"{cloud.api_url}/version", deadline)
        except Transient:
            if len(tries) == 1:  # the second try gets less than a whole read timeout
                deadline.began_s -= deadline.remaining_s - 1
            raise

    with pytest.raises(BadResponse, match="GET it: 500"):
        transport.run_with_retries(attempt)
    assert len(tries) == 2


def test_interim_responses_are_skipped(cloud: FakeCloud, transport: Transport) -> None:
    """RFC 9110, 15.2: a client must be able to parse 1xx responses before the final one, also for
    the next request on the connection."""
    fault = cloud.faults.add("hints", times=3)
    for _ in range(4):
        assert b"version" in get(transport, f"{cloud.api_url}/version")
    assert (fault.hits, len(cloud.requests)) == (3, 4)


@pytest.mark.parametrize("kind", ["reset", "stall"])
def test_stalls_and_resets_raise_unavailable(cloud: FakeCloud, kind: str) -> None:
    """X-3, X-12: Stalls and resets are retried, then they are ETIMEDOUT."""
    transport = transport_of(0.6)
    cloud.faults.add(kind, times=None)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="GET it: no response"):
        get(transport, f"{cloud.api_url}/version")
    assert time.monotonic() - began < 20
    transport.close()


def test_a_refused_connection_and_an_unknown_host_raise_unavailable() -> None:
    """X-3: A refused connection is ETIMEDOUT; the message names the reason once."""
    transport = transport_of(0.4)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match=r"no response \(.*refused\)$"):
            get(transport, f"http://127.0.0.1:{unused.getsockname()[1]}/x?Signature=secret")
    with pytest.raises(Unavailable):
        get(transport, "http://no-such-host.invalid/")
    transport.close()


def test_retry_after_is_respected(cloud: FakeCloud) -> None:
    """X-16: `Retry-After` is respected."""
    transport = transport_of(10)
    cloud.faults.add("status", status=429, retry_after="0.7")
    began = time.monotonic()
    get(transport, f"{cloud.api_url}/version")
    assert time.monotonic() - began >= 0.7
    cloud.faults.add("status", status=503, retry_after=3600, times=None)
    began = time.monotonic()
    with pytest.raises(BadResponse):
        get(transport, f"{cloud.api_url}/version")
    assert time.monotonic() - began < 9  # the pause would exceed the deadline
    transport.close()


def test_retry_after_in_both_forms() -> None:
    """RFC 9110, 10.2.3: seconds or a date."""
    assert retry_after_s("7") == 7
    assert retry_after_s(" 1.5 ") == 1.5
    assert retry_after_s("-5") == 0
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 95 < (retry_after_s(later) or 0) <= 100
    assert retry_after_s(email.utils.formatdate(0)) == 0
    assert [retry_after_s(text) for text in (None, "", "soon", "Wed, 99")] == [None] * 4


def test_a_body_that_stalls_or_is_cut_is_transient(cloud: FakeCloud) -> None:
    """X-12, X-13: A body that stalls or is cut is transient."""
    transport = transport_of(3)
    for kind in ("short", "reset"):
        cloud.faults.add(kind, after_bytes=5)
        assert b"version" in get(transport, f"{cloud.api_url}/version")
    transport.close()


def test_bytes_that_arrive_defer_the_deadline() -> None:
    """X-15: Bytes that arrive defer the deadline."""
    deadline = Deadline(1.0, time.monotonic() - 2)
    assert deadline.remaining_s < 0
    deadline.received = 10 << 20
    assert deadline.remaining_s > 60
    assert Deadline(30.0, time.monotonic()).attempt_timeout_s()[1] < 30


@pytest.mark.parametrize(
    "failure",
    [
        requests.ConnectionError("refused"),
        requests.exceptions.ChunkedEncodingError(),
        requests.exceptions.ContentDecodingError(),
        urllib3.exceptions.ProtocolError("cut"),
        urllib3.exceptions.ReadTimeoutError(None, "/", "slow"),  # type: ignore[arg-type]
        TimeoutError("timed out"),
        ConnectionResetError(104, "reset"),
        OSError(None, "nothing"),
        http.client.RemoteDisconnected("gone"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_exceptions_of_libraries_are_converted(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """X-3: Exceptions of libraries become `Unavailable` where they enter."""

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(requests.Session, "request", fail)
    with pytest.raises(Transient) as caught:
        transport.send("GET it", "GET", "http://localhost/", Deadline(1, time.monotonic()))
    assert isinstance(caught.value.error, Unavailable)


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/", "http://", "http://[::1"])
def test_an_invalid_url_is_a_bad_response(transport: Transport, url: str) -> None:
    """X-4: A response with an invalid URL is EIO."""
    with pytest.raises(BadResponse):
        get(transport, url)


def test_too_many_redirects_are_a_bad_answer(cloud: FakeCloud, transport: Transport) -> None:
    """X-4: A chain of redirects without end is EIO after a few requests."""
    cloud.faults.add("redirect", times=None)
    with pytest.raises(BadResponse):
        get(transport, f"{cloud.api_url}/version")
    assert 3 <= len(cloud.requests) <= 10


@pytest.mark.parametrize(
    "to",
    ["http://[::1", "http://host:port/", "http://h:99999999/", "file:///etc/passwd", "http://℀/"],
)
def test_a_redirect_to_an_invalid_url_is_a_bad_response(
    cloud: FakeCloud, transport: Transport, to: str
) -> None:
    """X-4: A redirect to an invalid URL is EIO."""
    cloud.faults.add("redirect", to=to, times=None)
    with pytest.raises(BadResponse):
        get(transport, f"{cloud.api_url}/version")


def test_the_key_stays_with_its_origin(cloud: FakeCloud) -> None:
    """Y-3: The key goes to its own origin only, also after a redirect."""
    transport = transport_of(2, headers={KEY_HEADER: cloud.api_key})
    cloud.put_object("t/x", b"content")
    cloud.faults.add("redirect", side="api", to=cloud.signed_url("t/x"))
    assert get(transport, f"{cloud.api_url}/tasks") == b"content"
    cloud.faults.add("redirect", side="api", to="/version")
    get(transport, f"{cloud.api_url}/tasks")
    assert [(r.side, r.had_api_key) for r in cloud.requests] == [
        *(("api", True), ("store", False), ("api", True), ("api", True))
    ]
    assert cloud.store.leaked_keys == []
    transport.close()


class Spy(threading.Thread):
    """A server that responds `ok` to two requests, and records their headers."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.heads: list[list[str]] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        with self._server:
            for _ in range(2):
                connection, _address = self._server.accept()
                with connection:
                    head = connection.recv(65536).decode().split("\r\n\r\n")[0]
                    self.heads.append(head.split("\r\n"))
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n"
                        b"Date: Wed, 11 Jun 2025 08:00:00 GMT\r\nConnection: close\r\n\r\nok"
                    )


def test_the_headers_of_a_request() -> None:
    """A request asks for no compression (it changes offsets), and sends no cookies or ~/.netrc."""
    spy = Spy()
    transport = transport_of(5)
    for _ in range(2):
        assert get(transport, f"{spy.url}/") == b"ok"
    spy.join(60)
    for head in spy.heads:
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:])}
        assert headers["accept-encoding"] == "identity"
        assert headers["user-agent"].startswith("taskfs/")
        assert not {"cookie", "authorization", "x-api-key"} & set(headers)
    offset = transport.clock_offset_s
    assert offset is not None and offset < -1e6  # the spy's clock is far behind
    transport.close()


def test_the_environment_names_the_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """http_proxy and no_proxy apply to the first request and to the second."""
    proxy, direct = Spy(), Spy()
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    transport = transport_of(5)
    for path in ("a", "b"):
        assert get(transport, f"http://store.invalid/{path}") == b"ok"
        assert get(transport, f"{direct.url}/{path}") == b"ok"
    for spy, before in ((proxy, "http://store.invalid"), (direct, "")):
        spy.join(60)
        asked = [head[0].split()[1] for head in spy.heads]
        assert asked == [f"{before}/a", f"{before}/b"]
    transport.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, AccessDenied),
        (403, AccessDenied),
        (404, BadResponse),
        (410, BadResponse),
        (418, BadResponse),
    ],
)
def test_the_errors_of_statuses(status: int, kind: type[TaskFSError]) -> None:
    """X-2, X-3, X-4: Each status has its errno."""
    error = error_for_status("GET it", status, "a detail")
    assert type(error) is kind
    assert str(error) == "GET it: a detail"
    assert str(error_for_status("GET it", status, "")) == f"GET it: {status}"


def test_retries_are_logged_and_counted(cloud: FakeCloud, caplog: pytest.LogCaptureFixture) -> None:
    """N-22: Retries are logged and counted."""
    caplog.set_level(logging.INFO, "taskfs")
    stats = Stats()
    transport = Transport(timeout_s=3, stats=stats, endpoint="api")
    cloud.faults.add("status", status=503, times=2)
    body = get(transport, f"{cloud.api_url}/version?Signature=secret")
    counts = stats.snapshot()
    assert (counts["api_requests"], counts["api_retries"]) == (3, 2)
    assert counts["api_bytes"] >= len(body)
    retries = [record for record in caplog.messages if "; retry in " in record]
    assert len(retries) == 2
    assert all(text.count("GET it") == 1 for text in retries)
    assert "secret" not in caplog.text
    transport.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_slow_headers_are_cut_off(answer: bytes) -> None:
    """X-3: A response whose header arrives byte by byte is cut off by the timeout."""
    over = threading.Event()

    def drip(peer: socket.socket) -> None:
        with peer:
            try:
                peer.sendall(answer)
                while not over.wait(0.1):
                    peer.sendall(b"X")
            except OSError:
                pass  # the client shut the connection, and tries again

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                peer, _ = listening.accept()
                threading.Thread(target=drip, args=(peer,), daemon=True).start()

    transport = transport_of(1.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            get(transport, f"http://127.0.0.1:{listening.getsockname()[1]}/version")
        assert time.monotonic() - began < 20
        over.set()
    transport.close()


def test_without_a_thread_no_socket_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-55: While no thread starts, a watch fails, and its socket is not shut down later."""
    watchdog = HeaderWatchdog()
    first, peer = socket.socketpair()
    second, peer_of_second = socket.socketpair()
    with first, peer, second, peer_of_second:
        with no_new_threads(monkeypatch), pytest.raises(RuntimeError), watchdog.watch(first, 0):
            pass
        with pytest.raises(TimeoutError), watchdog.watch(second, 0):
            assert peer_of_second.recv(1) == b""
        first.sendall(b"x")
        assert peer.recv(1) == b"x"
