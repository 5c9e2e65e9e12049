"""The program `taskfs`, also as `python -m taskfs`."""

import gc
import signal
from typing import Final

# Allocations between two collections of the youngest generation (Python's default is 700 to 2000).
# The other numbers are collections of one generation before one of the next. Modules, an archive's
# index (100,000 objects) and most requests make no cycles: frequent collections would take a tenth
# of the start, and cost more than the requests.
GC_THRESHOLDS: Final = (50_000, 20, 20)


def run() -> None:
    """Import the command line and run it.

    During the import, Ctrl+C ends the process by the signal, because Python's own handler would
    print a traceback.
    """
    gc.set_threshold(*GC_THRESHOLDS)
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # otherwise the parent process ignores SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from taskfs.cli.main import run as run_command

    signal.signal(signal.SIGINT, handler)
    run_command()


if __name__ == "__main__":
    run()
