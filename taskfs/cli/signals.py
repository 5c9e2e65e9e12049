"""Signals that end a command after its clean-up."""

import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# The exceptions with which handlers of signals end a command, and these signals.
_ENDS: Final = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
# Seconds until a signal is sent again: long enough to leave the place that swallowed it.
_AGAIN_S: Final = 0.01


def exit_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into SystemExit, so that unfinished files are removed."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # keep SIGHUP ignored under nohup
            signal.signal(number, leave)


def repeat_swallowed_signals() -> None:
    """Send a signal again whose exception Python could only report.

    Callbacks of weak references, which imports have, and `__del__` can raise nothing: Ctrl+C would
    print a traceback there and end nothing.
    """
    report = sys.unraisablehook
    main_thread = threading.get_ident()

    def repeat(unraisable: "UnraisableHookArgs") -> None:
        number = _ENDS.get(unraisable.exc_type)
        if number is None:
            report(unraisable)
            return
        timer = threading.Timer(_AGAIN_S, signal.pthread_kill, (main_thread, number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = repeat
