"""Permanent connection errors, with texts that name the fix.

`requests` wraps the cause of a failure several times and names no fix. These functions search all
wrapped exceptions for a cause that another try cannot change.
"""

import contextlib
import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests
import urllib3

from taskfs.errors import BadResponse, ConfigError, ProxyRefused, TaskFSError, Unreachable
from taskfs.support.installation import install_hint
from taskfs.support.redaction import redact

# The kernel's routing tables; the network is up if they have a default route.
IPV4_ROUTES: Final = Path("/proc/net/route")
IPV6_ROUTES: Final = Path("/proc/net/ipv6_route")
PROXY_AUTHENTICATION: Final = 407
_TUNNEL: Final = re.compile(r"Tunnel connection failed: ([0-9]{3}) ?(.*)")
# Statuses of CONNECT that are worth another try.
_TRANSIENT_TUNNEL: Final = frozenset({408, 425, 429})
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST")
_NO_COMMON_TLS: Final = (
    *("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"),
    *("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE"),
)
# The first bytes of a TLS alert, where `http.client` expects a status line.
_TLS_ALERT: Final = "\x15\x03"
# X509_V_ERR_… of OpenSSL.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_WRONG_HOST: Final = (62, 64)
_CLOCK_FIX: Final = "check this machine's clock (`taskfs doctor`)"
_TRUST_FIX: Final = (
    "if it is your company's, add its CA to the system's certificates, or name the CA's file "
    "in REQUESTS_CA_BUNDLE"
)


def cause(exc: BaseException) -> str:
    """Return the text of the innermost exception in *exc*; the outer ones repeat the URL."""
    while True:
        inner = exc.__cause__ or exc.__context__ or getattr(exc, "reason", None)
        if not isinstance(inner, BaseException) or inner is exc:
            break
        exc = inner
    text = ""
    if isinstance(exc, OSError):
        text = redact(exc.strerror or str(exc)).split(": ", 1)[-1]
    return text or type(exc).__name__


def permanent_error(
    label: str, exc: BaseException, url: str, proxy: str | None, *, has_responded: bool
) -> TaskFSError | None:
    """Return the error to raise, whose text names the fix; None if another try may succeed.

    *has_responded* is whether the server has responded before. A name that then does not resolve
    means that the network is down for a while, for example after a laptop slept.
    """
    for reason in _reasons(exc):
        error = _proxy_error(label, reason, proxy) or _tls_error(label, reason, url, proxy)
        if error is None and not has_responded:
            error = _name_error(label, reason, url, proxy)
        if error is not None:
            return error
    return None


def proxy_refusal(response: requests.Response, label: str, proxy: str | None) -> TaskFSError | None:
    """Return the error for a response of the proxy itself, None for one of the service.

    A 407 always comes from a proxy (RFC 9110, 15.5.8). A 403 through a proxy comes from the proxy
    unless it is JSON, like the API's errors, or XML, like the stores' errors.
    """
    status = response.status_code
    if status != PROXY_AUTHENTICATION and not (status == 403 and proxy):
        return None
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_service = kind.endswith(("/json", "+json", "/xml")) or not kind
    if status == 403 and is_service:
        return None
    return _refused_by_proxy(label, proxy, status, response.reason)


def proxy_setting_error(label: str, exc: ValueError, proxy: str | None) -> TaskFSError:
    """Return the error for an unusable URL, or an unusable address of a proxy."""
    if isinstance(exc, requests.exceptions.InvalidProxyURL):
        return ConfigError(
            f"{label}: the proxy's address is not a URL: write http://HOST:PORT into http_proxy, "
            "https_proxy or all_proxy"
        )
    if isinstance(exc, requests.exceptions.InvalidSchema) and "SOCKS" in str(exc):
        return ConfigError(
            f"{label}: {_proxy_name(proxy)} needs the extra requests[socks]: "
            f"{install_hint('socks')}"
        )
    return BadResponse(f"{label}: {redact(str(exc))}")


def _reasons(exc: BaseException) -> Iterator[BaseException]:
    """Yield *exc* and all exceptions that it wraps, each once."""
    seen: list[BaseException] = []
    candidates: list[object] = [exc]
    while candidates:
        found = candidates.pop()
        if not isinstance(found, BaseException) or any(found is other for other in seen):
            continue
        seen.append(found)
        yield found
        reason = getattr(found, "reason", None)
        candidates += [*found.args, reason, found.__context__, found.__cause__]


def _proxy_error(label: str, reason: BaseException, proxy: str | None) -> TaskFSError | None:
    if proxy is None:
        return None
    # Not str(reason): an outer exception quotes the text of the inner one among other text.
    text = reason.args[0] if isinstance(reason, OSError) and reason.args else None
    if isinstance(text, str) and (match := _TUNNEL.fullmatch(text)):
        status = int(match[1])
        if 400 <= status < 500 and status not in _TRANSIENT_TUNNEL:
            return _refused_by_proxy(label, proxy, status, match[2])
    if isinstance(reason, urllib3.exceptions.ProxyError) and "only use HTTP" in str(reason):
        return ConfigError(
            f"{label}: {_proxy_name(proxy)} does not speak https: write http://HOST:PORT"
        )
    return None


def _refused_by_proxy(
    label: str, proxy: str | None, status: int, reason: str | None
) -> TaskFSError:
    response = f"{status} {reason or ''}".strip()
    text = f"{label}: {_proxy_name(proxy)} refuses the request ({response})"
    if status == PROXY_AUTHENTICATION:
        return ProxyRefused(
            f"{text}: write its user and password before its host in http_proxy and https_proxy"
        )
    return ProxyRefused(
        f"{text}: have it allow the host, or name the host in no_proxy if it is reached without"
    )


def _proxy_name(proxy: str | None) -> str:
    if not proxy:
        return "a proxy on the way"
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return f"the proxy {parts.netloc.rpartition('@')[2] or '?'}"


def _tls_error(
    label: str, reason: BaseException, url: str, proxy: str | None
) -> TaskFSError | None:
    server = urlsplit(url).netloc.rpartition("@")[2]
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Unreachable(f"{label}: {_certificate_error(server, reason)}")
    if isinstance(reason, ssl.SSLError):
        kind = reason.reason or ""
        if kind in _NO_TLS:
            if proxy and proxy.startswith("https:"):
                server = f"{_proxy_name(proxy)} or {server}"
            return Unreachable(
                f"{label}: {server} does not speak https there: check the port and --api-url"
            )
        if kind in _NO_COMMON_TLS:
            return Unreachable(
                f"{label}: {server} refuses this machine's TLS ({kind.replace('_', ' ').lower()}): "
                "ask its administrator which version or certificate it wants"
            )
    if isinstance(reason, http.client.BadStatusLine) and _TLS_ALERT in str(reason)[:8]:
        return Unreachable(f"{label}: {server} speaks https there: write https:// in --api-url")
    return None


def _certificate_error(server: str, reason: ssl.SSLCertVerificationError) -> str:
    why = reason.verify_message
    if reason.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return f"the certificate of {server} is not valid now ({why}): {_CLOCK_FIX}"
    if reason.verify_code in _WRONG_HOST:
        return f"the certificate of {server} is another host's ({why}): check --api-url"
    return f"the certificate of {server} is not trusted ({why}): {_TRUST_FIX}"


def _name_error(
    label: str, reason: BaseException, url: str, proxy: str | None
) -> TaskFSError | None:
    """Return the error for a host name that does not exist.

    Return None while the network is down, because a resolver may then deny every name.
    """
    if not isinstance(reason, socket.gaierror):
        return None
    # EAI_AGAIN means that the resolver does not answer, so another try may succeed.
    if reason.errno not in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
        return None
    if not _is_network_up():
        return None
    host = urlsplit(url).hostname
    if proxy:
        return Unreachable(
            f"{label}: the name of {_proxy_name(proxy)} does not resolve: check http_proxy, "
            "https_proxy and all_proxy"
        )
    return Unreachable(f"{label}: the name {host} does not resolve: check --api-url and the DNS")


def _is_network_up() -> bool:
    """Whether a default route exists."""
    with contextlib.suppress(OSError):
        for line in IPV4_ROUTES.read_text().splitlines()[1:]:
            interface, destination, _, _, _, _, _, mask, *_ = line.split()
            if interface != "lo" and int(destination, 16) == int(mask, 16) == 0:
                return True
    with contextlib.suppress(OSError):
        for line in IPV6_ROUTES.read_text().splitlines():
            destination, length, *_, interface = line.split()
            if interface != "lo" and int(destination, 16) == int(length, 16) == 0:
                return True
    return False
