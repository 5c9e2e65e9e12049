"""The HTTP session: what it takes from the environment, and what it does not."""

from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.utils import select_proxy

from taskfs.support.loopback import is_loopback

MAX_ORIGINS: Final = 64
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Origin = tuple[str, str | None, int | None]


def origin_of(url: str) -> Origin:
    """Return scheme, host and port of *url*."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


class HTTPSession(requests.Session):
    """A session that follows no redirect, and that reaches loopback without a proxy.

    Safe for concurrent use: two threads may look up the same settings, with the same result.
    """

    def __init__(self) -> None:
        super().__init__()
        self._settings: dict[Origin, Any] = {}

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, because requests unpacks a redirect's body even if it must not follow."""
        return None

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Return the proxies and certificates that the environment names, looked up once per origin
        because the look-up takes a quarter of a small request's time.

        No proxy reaches the loopback of this machine, and the API key would pass it in clear text.
        """
        origin = origin_of(url)
        known = self._settings.get(origin)
        if known is None:
            if len(self._settings) >= MAX_ORIGINS:
                self._settings.clear()
            known = super().merge_environment_settings(url, proxies, stream, verify, cert)
            if is_loopback(origin[1] or ""):
                known["proxies"] = {}
            self._settings[origin] = known
        return known

    def proxy_of(self, url: str) -> str | None:
        """Return the proxy that requests for *url* go through, None where they go straight."""
        settings = self.merge_environment_settings(url, {}, True, None, None)
        return select_proxy(url, settings["proxies"])
