"""Ctrl+C ends a script by an exception, so that what it started is ended, and then in one line."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn

INTERRUPTED: Final = 130  # as shells say it of a program that Ctrl+C ended
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CLEANING_S: Final = 5.0


def run(name: str, main: Callable[[], int]) -> NoReturn:
    """Exit with what *main* returns; once interrupted, with 130 and a line that begins with *name*.

    Signals that are ignored, as by nohup, stay ignored.
    """
    interrupt = _Interrupt()
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


class _Interrupt:
    """Raises KeyboardInterrupt, but not while the last one is still seen to: keys repeat."""

    def __init__(self) -> None:
        self._last = -_CLEANING_S

    def __call__(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if now - self._last >= _CLEANING_S:
            self._last = now
            raise KeyboardInterrupt
