"""Going into the background: the caller returns once the work is live, or with its real error."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Final

from taskfs import errors
from taskfs.errors import MountError, TaskFSError
from taskfs.support.redaction import redact

_LIVE: Final = b"+"


class Report:
    """What the background process tells the caller: that it is live, or why not."""

    def __init__(self, pipe: int) -> None:
        self._pipe: int | None = pipe

    def live(self) -> None:
        """Let the caller return with success; what follows is nobody's to wait for.

        Raises:
            MountError: there is no caller any more, who was interrupted and expects no mount.
        """
        try:
            self._send(_LIVE)
        except OSError as exc:
            raise MountError("interrupted before the mount was live") from exc

    def failed(self, exc: TaskFSError) -> None:
        """Let the caller fail with an error of the same type and text."""
        with contextlib.suppress(OSError):  # the caller was killed: there is nobody to tell
            self._send(f"-{type(exc).__name__}:{redact(str(exc))}".encode("utf-8", "replace"))

    def _send(self, answer: bytes) -> None:
        if self._pipe is None:
            return
        pipe, self._pipe = self._pipe, None
        try:
            os.write(pipe, answer)
        finally:
            os.close(pipe)


def start(work: Callable[[Report], None]) -> None:
    """Run *work* in the background; return once it reports that it is live.

    Called before any thread exists. The background process has its own session, `/` as its
    directory and /dev/null as descriptors 0 to 2: the fusermount helper inherits them, and lives
    as long as the mount, so otherwise `$(taskfs mount …)` would never return.

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
        answer = pipe.read()
    if answer != _LIVE:
        name, _, text = answer[1:].decode("utf-8", "replace").partition(":")
        kind = getattr(errors, name, MountError)
        raise kind(text or "the background process ended before the mount was live")


def _become_daemon(work: Callable[[Report], None], pipe: int) -> None:
    status = 1
    report = Report(pipe)
    try:
        os.setsid()
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
