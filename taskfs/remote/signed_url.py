"""`SignedURL`: the URL of one object, signed by the API and renewed when the store refuses it.

`SignedBatch` has the first URLs of many objects signed in one request.
"""

import threading
from collections.abc import Callable, Sequence
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


class SignedBatch:
    """The first URLs of several objects, signed in one request when the first of them is needed.

    Safe for concurrent use: the lock guards the request in flight and the paths that were served,
    and is not held during the request.
    """

    def __init__(
        self,
        paths: Sequence[str],
        sign_all: Callable[[Sequence[str]], Sequence[str]],
        sign_one: Callable[[str], str],
    ) -> None:
        self._paths = tuple(paths)
        self._sign_all = sign_all
        self._sign_one = sign_one
        self._lock = threading.Lock()
        self._unserved = set(paths)
        self._request: Future[dict[str, str]] | None = None

    def sign(self, path: str) -> str:
        """Return a URL of the object at *path*: of the batch once, then a new one each time."""
        own = None
        with self._lock:
            if path not in self._unserved:
                request = None
            else:
                self._unserved.remove(path)
                request = self._request
                if request is None:
                    request = own = self._request = Future()
        if request is None:
            return self._sign_one(path)
        if own is not None:
            try:
                own.set_result(dict(zip(self._paths, self._sign_all(self._paths), strict=True)))
            except Exception as exc:
                own.set_exception(exc)
        try:
            return request.result()[path]
        except Exception:  # one path may make the whole batch fail
            return self._sign_one(path)
