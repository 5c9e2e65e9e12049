"""End a script on Ctrl+C: clean up what it started, then print one line."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import Final, NoReturn

INTERRUPTED: Final = 130  # the exit status that shells give a program ended by SIGINT
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Ignore interrupts for this many seconds after one, so that they do not stop the cleanup.
_CLEANUP_S: Final = 5.0


def run(name: str, main: Callable[[], int]) -> NoReturn:
    """Exit with the status of *main*; after an interrupt, print a line with *name* and exit 130.

    Signals that are ignored, for example by nohup, stay ignored.
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
    """Signal handler that raises KeyboardInterrupt at most once in `_CLEANUP_S`: keys repeat."""

    def __init__(self) -> None:
        self._last = -_CLEANUP_S

    def __call__(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if now - self._last >= _CLEANUP_S:
            self._last = now
            raise KeyboardInterrupt
