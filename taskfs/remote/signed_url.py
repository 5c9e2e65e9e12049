"""`SignedURL`: the URL of one object, signed by the API and renewed when the store refuses it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future


class SignedURL:
    """The current URL of one object.

    Safe for concurrent use: the lock guards the URL and the renewal in flight, and is not held
    during the renewal. All callers share one renewal, and its failure: if each tried on its own,
    each would wait for a timeout.
    """

    def __init__(self, sign: Callable[[], str]) -> None:
        self._sign = sign
        self._lock = threading.Lock()
        self._url: str | None = None
        self._renewal: Future[str] | None = None

    def get(self, refused: str | None = None) -> str:
        """Return the URL, a new one if there is none yet or if *refused* is the current one."""
        with self._lock:
            if self._url is not None and self._url != refused:
                return self._url
            renewal = self._renewal
            if renewal is None:
                own = self._renewal = Future()
        if renewal is not None:
            return renewal.result()
        try:
            url = self._sign()
        except BaseException as exc:
            with self._lock:
                self._renewal = None
            own.set_exception(exc)
            raise
        with self._lock:
            self._url, self._renewal = url, None
        own.set_result(url)
        return url

    def discard(self) -> None:
        """Have the next `get` return a new URL."""
        with self._lock:
            self._url = None
