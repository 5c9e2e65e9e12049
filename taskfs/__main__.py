"""The program `taskfs`, which is `python -m taskfs` too."""

import signal


def run() -> None:
    """Import the command line and run it.

    Until it is imported, Ctrl+C ends the process as it ends any other program: Python would print
    where among its imports it was.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # else the caller had SIGINT ignored: it stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from taskfs.cli.main import run as run_command

    signal.signal(signal.SIGINT, handler)
    run_command()


if __name__ == "__main__":
    run()
