"""`Pins`: a text file serves the text whose size was told.

`fstat` never carries a handle and the kernel remembers a size for the attr timeout, while rsync and
tar read exactly the size that they were told. So a `stat` pins the text for that long.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachetools import TTLCache

from taskfs.support.clock import age_clock

MAX_PINS: Final = 100_000
# The kernel starts to count when the answer arrives, a little after we do.
MARGIN_S: Final = 0.1


@dataclass(slots=True)
class Text:
    """A rendered text and the time at which its content last changed.

    `as_of_s` is the time of `age_clock` since which that is known, infinite for what does not age.
    """

    body: bytes
    mtime_ns: int
    as_of_s: float = float("inf")
    reported_s: float = float("-inf")


class Pins:
    """The texts that were told, by path. Safe for concurrent use; rendering runs unlocked."""

    def __init__(
        self,
        attr_timeout_s: float,
        fresh_s: float,
        clock: Callable[[], float] = age_clock,
    ) -> None:
        self._hold_s = attr_timeout_s + MARGIN_S
        self._fresh_s = max(fresh_s, self._hold_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._texts: TTLCache[str, Text] = TTLCache(
            MAX_PINS, self._fresh_s + self._hold_s, timer=clock
        )

    def report(self, path: str, render: Callable[[], Text]) -> Text:
        """Return the text for a `stat`: the one told just now while it is fresh, else a new one."""
        text = self._pinned(path)
        if text is None or self._clock() - text.as_of_s > self._fresh_s:
            text = self._pin(path, render())
        text.reported_s = self._clock()
        return text

    def serve(self, path: str, render: Callable[[], Text]) -> Text:
        """Return the text for an `open`: the one that a `stat` told just now, else a new one."""
        text = self._pinned(path)
        if text is None:
            text = self._pin(path, render())
            text.reported_s = self._clock()  # the fstat that follows an open is told the same
        return text

    def release(self, prefix: str) -> None:
        """Unpin the texts beneath *prefix*: what was told no longer counts."""
        with self._lock:
            for path in [path for path in self._texts if path.startswith(prefix)]:
                self._texts.pop(path, None)  # `del` fails for one that expires at this moment

    def _pinned(self, path: str) -> Text | None:
        with self._lock:
            text: Text | None = self._texts.get(path)
        if text is None or self._clock() - text.reported_s > self._hold_s:
            return None
        return text

    def _pin(self, path: str, text: Text) -> Text:
        text.as_of_s = min(text.as_of_s, self._clock())
        with self._lock:
            self._texts[path] = text
        return text
