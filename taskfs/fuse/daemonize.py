"""Going into the background: the caller returns once the work is live, or with its error."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Final

from taskfs import errors
from taskfs.errors import MountError, TaskFSError
from taskfs.support.redaction import redact

_LIVE: Final = b"+"
_FAILED: Final = "-"
_NOTE: Final = b"?"  # begins a line that precedes the outcome


class Report:
    """The pipe from the background process to its caller: notes, then one outcome.

    Safe for concurrent use: the lock is held while the pipe is written.
    """

    def __init__(self, pipe: int) -> None:
        self._lock = threading.Lock()
        self._pipe: int | None = pipe

    def note(self, text: str) -> None:
        """Have the caller print *text* while it waits."""
        line = " ".join(redact(text).split()).encode("utf-8", "replace")
        with self._lock, contextlib.suppress(OSError):  # the caller was killed
            if self._pipe is not None:
                os.write(self._pipe, _NOTE + line + b"\n")

    def live(self) -> None:
        """Begin a session of its own, and have the caller return with success.

        Raises:
            MountError: the caller was interrupted, so it expects no mount.
        """
        with contextlib.suppress(OSError):  # a process group leader has a session already
            os.setsid()
        try:
            self._send(_LIVE)
        except OSError as exc:
            raise MountError("interrupted before the mount was live") from exc

    def failed(self, exc: TaskFSError) -> None:
        """Have the caller fail with an error of the same type and text."""
        with contextlib.suppress(OSError):  # the caller was killed
            outcome = f"{_FAILED}{type(exc).__name__}:{redact(str(exc))}"
            self._send(outcome.encode("utf-8", "replace"))

    def _send(self, outcome: bytes) -> None:
        with self._lock:
            if self._pipe is None:
                return
            pipe, self._pipe = self._pipe, None
            try:
                os.write(pipe, outcome)
            finally:
                os.close(pipe)


def start(work: Callable[[Report], None], on_note: Callable[[str], object] | None = None) -> None:
    """Run *work* in the background; return once it reports that it is live.

    *on_note* is called with each text that *work* notes meanwhile.

    Must be called before any other thread exists, because it forks. The background process has `/`
    as its directory and /dev/null as descriptors 0 to 2, so that `$(taskfs mount …)` returns. It
    begins its own session only once it is live: an automounter lets the processes of its own group
    pass, and makes all others wait for the mount (autofs in the kernel's documentation).

    Raises:
        MountError, or another TaskFSError: *work* failed with it.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _become_daemon(work, writing)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        outcome = b""
        for line in pipe:
            if outcome or not line.startswith(_NOTE):
                outcome += line
            elif on_note is not None:
                on_note(line[1:-1].decode("utf-8", "replace"))
    if outcome != _LIVE:
        name, _, text = outcome[1:].decode("utf-8", "replace").partition(":")
        kind = getattr(errors, name, MountError)
        raise kind(text or "the background process ended before the mount was live")


def _become_daemon(work: Callable[[Report], None], pipe: int) -> None:
    """Fork again, so that the caller's child can be waited for, and run *work*; never return."""
    status = 1
    report = Report(pipe)
    try:
        if os.fork():
            os._exit(0)
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os.close(null)
        work(report)
        status = 0
    except TaskFSError as exc:
        report.failed(exc)
    except BaseException as exc:
        report.failed(MountError(f"{type(exc).__name__}: {exc}"))
    finally:
        os._exit(status)
