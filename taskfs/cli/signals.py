"""Signals that end a command after its clean-up."""

import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# Added to the number of a signal: the exit status of a command that it ends, as in a shell.
_STATUS: Final = 128
# Seconds until a signal is sent again: long enough to leave the place that swallowed it.
_AGAIN_S: Final = 0.01


def leave(number: int, frame: object) -> None:
    """Handle a signal: raise the SystemExit of a command that it ends."""
    raise SystemExit(_STATUS + number)


def exit_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into SystemExit, so that unfinished files are removed."""
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
        number = _signal_of(unraisable.exc_value)
        if number is None:
            report(unraisable)
            return
        timer = threading.Timer(_AGAIN_S, signal.pthread_kill, (main_thread, number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = repeat


def _signal_of(exc: BaseException | None) -> int | None:
    """Return the signal whose handler has raised *exc*; None for any other exception."""
    if isinstance(exc, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(exc, SystemExit) and isinstance(exc.code, int) and exc.code > _STATUS:
        return exc.code - _STATUS
    return None
