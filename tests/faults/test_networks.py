"""Proxies, TLS and host names: requests in a company's network, and with wrong URLs."""

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from taskfs.errors import TaskFSError, Unavailable, Unreachable
from taskfs.remote import connection_errors
from taskfs.remote.retry import Deadline
from taskfs.remote.transport import Transport
from taskfs.remote.trust import BUNDLE_VARIABLES, OPENSSL_VARIABLES, tls_context
from taskfs.support.stats import Stats
from tests import fork_server
from tests.fake_api import FakeCloud
from tests.faults.networks import (
    Authority,
    Proxy,
    answer,
    behind_tls,
    pump,
    read_head,
    serving,
)
from tests.mounts import Taskfs

# Seconds. The commands try for 20 s, so one that ends within this time did not try again.
AT_ONCE_S: Final = 10.0
RETRIED_S: Final = 4.0  # seconds; a busy machine tries more than once within this timeout
HTML: Final = b"<html>blocked by the company</html>"
SITE: Final = "http://tasks.example.invalid"


@pytest.fixture
def taskfs(cloud: FakeCloud, tmp_path: Path) -> Taskfs:
    fork_server.start()  # or the first command waits for it
    command = Taskfs(tmp_path, cloud)
    command.environment["TASKFS_TIMEOUT"] = "20s"
    return command


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "authority"
    folder.mkdir()
    return Authority(folder)


def failing(taskfs: Taskfs, *arguments: str, **environment: str) -> str:
    """Return the one line that a command fails with, at once."""
    began = time.monotonic()
    done = taskfs(*arguments, **environment)
    assert time.monotonic() - began < AT_ONCE_S
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    return done.stderr


# Proxies


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.9.8.7"])
def test_loopback_needs_no_proxy(
    cloud: FakeCloud, taskfs: Taskfs, variable: str, host: str
) -> None:
    """Y-13: No request for this machine goes through a proxy."""
    if variable == "HTTP_PROXY" and host != "localhost":
        variable = "https_proxy"  # redundant for http, and harmless
    task = cloud.add_task()
    proxy = Proxy(cloud.api.port)
    proxy.index_error = answer("403 Blocked", "text/html", HTML)
    family = socket.AF_INET6 if host == "[::1]" else socket.AF_INET
    with serving(proxy) as server, socket.socket(family) as listening:
        listening.bind((host.strip("[]").replace("localhost", "127.0.0.1"), 0))
        listening.listen()
        listening.settimeout(30)
        url = f"http://{host}:{listening.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "taskfs", "list", "--api-url", url],
            env=taskfs.environment
            | {variable: f"http://127.0.0.1:{server.port}", "NO_PROXY": "example.com"},
            stdout=subprocess.PIPE,
            text=True,
        )
        client, _ = listening.accept()
        with client, socket.create_connection(("127.0.0.1", cloud.api.port)) as upstream:
            upstream.sendall(read_head(client).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            pump(client, upstream)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, task in out, proxy.heads) == (0, True, [])


def test_other_hosts_go_through_the_proxy(cloud: FakeCloud, taskfs: Taskfs) -> None:
    """Y-13: http_proxy counts for every other host."""
    task = cloud.add_task()
    proxy = Proxy(cloud.api.port)
    with serving(proxy) as server:
        done = taskfs(
            *("list", "--api-url", SITE, "--insecure-http"),
            http_proxy=f"http://127.0.0.1:{server.port}",
        )
    assert (done.returncode, task in done.stdout) == (0, True), done.stderr
    assert [head.split(b"?")[0] for head in proxy.heads] == [f"GET {SITE}/tasks".encode()]


@pytest.mark.parametrize("url", [SITE, "https://tasks.example.invalid"])
@pytest.mark.parametrize(
    ("status", "kind"), [("403 Blocked", "text/html"), ("407 Authenticate", "application/json")]
)
def test_a_proxy_s_own_refusal_is_the_proxy_s(
    cloud: FakeCloud, taskfs: Taskfs, url: str, status: str, kind: str
) -> None:
    """X-21: A proxy's 403 or 407 is reported as the proxy's, at once."""
    proxy = Proxy(cloud.api.port)
    proxy.index_error = answer(status, kind, HTML)
    with serving(proxy) as server:
        address = f"http://user:sesame@127.0.0.1:{server.port}"
        message = failing(
            *(taskfs, "list", "--api-url", url, "--insecure-http"),
            http_proxy=address,
            https_proxy=address,
        )
    assert f"the proxy 127.0.0.1:{server.port} refuses" in message and status in message
    assert "API key" not in message and "sesame" not in message
    assert ("user and password" if "407" in status else "no_proxy") in message


def test_the_service_s_own_refusal_through_a_proxy(cloud: FakeCloud, taskfs: Taskfs) -> None:
    """X-21, X-2: A 403 in the API's JSON is the service's, also behind a proxy."""
    proxy = Proxy(cloud.api.port)
    proxy.index_error = answer("403 Forbidden", "application/json", b'{"detail": "No such right."}')
    with serving(proxy) as server:
        message = failing(
            *(taskfs, "list", "--api-url", SITE, "--insecure-http"),
            http_proxy=f"http://127.0.0.1:{server.port}",
        )
    assert "No such right: check the API key" in message and "proxy" not in message


def test_a_proxy_that_is_busy_is_tried_again(cloud: FakeCloud) -> None:
    """X-11: A proxy that answers CONNECT with 503 is a transient failure."""
    proxy = Proxy(cloud.api.port)
    proxy.index_error = answer("503 Busy", "text/html", HTML)
    with serving(proxy) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("https_proxy", f"http://127.0.0.1:{server.port}")
        error = error_of("https://tasks.example.invalid/", timeout_s=RETRIED_S)
    assert type(error) is Unavailable and "503 Busy" in str(error)
    assert len(proxy.heads) > 1


def test_a_socks_proxy_without_its_extra(taskfs: Taskfs) -> None:
    """C-1: A SOCKS proxy without PySocks names the extra and the command that adds it."""
    program = (
        "import sys; sys.modules['socks'] = None; from taskfs.cli.main import main; "
        f"sys.exit(main(['list', '--api-url', {SITE!r}, '--insecure-http']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=taskfs.environment | {"all_proxy": "socks5h://u:sesame@127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "the proxy 127.0.0.1:1 needs the extra requests[socks]: " in done.stderr
    assert "install 'requests[socks]'" in done.stderr and "sesame" not in done.stderr


@pytest.mark.parametrize("address", ["http://", "http://:80"])
def test_a_proxy_that_is_no_address(taskfs: Taskfs, address: str) -> None:
    """X-22: A proxy variable without a host is named at once."""
    message = failing(taskfs, "list", "--api-url", SITE, "--insecure-http", http_proxy=address)
    assert "http_proxy" in message


# TLS


def test_an_unknown_ca_is_named_at_once(
    cloud: FakeCloud, taskfs: Taskfs, authority: Authority
) -> None:
    """X-22, Y-14: A certificate of an unknown CA ends the tries, and each way to make the CA known
    works."""
    task = cloud.add_task()
    with serving(behind_tls(authority.context("DNS:localhost"), cloud.api.port)) as server:
        url = f"https://localhost:{server.port}"
        message = failing(taskfs, "list", "--api-url", url)
        assert f"the certificate of localhost:{server.port} is not trusted" in message
        assert "REQUESTS_CA_BUNDLE" in message and "system's certificates" in message
        assert server.accepted == 1
        directory = authority.hashed_directory()
        for variable, value in (
            ("REQUESTS_CA_BUNDLE", authority.file),
            ("REQUESTS_CA_BUNDLE", directory),
            ("CURL_CA_BUNDLE", authority.file),
            ("SSL_CERT_FILE", authority.file),
            ("SSL_CERT_DIR", f"{Path(taskfs.home)}:{directory}"),
        ):
            done = taskfs("list", "--api-url", url, **{variable: str(value)})
            assert (done.returncode, task in done.stdout) == (0, True), (variable, done.stderr)


@pytest.mark.parametrize("form", ["directory", "file"])
def test_the_system_s_certificates_count(
    cloud: FakeCloud, taskfs: Taskfs, authority: Authority, form: str
) -> None:
    """Y-14: A CA that the system trusts is trusted, in Debian's directory and RHEL's file."""
    task = cloud.add_task()
    directory = authority.hashed_directory()
    paths = f"(None, {str(directory)!r})" if form == "directory" else "(None, None)"
    program = (
        "import os, ssl, sys\n"
        "from types import SimpleNamespace\n"
        f"cafile, capath = {paths}\n"
        "real = ssl.SSLContext.set_default_verify_paths\n"
        "ssl.get_default_verify_paths = lambda: SimpleNamespace(cafile=cafile, capath=capath)\n"
        "def load(context):\n"
        f"    os.environ['SSL_CERT_FILE'] = {str(authority.file)!r}\n"
        "    real(context)\n"
        "ssl.SSLContext.set_default_verify_paths = load\n"
        "from taskfs.cli.main import main\n"
        "sys.exit(main(['list', *sys.argv[1:]]))\n"
    )
    with serving(behind_tls(authority.context("DNS:localhost"), cloud.api.port)) as server:
        done = subprocess.run(
            [sys.executable, "-c", program, "--api-url", f"https://localhost:{server.port}"],
            env=taskfs.environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (done.returncode, task in done.stdout) == (0, True), done.stderr


def test_a_certificate_of_another_host(
    cloud: FakeCloud, taskfs: Taskfs, authority: Authority
) -> None:
    """X-22: A certificate for another name ends the tries, with its own message."""
    context = authority.context("DNS:other.example")
    with serving(behind_tls(context, cloud.api.port)) as server:
        message = failing(
            *(taskfs, "list", "--api-url", f"https://localhost:{server.port}"),
            SSL_CERT_FILE=str(authority.file),
        )
    assert "is another host's" in message and "--api-url" in message


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("content", [None, "", "no certificate\n"])
def test_a_file_that_holds_no_certificates(
    taskfs: Taskfs, tmp_path: Path, variable: str, content: str | None
) -> None:
    """X-23: A wrong path in a CA variable, or a file without certificates, names the variable."""
    path = tmp_path / "company.pem"
    if content is not None:
        path.write_text(content)
    message = failing(taskfs, "list", "--api-url", "https://localhost:1", **{variable: str(path)})
    assert f"{variable}: {path}" in message


def test_https_spoken_to_a_plain_port(cloud: FakeCloud, taskfs: Taskfs) -> None:
    """X-22: https to a port that speaks http ends the tries, and the port is named."""
    message = failing(taskfs, "list", "--api-url", f"https://127.0.0.1:{cloud.api.port}")
    assert f"127.0.0.1:{cloud.api.port} does not speak https there" in message
    assert "--api-url" in message


def test_http_spoken_to_a_tls_port(taskfs: Taskfs) -> None:
    """X-22: http to a port that speaks TLS ends the tries and says to write https."""

    def serve(client: socket.socket) -> None:
        read_head(client)
        client.sendall(b"\x15\x03\x01\x00\x02\x02\x46")  # a TLS alert: protocol version

    with serving(serve) as server:
        message = failing(taskfs, "list", "--api-url", f"http://127.0.0.1:{server.port}")
    assert "speaks https there" in message and "--api-url" in message


def test_tls_connections_share_one_context(cloud: FakeCloud, authority: Authority) -> None:
    """Y-14: Certificates are read once per process; each connection is verified."""
    with (
        serving(behind_tls(authority.context("DNS:localhost"), cloud.api.port)) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        opened: list[str] = []
        patch.setenv("SSL_CERT_FILE", str(authority.file))
        for variable in (*BUNDLE_VARIABLES, *OPENSSL_VARIABLES[1:]):
            patch.delenv(variable, raising=False)
        tls_context.cache_clear()
        real = ssl.SSLContext.load_verify_locations

        def load(self: ssl.SSLContext, *args: str, **kwargs: str) -> None:
            opened.append(os.fspath(kwargs.get("cafile", "")))
            real(self, *args, **kwargs)

        patch.setattr(ssl.SSLContext, "load_verify_locations", load)
        for _ in range(3):
            transport = Transport(timeout_s=5, stats=Stats(), endpoint="api")
            deadline = Deadline(5, time.monotonic())
            transport.send(
                "GET it", "GET", f"https://localhost:{server.port}/version", deadline
            ).close()
            transport.close()
        assert opened == [str(authority.file)] and server.accepted == 3
    tls_context.cache_clear()


# Names


def error_of(url: str, *, timeout_s: float, answered: str = "") -> TaskFSError:
    """Return the error of one request; before it, *answered* answers on the same side."""
    transport = Transport(timeout_s=timeout_s, stats=Stats(), endpoint="api")
    try:
        if answered:
            transport.send("GET it", "GET", answered, transport.deadline()).close()
        with pytest.raises(TaskFSError) as caught:
            transport.run_with_retries(
                lambda deadline: transport.send("GET it", "GET", url, deadline)
            )
        return caught.value
    finally:
        transport.close()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Answers to getaddrinfo(3) by host, and how often each was asked for."""
    lookups: dict[str, int] = {}
    real = socket.getaddrinfo
    codes = {"unknown.example": socket.EAI_NONAME, "later.example": socket.EAI_AGAIN}

    def getaddrinfo(host: str, *args: object, **kwargs: object) -> object:
        lookups[host] = lookups.get(host, 0) + 1
        if host in codes:
            raise socket.gaierror(codes[host], "scripted")
        return real(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield lookups


ROUTE: Final = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
BRIDGE: Final = "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The kernel's table of routes, without any."""
    table = tmp_path / "route"
    table.write_text("Iface\tDestination\n")
    monkeypatch.setattr(connection_errors, "IPV4_ROUTES", table)
    monkeypatch.setattr(connection_errors, "IPV6_ROUTES", tmp_path / "none")
    return table


def test_a_name_that_does_not_exist_ends_the_tries(resolver: dict[str, int], routes: Path) -> None:
    """X-22: A name that does not resolve while the network is up ends the tries at once."""
    routes.write_text(f"Iface\n{BRIDGE}{ROUTE}")
    error = error_of("https://unknown.example/x?Signature=abc", timeout_s=20)
    assert type(error) is Unreachable
    assert "unknown.example does not resolve: check --api-url" in str(error)
    assert resolver["unknown.example"] == 1


def test_a_name_that_does_not_resolve_without_a_network(
    resolver: dict[str, int], routes: Path
) -> None:
    """X-22: A name that does not resolve while the network is down is transient."""
    routes.write_text(f"Iface\n{BRIDGE}")
    error = error_of("https://unknown.example/", timeout_s=RETRIED_S)
    assert type(error) is Unavailable and resolver["unknown.example"] > 1


def test_a_resolver_that_does_not_answer_is_transient(
    resolver: dict[str, int], routes: Path
) -> None:
    """X-22: EAI_AGAIN is a failure of the resolver and transient."""
    routes.write_text(f"Iface\n{ROUTE}")
    error = error_of("https://later.example/", timeout_s=RETRIED_S)
    assert type(error) is Unavailable and resolver["later.example"] > 1


def test_a_name_under_a_live_mount_is_transient(
    cloud: FakeCloud, resolver: dict[str, int], routes: Path
) -> None:
    """X-22: Once the side has answered, a name that does not resolve is tried again."""
    routes.write_text(f"Iface\n{ROUTE}")
    answered = f"{cloud.api_url}/version"
    error = error_of("https://unknown.example/", timeout_s=RETRIED_S, answered=answered)
    assert type(error) is Unavailable and resolver["unknown.example"] > 1


# Paths


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html>Not Found</html>"),
        ("application/json", b'{"detail": "Not Found"}'),
        ("text/plain", b"default backend - 404"),
        ("text/plain", b""),
    ],
)
def test_a_wrong_path_in_the_url(taskfs: Taskfs, kind: str, body: bytes) -> None:
    """X-24: A server that answers all requests with 404 is no task API; --api-url is named."""
    page = answer("404 Not Found", kind, body)

    def serve(client: socket.socket) -> None:
        read_head(client)
        client.sendall(page)

    with serving(serve) as server:
        url = f"http://127.0.0.1:{server.port}/wrong"
        message = failing(taskfs, "list", "--api-url", url)
        (taskfs.home / "mnt").mkdir()
        mounting = failing(taskfs, "mount", str(taskfs.home / "mnt"), "--api-url", url)
    for line in (message, mounting):
        assert f"no task API answers at {url}" in line and "--api-url" in line
