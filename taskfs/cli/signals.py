"""Signals that end a command after its clean-up."""

import signal
import sys
import threading
import time
from types import CodeType
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
        threading.Thread(target=send_again, args=(number,), daemon=True).start()

    def send_again(number: int) -> None:
        time.sleep(_AGAIN_S)
        while _runs(main_thread, repeat.__code__):  # which would swallow the signal, too
            time.sleep(_AGAIN_S)
        signal.pthread_kill(main_thread, number)

    sys.unraisablehook = repeat


def _runs(thread_id: int, code: CodeType) -> bool:
    """Return whether a thread is within a call of the function with this code."""
    frame = sys._current_frames().get(thread_id)
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None


def _signal_of(exc: BaseException | None) -> int | None:
    """Return the signal whose handler has raised *exc*; None for any other exception."""
    if isinstance(exc, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(exc, SystemExit) and isinstance(exc.code, int) and exc.code > _STATUS:
        return exc.code - _STATUS
    return None
