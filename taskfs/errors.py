"""What can go wrong, as types that know their errno.

Everything that leaves the core is one of these: foreign exceptions are renamed where they enter,
because `requests` errors are `OSError`s without an errno, of which no kernel can be told.
"""

import errno
from typing import ClassVar


class TaskFSError(Exception):
    """A failure of taskfs; `errno` is what the kernel is told."""

    errno: ClassVar[int] = errno.EIO
    is_logged = False  # whether the log has the cause already, so that it is not said again


class NotFound(TaskFSError):
    """The API or the store says there is no such thing."""

    errno = errno.ENOENT


class AccessDenied(TaskFSError):
    """The key is missing, wrong or not allowed to."""

    errno = errno.EACCES


class Unavailable(TaskFSError):
    """No usable answer in time, after retries."""

    errno = errno.ETIMEDOUT


class NotCached(Unavailable):
    """It is not cached, and nobody is to be asked for it."""


class Unreachable(Unavailable):
    """No answer can come, so no further try is made; the text names the fix."""


class ProxyRefused(AccessDenied):
    """A proxy on the way refuses the request; the text names the fix."""


class BadAnswer(TaskFSError):
    """An answer that makes no sense, or a server error that stayed after retries."""

    errno = errno.EIO


class CorruptData(TaskFSError):
    """A checksum or size that does not match, or a damaged archive."""

    errno = errno.EIO


class StaleObject(TaskFSError):
    """The remote object was replaced since it was opened."""

    errno = errno.ESTALE


class Unsupported(TaskFSError):
    """An archive or store feature that cannot be read."""

    errno = errno.EOPNOTSUPP


class ReadOnly(TaskFSError):
    """A change other than those that the tree accepts."""

    errno = errno.EROFS


class AlreadyTerminated(TaskFSError):
    """The task is terminal: there is nothing to kill, as kill(2) says it."""

    errno = errno.ESRCH


class Interrupted(TaskFSError):
    """Whoever waited was interrupted by a signal."""

    errno = errno.EINTR


class NoAttribute(TaskFSError):
    """There is no such extended attribute."""

    errno = errno.ENODATA


class InvalidValue(TaskFSError):
    """A value that the remote side cannot hold."""

    errno = errno.EINVAL


class NotADirectory(TaskFSError):
    """A path goes on beneath a file."""

    errno = errno.ENOTDIR


class IsADirectory(TaskFSError):
    """A directory where a file was needed."""

    errno = errno.EISDIR


class BadHandle(TaskFSError):
    """A file handle that is not open, or not open for this."""

    errno = errno.EBADF


class ConfigError(TaskFSError):
    """A setting that cannot be used; the text names the setting and the fix."""

    errno = errno.EINVAL


class MountError(TaskFSError):
    """The mount cannot be made or unmade; the text names the fix."""

    errno = errno.EIO
