"""The scripted faults, as a client sees them on the wire."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from tests.fake_api import FakeCloud

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    with FakeCloud() as cloud:
        cloud.put_object("t/output.zip", CONTENT)
        cloud.add_task("t1", status="started")
        yield cloud


@pytest.fixture
def url(cloud: FakeCloud) -> str:
    return cloud.signed_url("t/output.zip")


def fetch(url: str, byte_range: str | None = None, timeout: float = 5) -> requests.Response:
    headers = {"Range": f"bytes={byte_range}"} if byte_range else {}
    return requests.get(url, headers=headers, timeout=timeout)


def ask(cloud: FakeCloud, path: str, method: str = "GET") -> requests.Response:
    headers = {"X-API-Key": cloud.api_key}
    return requests.request(method, cloud.api_url + path, headers=headers, timeout=30)


def raw(url: str) -> tuple[bytes, OSError | None]:
    """Return all bytes a socket gives for a GET, and the error that ended it, if any."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    received = b""
    with socket.create_connection((name, int(port)), timeout=30) as connection:
        connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        try:
            while chunk := connection.recv(1 << 16):
                received += chunk
        except OSError as error:
            return received, error
    return received, None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 403])
def test_error_statuses_come_as_often_as_scripted(cloud: FakeCloud, url: str, status: int) -> None:
    fault = cloud.faults.add("status", status=status, times=2, retry_after=1)
    assert [fetch(url).status_code for _ in range(3)] == [status, status, 200]
    assert fault.hits == 2
    assert [record.status for record in cloud.requests] == [status, status, 200]


def test_retry_after_is_there_where_it_is_byte_range_for(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("status", status=429, retry_after=7)
    cloud.faults.add("status", status=429)
    assert [fetch(url).headers.get("Retry-After") for _ in range(2)] == ["7", None]


def test_faults_take_only_what_they_match(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("status", status=500, side="api", times=None)
    cloud.faults.add("status", status=502, match=lambda r: r.range == "bytes=5-6", times=None)
    cloud.faults.add("status", status=504, path="/output.zip", skip=1)
    assert [fetch(url, r).status_code for r in ("0-1", "5-6", "0-1", "0-1")] == [206, 502, 504, 206]
    assert ask(cloud, "/tasks").status_code == 500
    cloud.faults.clear()
    assert ask(cloud, "/tasks").status_code == 200


def test_reset_before_any_byte(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("reset")
    received, error = raw(url)
    assert received == b"" and isinstance(error, ConnectionResetError)
    assert fetch(url).content == CONTENT


def test_reset_within_the_body(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("reset", after_bytes=1000)
    received, error = raw(url)
    head, _, body = received.partition(b"\r\n\r\n")
    assert body == CONTENT[:1000] and isinstance(error, ConnectionResetError)
    assert b"Content-Length: 1048576" in head


def test_a_short_body_ends_the_connection_cleanly(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("short", after_bytes=600_000)
    received, error = raw(url)
    head, _, body = received.partition(b"\r\n\r\n")
    assert body == CONTENT[:600_000] and error is None
    assert b"Content-Length: 1048576" in head
    cloud.faults.add("short", after_bytes=0)
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="0 bytes read"):
        fetch(url)


def test_long_body_has_more_than_announced(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("long", extra=b"+++")
    received, error = raw(url)
    assert received.partition(b"\r\n\r\n")[2] == CONTENT + b"+++" and error is None


def test_stall_before_the_headers_and_within_the_body(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("stall", seconds=0.2)
    began = time.monotonic()
    assert fetch(url, "0-9").content == CONTENT[:10]
    assert time.monotonic() - began >= 0.2
    cloud.faults.add("stall", after_bytes=10)
    with pytest.raises((requests.ConnectionError, requests.Timeout), match="timed out"):
        fetch(url, timeout=0.2)


def test_stalled_requests_go_on_once_released(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("stall", times=2, after_bytes=10)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(fetch, url) for _ in range(2)]
        while sum(record.bytes_sent for record in cloud.requests) < 20:
            time.sleep(0.01)
        assert not any(answer.done() for answer in answers)
        cloud.faults.release()
        assert all(answer.result().content == CONTENT for answer in answers)


def test_stopping_does_not_wait_for_the_stalled(url: str, cloud: FakeCloud) -> None:
    cloud.faults.add("stall")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fetch, url)
        while not cloud.requests:
            time.sleep(0.01)
        began = time.monotonic()
        cloud.stop()
        assert time.monotonic() - began < 20
        assert answer.exception() is None or isinstance(
            answer.exception(), requests.RequestException
        )


def test_range_ignored(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("whole")
    answer = fetch(url, "5-6")
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "Content-Range" not in answer.headers


def test_headers_replaced_and_left_out(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("header", name="Content-Range", value="bytes 7-8/99")
    cloud.faults.add("header", name="Content-Range", value=None)
    cloud.faults.add("header", name="ETag", value='"other"')
    assert fetch(url, "5-6").headers["Content-Range"] == "bytes 7-8/99"
    assert "Content-Range" not in fetch(url, "5-6").headers
    assert fetch(url, "5-6").headers["ETag"] == '"other"'


def test_a_flipped_byte_stays_at_its_offset_whatever_the_range(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("flip", at=300_000, times=None)
    flipped = CONTENT[:300_000] + bytes([CONTENT[300_000] ^ 0xFF]) + CONTENT[300_001:]
    assert fetch(url).content == flipped
    assert fetch(url, "299999-300001").content == flipped[299_999:300_002]
    assert fetch(url, "0-99").content == CONTENT[:100]


def test_other_bodies(cloud: FakeCloud) -> None:
    cloud.faults.add("html", side="api")
    cloud.faults.add("json", side="api", value={"tasks": 7})
    cloud.faults.add("body", side="api", content=b"{")
    assert ask(cloud, "/tasks").headers["Content-Type"] == "text/html"
    assert ask(cloud, "/tasks").json() == {"tasks": 7}
    assert ask(cloud, "/tasks").content == b"{"


def test_redirects(cloud: FakeCloud, url: str) -> None:
    cloud.faults.add("redirect", side="api", to=url)
    answer = ask(cloud, "/tasks")
    assert answer.content == CONTENT
    assert cloud.store.leaked_keys  # `requests` alone does not keep the key from the store
    cloud.faults.add("redirect", side="store", times=None)
    with pytest.raises(requests.TooManyRedirects):
        fetch(url)


def test_an_answer_lost_after_the_request_had_its_effect(cloud: FakeCloud) -> None:
    cloud.faults.add("reset", method="POST", acted=True)
    with pytest.raises(requests.ConnectionError):
        ask(cloud, "/tasks/t1/kill", "POST")
    assert cloud.killed == ["t1"]
    cloud.faults.add("reset", method="POST")
    with pytest.raises(requests.ConnectionError):
        ask(cloud, "/tasks/t1/kill", "POST")
    assert cloud.killed == ["t1"]


def test_refusing_connections_keeps_the_ports(cloud: FakeCloud, url: str) -> None:
    with requests.Session() as session:
        assert session.get(url, timeout=30).status_code == 200
        cloud.pause("store")
        with pytest.raises(requests.ConnectionError):
            session.get(url, timeout=30)
        assert ask(cloud, "/tasks").status_code == 200
        with socket.socket() as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", urlsplit(url).port))  # of another program
        cloud.resume()
        assert session.get(url, timeout=30).status_code == 200


def test_failing_all_and_recovering(cloud: FakeCloud, url: str) -> None:
    cloud.fail()
    assert {fetch(url).status_code, ask(cloud, "/tasks").status_code} == {503}
    cloud.faults.clear()
    assert {fetch(url).status_code, ask(cloud, "/tasks").status_code} == {200}


def test_stop_aborts_an_answer_that_no_client_reads() -> None:
    """`stop` cuts all connections, also where the client has stopped reading."""
    cloud = FakeCloud()
    cloud.start()
    cloud.put_object("big", bytes(32 << 20))
    url = urlsplit(cloud.signed_url("big"))
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=20) as client:
        request = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n"
        client.sendall(request.encode())
        assert client.recv(10).startswith(b"HTTP/1.1 2")
        gc.collect()  # what other tests have left
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cloud.stop()
            gc.collect()
        texts = [str(warning.message) for warning in caught]
        assert [text for text in texts if re.search("SocketTransport|SOCK_STREAM", text)] == []
        with contextlib.suppress(ConnectionError):
            while client.recv(1 << 20):
                pass
