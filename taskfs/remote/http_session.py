"""The HTTP session: proxies and certificates from the environment, and no redirects."""

from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.utils import select_proxy

from taskfs.support.loopback import is_loopback

# Origins whose settings are cached: the API, the store and a few redirects.
MAX_ORIGINS: Final = 64
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Origin = tuple[str, str | None, int | None]


def origin_of(url: str) -> Origin:
    """Return scheme, host and port of *url*."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


class HTTPSession(requests.Session):
    """A session that follows no redirects and uses no proxy for loopback addresses.

    Safe for concurrent use: two threads may look up the same settings, with the same result.
    """

    def __init__(self) -> None:
        super().__init__()
        self._settings: dict[Origin, Any] = {}

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None, because `requests` unpacks the body of a redirect even without following."""
        return None

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Return the proxies and certificates that the environment names, cached by origin.

        The lookup takes a quarter of the time of a small request. Loopback addresses have no proxy:
        a proxy cannot reach them, and would see the API key in clear text.
        """
        origin = origin_of(url)
        settings = self._settings.get(origin)
        if settings is None:
            if len(self._settings) >= MAX_ORIGINS:
                self._settings.clear()
            settings = super().merge_environment_settings(url, proxies, stream, verify, cert)
            if is_loopback(origin[1] or ""):
                settings["proxies"] = {}
            self._settings[origin] = settings
        return settings

    def proxy_of(self, url: str) -> str | None:
        """Return the proxy for requests to *url*, None if there is none."""
        settings = self.merge_environment_settings(url, {}, True, None, None)
        return select_proxy(url, settings["proxies"])
