"""`PrivateFile`, in a module of its own, because `logging.handlers` takes long to import."""

import contextlib
import logging.handlers
import os
import stat
from io import TextIOWrapper


class PrivateFile(logging.handlers.RotatingFileHandler):
    """A log file that only its owner can read."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # a device such as /dev/null is shared
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, 0o600)  # an existing file may have another mode
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")
