"""Signals that end a command in good order."""

import signal


def exit_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into SystemExit, so that unfinished files are removed."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # keep SIGHUP ignored under nohup
            signal.signal(number, leave)
