"""Capture what C code and its helper programs print on descriptor 2 while a mount is made."""

import contextlib
import os
import sys
from collections.abc import Iterator

from taskfs.errors import MountError
from taskfs.fuse.mount_errors import explain
from taskfs.support.fallback import log_fallback

# Bytes. The last lines of the output hold the reason; libfuse prints a few hundred bytes.
MAX_OUTPUT = 4096


class StderrCapture:
    """Descriptor 2 diverted into a file with no name, from the construction to `stop`.

    A file, because a helper that inherits descriptor 2 may live as long as the mount, and would
    keep a pipe open. `sys.stderr` keeps writing to the original for the rest of the process. One
    thread uses the object; `stop` may be called by another.
    """

    def __init__(self) -> None:
        self._file = _unnamed_file("taskfs-stderr")
        try:
            self._original = os.dup(2)
        except OSError:  # the parent process closed it
            self._original = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        sys.stderr = open(  # noqa: SIM115  # for the rest of the process
            os.dup(self._original), "w", buffering=1, errors="backslashreplace", closefd=False
        )
        os.dup2(self._file, 2)

    def stop(self) -> None:
        """Restore descriptor 2; later calls have no effect."""
        os.dup2(self._original, 2)

    def output(self) -> str:
        """Return the end of what was captured."""
        size = os.fstat(self._file).st_size
        if not size:
            return ""
        last = os.pread(self._file, min(size, MAX_OUTPUT), max(0, size - MAX_OUTPUT))
        return last.decode("utf-8", "replace")

    def close(self) -> None:
        """Stop, and release the descriptors."""
        self.stop()
        os.close(self._original)
        os.close(self._file)


@contextlib.contextmanager
def explain_mount_errors(mountpoint: str) -> Iterator[StderrCapture]:
    """Capture descriptor 2 while the block runs; a MountError of the block then gives its reason.

    Raises:
        MountError: that of the block, with the captured reason and its fix if there is one.
    """
    capture = StderrCapture()
    try:
        yield capture
    except MountError as exc:
        raise MountError(explain(capture.output(), mountpoint) or str(exc)) from exc
    finally:
        capture.close()


def _unnamed_file(name: str) -> int:
    """Return the descriptor of a new empty file that no other process can open.

    If the system refuses to make one, the descriptor is that of /dev/null, which keeps nothing.
    """
    try:
        return os.memfd_create(name)
    except (OSError, AttributeError) as exc:
        log_fallback("memfd_create", exc)
    import tempfile  # importing it slows each start down by milliseconds

    try:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    except OSError as exc:
        log_fallback("a temporary file", exc)
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
