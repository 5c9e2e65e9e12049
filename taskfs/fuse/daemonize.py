"""Going into the background: the caller returns once the work is live, or with its real error."""

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
_NOTE: Final = b"?"  # begins a line that comes before the outcome


class Report:
    """What the background process tells the caller: that it is live, or why not.

    Safe for concurrent use: the lock is held while the pipe is written to.
    """

    def __init__(self, pipe: int) -> None:
        self._lock = threading.Lock()
        self._pipe: int | None = pipe

    def note(self, text: str) -> None:
        """Let the caller say *text* while it waits."""
        line = " ".join(redact(text).split()).encode("utf-8", "replace")
        with self._lock, contextlib.suppress(OSError):  # the caller was killed
            if self._pipe is not None:
                os.write(self._pipe, _NOTE + line + b"\n")

    def live(self) -> None:
        """Let the caller return with success; what follows is nobody's to wait for.

        Raises:
            MountError: there is no caller any more, who was interrupted and expects no mount.
        """
        with contextlib.suppress(OSError):  # a process group's first: it has a session already
            os.setsid()
        try:
            self._send(_LIVE)
        except OSError as exc:
            raise MountError("interrupted before the mount was live") from exc

    def failed(self, exc: TaskFSError) -> None:
        """Let the caller fail with an error of the same type and text."""
        with contextlib.suppress(OSError):  # the caller was killed: there is nobody to tell
            self._send(f"-{type(exc).__name__}:{redact(str(exc))}".encode("utf-8", "replace"))

    def _send(self, answer: bytes) -> None:
        with self._lock:
            if self._pipe is None:
                return
            pipe, self._pipe = self._pipe, None
            try:
                os.write(pipe, answer)
            finally:
                os.close(pipe)


def start(work: Callable[[Report], None], on_note: Callable[[str], object] | None = None) -> None:
    """Run *work* in the background; return once it reports that it is live.

    *on_note* is called with each text that *work* notes meanwhile.

    Called before any thread exists. The background process has `/` as its directory and /dev/null
    as descriptors 0 to 2, so that `$(taskfs mount …)` returns. Once it is live it has its own
    session, and not before: an automounter recognises by the process group that it must not have
    the process wait for the mount that the process is to make (autofs in the kernel's
    documentation).

    Raises:
        MountError, or another of our errors: what *work* reported or failed with.
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
        answer = b""
        for line in pipe:
            if answer or not line.startswith(_NOTE):
                answer += line
            elif on_note is not None:
                on_note(line[1:-1].decode("utf-8", "replace"))
    if answer != _LIVE:
        name, _, text = answer[1:].decode("utf-8", "replace").partition(":")
        kind = getattr(errors, name, MountError)
        raise kind(text or "the background process ended before the mount was live")


def _become_daemon(work: Callable[[Report], None], pipe: int) -> None:
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
