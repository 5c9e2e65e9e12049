"""`HeldTexts`: an open serves the text of the last stat or open (T-10).

The kernel remembers a size for the attr timeout, and rsync and tar read exactly that size. So a
stat holds the rendered text for that long, and so does an open, whose size an fstat reports.
"""

import threading
from collections.abc import Callable
from typing import Final, Protocol

from cachetools import TTLCache

from taskfs.support.clock import age_clock

# Texts that are held at once; most have a few bytes. A program that calls stat on more files within
# the attr timeout may read a text of another size.
MAX_TEXTS: Final = 100_000
# Seconds that a text is held beyond the attr timeout. The kernel measures that from the moment when
# it receives the answer: a little later than this process.
MARGIN_S: Final = 0.1


class TextBody(Protocol):
    """The content of a text: its bytes, or an object that renders the parts that are read."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


class Text:
    """A rendered text and when its content last changed.

    `as_of_s` is the time, by `age_clock`, when the content was current; infinite for a text that
    never ages.
    `reported_s` is when a stat last reported its size.
    """

    def __init__(self, body: TextBody, mtime_ns: int, as_of_s: float = float("inf")) -> None:
        self.body = body
        self.mtime_ns = mtime_ns
        self.as_of_s = as_of_s
        self.reported_s = float("-inf")


class HeldTexts:
    """The held texts by path. Safe for concurrent use; the lock is not held while rendering."""

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
            MAX_TEXTS, self._fresh_s + self._hold_s, timer=clock
        )

    def report(self, path: str, render: Callable[[], Text]) -> Text:
        """Return the text for a stat: the held one while it is fresh, else a new one."""
        text = self._held(path)
        if text is None or self._clock() - text.as_of_s > self._fresh_s:
            text = self._hold(path, render())
        text.reported_s = self._clock()
        return text

    def serve(self, path: str, render: Callable[[], Text]) -> Text:
        """Return the text for an open: the held one, else a new one."""
        text = self._held(path)
        if text is None:
            text = self._hold(path, render())
            text.reported_s = self._clock()  # an fstat that follows reports the same
        return text

    def release(self, prefix: str) -> None:
        """Release the texts whose paths begin with *prefix*."""
        with self._lock:
            for path in [path for path in self._texts if path.startswith(prefix)]:
                self._texts.pop(path, None)  # `del` would fail if it expired meanwhile

    def _held(self, path: str) -> Text | None:
        with self._lock:
            text: Text | None = self._texts.get(path)
        if text is None or self._clock() - text.reported_s > self._hold_s:
            return None
        return text

    def _hold(self, path: str, text: Text) -> Text:
        text.as_of_s = min(text.as_of_s, self._clock())
        with self._lock:
            self._texts[path] = text
        return text
