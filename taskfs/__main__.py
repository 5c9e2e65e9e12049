"""The program `taskfs`, also as `python -m taskfs`."""

import signal


def run() -> None:
    """Import the command line and run it.

    During the import, Ctrl+C ends the process by the signal, because Python's own handler would
    print a traceback.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # otherwise the parent process ignores SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from taskfs.cli.main import run as run_command

    signal.signal(signal.SIGINT, handler)
    run_command()


if __name__ == "__main__":
    run()
